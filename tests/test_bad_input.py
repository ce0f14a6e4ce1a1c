"""Wrong commands, run folders and calls: each gets a message that teaches, never a traceback, and writes nothing.

The commands of train, evaluate and plot have more such rows in scripts/test_cli.py, run folders in
scripts/test_run_folder.py; those here are the rest.
"""

import contextlib
import importlib
import json
import os
import shutil
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
import envs.toy
import mtrl
from agents import MTSAC, StateFileError, evaluate, latest_checkpoint, load_checkpoint
from scripts import train
from scripts.common import command
from scripts.common.usage import UsageError, check_output
from scripts.runs import Run
from scripts.setup.config import TrainConfig, check
from scripts.setup.presets import PRESETS
from tests.helpers import toy_agent

COMMANDS = [  # a command line, and what it answers on the way to exit code 2; RUN is a finished run
    ("train toy --resume RUN", "Unrecognized options: toy"),
    ("train --resume", "--resume"),
    ("train --resume RUN", "Extend it with --steps-per-task"),
    ("train --resume RUN --steps-per-task 0", "--steps-per-task: expected at least 1; found 0"),
    ("train --resume RUN --steps-per-task 10", "--steps-per-task: expected more than the"),
    ("train --resume RUN --steps-per-task 60 --workers 9", "found 9"),
    (
        "train --resume RUN --steps-per-task 60 --learning-rate -1",
        "--learning-rate: expected more than 0, or linear:3e-4",
    ),
    ("train --resume RUN --steps-per-task 60 --max-grad-norm nan", "--max-grad-norm"),
    ("train --resume RUN --steps-per-task 60 --device cuda", "Use --device cpu or auto"),
    ("train --resume RUN --seed 1", "--seed"),
    ("train --resume RUN/config.json", "found a file"),
    ("train --resume RUN/checkpoints", "a folder without config.json"),
    ("train toy --run-dir RUN", "or go on with that run: --resume"),
    ("train toy --aggregator uncertainty", "the actor's aggregator: expected one for losses of any sign"),
    ("train toy --aggregator mean --actor-aggregator gls:pcgrad", "the actor's aggregator: expected one for losses"),
    ("train toy --tasks point-0,point-7", "point-0, point-1, ... in order"),
    ("train toy --seed -1", "--seed: expected 0 or more; found -1"),
    ("train toy --seed 5000000000", "a seed of 0 to 2**32 - 1"),
    ("train toy --seed 1.5", "1.5"),
    ("train toy --horizon 0", "--horizon: expected at least 1"),
    ("train toy --tau 0", "--tau: expected more than 0"),
    ("train toy --gamma 1.1", "--gamma: expected between 0 and 1; found 1.1"),
    ("train toy --actor-width 0", "--actor-width: expected at least 1"),
    ("train toy --critic-depth -2", "--critic-depth: expected at least 1"),
    ("train toy --keep-checkpoints 0", "--keep-checkpoints: expected at least 1"),
    ("train toy --eval-every -1", "--eval-every: expected 0 or more"),
    ("train toy --precision float8", "float8"),
    ("train toy --overlap maybe", "maybe"),
    ("train toy --aggregator cagrad --aggregator.c -1", "-1"),
    ("train toy --aggregator cagrad --aggregator.c much", "much"),
    ("train toy --aggregator nowhere.py:Mine", "nowhere.py"),
    ("train toy --aggregator torchjd:Nothing", "Nothing"),
    ("train toy --critic-aggregator mean --critic-aggregator.c 1", "--critic-aggregator.c"),
    ("train toy --actor-torso paco --experts 9", "--experts: expected at most 4, the number of tasks"),
    ("train toy --log-std-min 3", "--log-std-max: expected more than log_std_min=3.0"),
    ("train toy --track sacred", "unknown logger 'sacred'"),
    ("train toy --track", "--track: expected trackers"),
    ("train toy --track ,", "unknown logger ''"),
    ("train mt10 --tasks ,", "names separated by commas"),
    ("sweep toy --seeds 0-2", "expected whole numbers"),
    ("train mt10 --reward-scale 1;2", "expected numbers"),
    ("train mt1 --tasks reach-v2", "reach-v3"),
    ("train mt10 --reward-version v3", "v3"),
    ("train mt10 --goals 51", "1 to 50"),
    ("evaluate RUN --episodes 0", "--episodes: expected 1 to 50"),
    ("evaluate RUN --workers -1", "-1"),
    ("evaluate RUN --json no/such/folder/x.json", "there is no folder"),
    ("evaluate RUN --json RUN/result.json", "--json: expected a file besides those of the run in RUN"),
    ("compare RUN --out RUN/evaluations.md", "found RUN/evaluations.csv, which is its own"),
    ("triad --out RUN/metrics.png", "found RUN/metrics.csv, which is its own"),
    ("evaluate RUN --device gpu", "gpu"),
    ("evaluate RUN RUN", "RUN"),
    ("plot RUN --out x.gif", ".png, .pdf, .svg; found the ending '.gif'"),
    ("plot RUN thesis.txt", "found a file"),
    ("record", "required"),
    ("record no/such/run", "found nothing"),
    ("record RUN", "those of toy have nothing to see"),
    ("doctor mt11", "unknown preset 'mt11'"),
    ("doctor toy --steps 10", "--steps: expected at least 50"),
    ("doctor mt1", "--tasks"),
    ("doctor mt10 --tasks reach-v3,reach-v3", "every task once"),
    ("triad --tasks reach-v3", "expected two task names, found 1"),
    ("triad --updates 0", "--updates: expected at least 1"),
    ("triad --preset none", "unknown preset 'none'"),
    ("sweep toy --flags=--print-preset", "expected flags that the sweep leaves free; found --print-preset"),
    ("sweep toy --out thesis.txt", "--out: expected a folder that can be made; found: [Errno 20] Not a directory"),
    ("share RUN --to thesis.txt/agent", "expected another path; found: [Errno 20] Not a directory"),
    ("toy2d --steps 0", "--steps: expected at least 1"),
    ("toy2d --aggregators meen", "meen"),
    ("toy2d --learning-rate nan", "--learning-rate"),
    ("supervised digits --architectures mlp", "mlp"),
    ("supervised digits --seeds 0", "--seeds: expected at least 1"),
    ("bench --parts everything", "everything"),
    ("bench --rounds 0", "--rounds"),
    ("bench --suite MT11", "MT11"),
]


def toy_env(**options):
    return envs.toy.make(num_tasks=2, seed=0, **options)


class Wide(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2, 2))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))


CALLS = {  # a call, and the message of its ValueError, TypeError or FileNotFoundError
    "unknown suite": (lambda run: envs.make("MT11", 0), "did you mean MT1"),
    "custom without tasks": (lambda run: envs.make("custom", 0), "expects task names"),
    "negative seed": (lambda run: envs.make("toy", -1), "expected seed to be a whole number from 0 to"),
    "workers by another name": (lambda run: envs.make("toy", 0, workers="many"), "found 'many'"),
    "goals of another task": (
        lambda run: envs.make("custom", 0, tasks=["reach-v3"], goals={"push-v3": np.zeros((1, 6))}),
        "none for reach-v3",
    ),
    "goals that are no vectors": (
        lambda run: envs.make("custom", 0, tasks=["reach-v3"], goals={"reach-v3": np.zeros(6)}),
        "finite goals of shape",
    ),
    "goals that are NaN": (
        lambda run: envs.make("custom", 0, tasks=["reach-v3"], goals={"reach-v3": np.full((1, 6), np.nan)}),
        "finite goals",
    ),
    "no environments": (lambda run: envs.from_gymnasium([], []), "a different name for each environment"),
    "one name twice": (lambda run: envs.from_gymnasium([Wide, Wide], ["a", "a"]), "a different name"),
    "an environment for a factory": (
        lambda run: envs.from_gymnasium([Wide()], ["a"]),
        "a: expected a function that makes an environment, such as lambda: gymnasium.make(name); found Wide",
    ),
    "a factory of nothing": (
        lambda run: envs.from_gymnasium([lambda: None], ["a"]),
        "a: expected the function to return a gymnasium.Env; found NoneType",
    ),
    "pictures": (lambda run: envs.from_gymnasium([Wide], ["a"]), "one-dimensional Box"),
    "actions of another shape": (lambda run: toy_env().step_async(np.zeros((3, 2))), "actions of shape"),
    "state of other tasks": (
        lambda run: toy_env().set_state({"task_names": ["x"], "tasks": []}),
        "expected the state of point-0, point-1",
    ),
    "unknown aggregator": (lambda run: toy_agent(aggregator="pcgrat"), "pcgrat"),
    "option of another": (lambda run: toy_agent(aggregator_kwargs={"c": 1}), "has no option c"),
    "no rows": (lambda run: toy_agent(batch_size=0), "batch_size: expected at least 1; found 0"),
    "no rate": (lambda run: toy_agent(learning_rate=0.0), "learning_rate: expected more than 0, or linear:3e-4"),
    "a schedule nobody knows": (lambda run: toy_agent(learning_rate="cosine:1"), "or linear:3e-4, a schedule"),
    "scales for three": (lambda run: toy_agent(reward_scale=[1.0, 2.0, 3.0]), "one per task"),
    "a network of nothing": (
        lambda run: toy_agent(policy_kwargs={"actor_width": 0}),
        "actor_width: expected at least 1; found 0",
    ),
    "a setting of networks misspelled": (
        lambda run: toy_agent(policy_kwargs={"actor_widht": 8}),
        "has no setting 'actor_widht'; did you mean actor_width?",
    ),
    "a setting of Stable-Baselines3's networks": (
        lambda run: toy_agent(policy_kwargs={"net_arch": [8, 8]}),
        "has no setting 'net_arch'; it has actor_width, actor_depth",
    ),
    "a setting misspelled at load": (
        lambda run: MTSAC.load(newest(run), policy_kwargs={"multihead": True}),
        "'multihead'; did you mean multi_head?",
    ),
    "no file": (lambda run: MTSAC.load("nowhere"), "no file nowhere.zip"),
    "a folder for a file": (lambda run: MTSAC.load(run), "no file"),
    "a text for a file": (lambda run: MTSAC.load(text_zip(run)), "not one of our files"),
    "other tasks": (
        lambda run: load_checkpoint(latest_checkpoint(run / "checkpoints"), toy_env()),
        "the environment has",
    ),
    "a run for a checkpoint": (lambda run: load_checkpoint(run, toy_env()), "no file"),
    "changes that do not fit": (
        lambda run: MTSAC.load(newest(run), gamma=2.0),
        "gamma: expected between 0 and 1; found 2.0",
    ),
    "parts of a save": (lambda run: toy_agent().save("x", exclude=["policy"]), "no optional parts"),
    "an agent without tasks": (lambda run: toy_agent().set_env(envs.toy.make(3)), "built for the tasks"),
    "no losses": (lambda run: mtrl.make_aggregator("mean", no=1), "has no option 'no'"),
    "a schedule of text": (lambda run: toy_agent(learning_rate="linear:x"), "x"),
    "a config from elsewhere": (lambda run: TrainConfig.from_json({"seed": 1}), "missing or unknown"),
}


def newest(run):
    return latest_checkpoint(run / "checkpoints") / "agent.zip"


def text_zip(run):
    (run / "text.zip").write_text("thesis")
    return run / "text.zip"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    flags = "--steps-per-task 50 --warmup-steps 10 --final-goals 1 --eval-goals 1 --eval-every 0 --no-progress"
    sizes = "--actor-width 8 --critic-width 8 --batch-size 4"
    assert train.main(["toy", *flags.split(), *sizes.split(), "--run-dir", str(path)]) == 0
    return path


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A finished run in a folder of its own, which is also where the command is given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "thesis.txt").write_text("do not touch")
    return shutil.copytree(finished, tmp_path / "RUN")


def contents(folder):
    return {path: path.is_file() and path.read_bytes() for path in Path(folder).rglob("*")}


def test_there_are_enough():
    assert len(COMMANDS) + len(CALLS) >= 90


@pytest.mark.parametrize(("line", "message"), COMMANDS, ids=[line for line, _ in COMMANDS])
def test_a_wrong_command_gets_a_message_and_writes_nothing(line, message, run, monkeypatch, capsys):
    name, *flags = line.split()
    module = importlib.import_module(f"scripts.{name}{'.__main__' if name == 'bench' else ''}")
    before = contents(run.parent)
    monkeypatch.setattr(sys, "argv", [name, *flags])
    with pytest.raises(SystemExit) as end:
        command.run(module.main)
    printed = capsys.readouterr()
    assert end.value.code == 2, printed
    assert message in " ".join(printed.err.replace("│", " ").split())
    assert contents(run.parent) == before


@pytest.mark.parametrize(("call", "message"), CALLS.values(), ids=CALLS)
def test_a_wrong_call_gets_a_message(call, message, run):
    with pytest.raises((ValueError, TypeError, FileNotFoundError)) as told:
        call(run)
    assert message in str(told.value)


def test_no_device_is_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "lost").symlink_to("nowhere")
    for name in ("pipe", "lost"):
        with pytest.raises(UsageError, match="expected a new or a plain file"):
            check_output("--json", tmp_path / name)


def test_evaluate_before_reset_and_after_close():
    env = toy_env()
    env.close()
    with pytest.raises(RuntimeError, match="found a closed one"):
        evaluate(toy_agent(), env, 1)


# ------------------------------------------------------------------------------------------------------- hypothesis
scalars = st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.text(max_size=3)
anything = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.text(max_size=2), scalars, max_size=2)


@settings(max_examples=100)
@given(name=st.sampled_from(sorted(TrainConfig().to_json())), value=anything, preset=st.sampled_from(sorted(PRESETS)))
def test_a_config_with_any_value_is_taken_or_told(name, value, preset):
    values = PRESETS[preset].config.to_json() | {name: value, "preset": preset}
    with contextlib.suppress(ValueError):
        config = TrainConfig.from_json(values)
        check(config)
        assert TrainConfig.from_json(config.to_json()) == config or value != value


@given(data=st.data(), name=st.sampled_from(["config.json", "protocol.json", "goals.npz", "evaluations.csv"]))
def test_a_run_with_any_damage_is_opened_or_told(data, name, finished):
    path = finished / name
    whole = path.read_bytes()
    place, worse = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.binary(max_size=6))
    path.write_bytes(whole[:place] + worse + whole[place + data.draw(st.integers(0, 6)) :])
    try:
        with contextlib.suppress(UsageError):
            run = Run(finished).verified()
            run.success_curves()
            run.newest_checkpoint()
    finally:
        path.write_bytes(whole)


def test_a_run_whose_logger_is_not_there_any_more_is_told_so(run, monkeypatch, capsys):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"loggers": ["csv", "sacred"]}))
    monkeypatch.setattr(sys, "argv", ["train", "--resume", str(run), "--steps-per-task", "60"])
    with pytest.raises(SystemExit) as end:
        command.run(train.main)
    assert end.value.code == 2
    assert "unknown logger 'sacred'" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_an_error_of_the_user_too(run, monkeypatch, capsys):
    for file in run.glob("checkpoints/*/agent.zip"):
        file.write_bytes(b"thesis")
    with pytest.raises(StateFileError):
        latest_checkpoint(run / "checkpoints")
    monkeypatch.setattr(sys, "argv", ["train", "--resume", str(run), "--steps-per-task", "60"])
    with pytest.raises(SystemExit) as end:
        command.run(train.main)
    assert end.value.code == 2
    assert "is damaged: agent.zip" in capsys.readouterr().err
