"""The command lines: what good flags mean, and what bad input gets: one clear line, exit code 2, nothing written."""

import json
import sys
from contextlib import closing
from dataclasses import replace

import pytest

import mtrl
from agents import NonFiniteError
from agents.fields import names_of
from envs import WorkerError
from mtrl import AGGREGATORS
from scripts import evaluate, plot, train
from scripts.common import command
from scripts.common.methods import aggregator_kind
from scripts.common.usage import UsageError
from scripts.runs import starting
from scripts.setup import parse
from scripts.setup.build import make_agent, make_env, run_path
from scripts.setup.config import TrainConfig, check
from scripts.setup.parse import parse_train
from scripts.setup.presets import PRESETS
from tests.helpers import exit_code

COMMANDS = {"train": train.main, "evaluate": evaluate.main, "plot": plot.main}


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """The folder where a run would go by default: it must not appear."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


BAD = {
    "no preset": ("train", "", "expected a preset first"),
    "a flag before the preset": ("train", "--seed 1 toy", "python -m scripts.train PRESET --seed 1 toy"),
    "unknown preset": ("train", "mt10-quik", "did you mean mt10-quick"),
    "a name given up": ("train", "toy --aggregator mean-rescaled", "it was another name for 'pcgrad-magnitude'"),
    "unknown aggregator": ("train", "toy --aggregator pcgrat", "did you mean pcgrad"),
    "unknown critic aggregator": ("train", "toy --critic-aggregator meen", "did you mean mean?"),
    "option of another aggregator": ("train", "toy --aggregator mean --aggregator.seed 1", "--aggregator.seed"),
    "aggregator without its name": ("train", "toy --aggregator", "--aggregator"),
    "unknown flag": ("train", "toy --sede 1", "--sede"),
    "unknown suite": ("train", "mt10 --suite MT11", "MT11"),
    "unknown task": ("train", "mt1 --tasks raech-v3", "reach-v3"),
    "a task twice": ("train", "mt10 --tasks reach-v3,push-v3,reach-v3", "every task once"),
    "mt1 without a task": ("train", "mt1", "--tasks reach-v3"),
    "mt1 with two tasks": ("train", "mt1 --tasks reach-v3,push-v3", "one task"),
    "no steps": ("train", "toy --steps-per-task 0", "--steps-per-task: expected at least 1; found 0"),
    "negative steps": ("train", "toy --steps-per-task -5", "found -5"),
    "steps that are no number": ("train", "toy --steps-per-task many", "many"),
    "no rows": ("train", "toy --batch-size 0", "--batch-size: expected at least 1; found 0"),
    "negative rows": ("train", "toy --batch-size -1", "found -1"),
    "negative workers": ("train", "toy --workers -1", "--workers: expected auto, 0 or more; found -1"),
    "more workers than tasks": ("train", "toy --workers 9", "9"),
    "no threads": ("train", "toy --threads 0", "--threads"),
    "more episodes than goals": ("train", "toy --goals 5", "at most --goals (5)"),
    "horizon": ("train", "mt10 --horizon 501", "at most 500"),
    "training horizon": ("train", "mt10 --train-horizon 501", "--train-horizon: expected at most --horizon (500)"),
    "longer training than horizon": ("train", "toy --train-horizon 30", "expected at most --horizon (25), or training"),
    "negative training horizon": ("train", "mt10 --train-horizon -1", "to 500; found -1"),
    "no environments": ("train", "toy --envs-per-task 0", "--envs-per-task: expected at least 1; found 0"),
    "popart with one head": ("train", "toy --return-scale popart", "needs multi_head"),
    "two scales": ("train", "toy --return-scale brc --reward-scale 0.1", "undoes any reward_scale"),
    "popart and bins": ("train", "toy --return-scale popart --multi-head --critic-head c51", "take 'brc' with it"),
    "brc without an end": ("train", "toy --return-scale brc --gamma 1", "gamma must be below 1"),
    "a floor without a ceiling": ("train", "toy --ent-coef 0.1 --ent-coef-min 0.01", "ent_coef_min is for learned"),
    "difference to nothing": ("train", "toy --diff", "--diff: expected a preset"),
    "difference to no preset": ("train", "toy --diff mt11", "did you mean mt1 or mt10"),
    "temperature": ("train", "toy --ent-coef auto_0", "--ent-coef"),
    "reward scales": ("train", "toy --reward-scale 1,2", "one per task"),
    **{
        f"{flag} {value}": ("train", f"toy --{flag} {value}", f"--{flag}: expected")
        for flag, value in [
            ("reward-scale", "inf"),
            ("reward-scale", "1,nan,1,1"),
            ("ent-coef", "inf"),
            ("ent-coef", "auto_inf"),
            ("target-entropy", "nan"),
            ("learning-rate", "inf"),
            ("learning-rate", "nan"),
            ("max-grad-norm", "nan"),
            ("max-grad-norm", "inf"),
            ("adam-eps", "inf"),
            ("weight-decay", "-1"),
            ("ent-coef-min", "inf"),
            ("v-max", "0"),
            ("bins", "1"),
            ("n-steps", "0"),
            ("policy-delay", "0"),
            ("n-critics", "0"),
            ("reset-at", "200,100"),
        ]
    },
    "more than fits in memory": ("train", "toy --buffer-size 1000000000000", "--buffer-size: expected a replay buffer"),
    "a file on the way": ("train", "toy --run-dir thesis.txt/runs/x", "expected a run folder that can be made"),
    "a file for a run": ("train", "toy --run-dir thesis.txt", "expected a run folder that can be made"),
    "a folder that takes nothing": ("train", "toy --run-dir /proc/run", "expected a run folder that can be made"),
    "gamma": ("train", "toy --gamma nan", "--gamma: expected between 0 and 1; found nan"),
    "resume nothing": ("train", "--resume no/such/run", "found nothing"),
    "evaluate nothing": ("evaluate", "no/such/run", "found nothing"),
    "evaluate without a run": ("evaluate", "", "required"),
    "plot nothing": ("plot", "no/such/run", "found nothing"),
    "plot without a run": ("plot", "", "expected at least one run folder"),
}


@pytest.mark.parametrize(("command", "flags", "message"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_clear_line_and_exit_code_2(command, flags, message, nowhere, monkeypatch, capsys):
    nowhere.with_name("thesis.txt").write_text("do not touch")
    assert exit_code(monkeypatch, COMMANDS[command], flags.split()) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert [path.name for path in nowhere.parent.iterdir()] == ["thesis.txt"]


def test_a_run_folder_is_refused_before_environments_are_built(nowhere, monkeypatch):
    monkeypatch.setattr(starting, "make_env", lambda *_: pytest.fail("built"))
    nowhere.write_text("a file")
    assert exit_code(monkeypatch, train.main, ["toy"]) == 2


@pytest.mark.parametrize("flags", [["toy"], ["toy", "--run-dir", "a/b/c"]])
def test_ctrl_c_while_environments_are_built_ends_in_one_line_and_leaves_nothing(flags, nowhere, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(starting, "make_env", interrupted)
    assert exit_code(monkeypatch, train.main, flags) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert not list(nowhere.parent.iterdir())


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("x.foo", r"\.png, \.pdf, \.svg; found the ending '\.foo'"),
        ("", "found a folder"),
        ("no/x.png", "no folder"),
        (".png", "nothing before the ending"),
    ],
)
def test_pictures_have_known_endings(out, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        plot.picture_path(tmp_path / out)


def test_a_picture_without_an_ending_is_a_png(tmp_path):
    assert plot.picture_path(tmp_path / "x") == tmp_path / "x.png"
    assert plot.picture_path(tmp_path / "x.svg") == tmp_path / "x.svg"


def test_cuda_without_cuda(nowhere, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert exit_code(monkeypatch, train.main, ["toy", "--device", "cuda"]) == 2
    assert "Use --device cpu or auto" in capsys.readouterr().err
    assert not nowhere.exists()


def test_run_folder_that_is_not_empty(tmp_path, monkeypatch, capsys):
    (tmp_path / "thesis.txt").write_text("do not touch")
    assert exit_code(monkeypatch, train.main, ["toy", "--run-dir", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("command", COMMANDS)
def test_foreign_folder(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "thesis.txt").write_text("not a run")
    flags = ["--resume", str(tmp_path)] if command == "train" else [str(tmp_path)]
    assert exit_code(monkeypatch, COMMANDS[command], flags) == 2
    assert "without config.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("expected a, found b"), 2),
        (NonFiniteError("reach-v3", "critic loss", 7), 3),
        (WorkerError("worker 1 (reach-v3) died"), 4),
    ],
)
def test_errors_that_teach_end_without_a_traceback(error, code, monkeypatch, capsys):
    def main(argv):
        raise error

    assert exit_code(monkeypatch, main, []) == code
    printed = capsys.readouterr().err
    assert printed == f"error: {error}\n"


def test_bugs_keep_their_traceback(monkeypatch):
    def main(argv):
        raise KeyError("a bug")

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(KeyError):
        command.run(main)


# --------------------------------------------------------------------------------------------------- good input
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid_and_survive_json(preset):
    flags = [preset, "--tasks", "reach-v3"] if preset == "mt1" else [preset]
    config = parse.parse_train(flags)
    assert config.preset == preset
    check(config)
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_a_name_that_was_given_up_is_no_choice():
    with pytest.raises(UsageError, match=r"choose one of aligned_mtl, cagrad(?!.*mean-rescaled)"):
        aggregator_kind("x")


def test_aggregator_options_come_from_the_constructor():
    config = parse.parse_train("toy --aggregator.reduction sum --aggregator=pcgrad --critic-aggregator mean".split())
    assert config.aggregator_options == {"reduction": "sum", "seed": 0}
    assert config.critic_aggregator_options == {"reduction": "mean"}


def test_an_aggregator_that_draws_follows_the_seed_of_the_run():
    assert parse.parse_train("toy --seed 5".split()).aggregator_options["seed"] == 5
    assert parse.parse_train("toy --seed 5 --aggregator.seed 0".split()).aggregator_options["seed"] == 0


def test_lists_are_comma_separated():
    config = parse.parse_train("mt10 --tasks reach-v3,push-v3 --reward-scale 1,0.5".split())
    assert config.tasks == ("reach-v3", "push-v3")
    assert config.reward_scale == (1.0, 0.5)


def test_STEPS_makes_a_trial_unless_the_length_is_asked_for(monkeypatch):
    preset = parse.parse_train(["mt10"])
    assert not preset.trial
    monkeypatch.setenv("STEPS", "7000")
    assert parse.parse_train(["mt10"]) == replace(preset, steps_per_task=7000, trial=True)
    for words in ("mt10 --steps-per-task 9000", "mt10 --steps_per_task=9000"):
        assert parse.parse_train(words.split()) == replace(preset, steps_per_task=9000)
    assert parse.Resume("run", {"steps_per_task": 9_000_000}).apply(preset).steps_per_task == 9_000_000


def test_a_run_goes_on_with_other_loggers():
    """They are a setting of the machine: a sweep may find them changed, and they make no other method."""
    assert parse.parse_train(["--resume", "run", "--loggers", "csv"]).changes == {"loggers": ("csv",)}
    assert "loggers" in names_of(TrainConfig, "machine")


def test_STEPS_below_one_episode_shortens_the_episodes_too(monkeypatch):
    monkeypatch.setenv("STEPS", "40")
    config = parse.parse_train(["mt10"])
    assert (config.steps_per_task, config.horizon, config.warmup_steps, config.final_goals) == (40, 40, 20, 1)
    check(config)


def test_STEPS_that_is_no_number(nowhere, monkeypatch, capsys):
    monkeypatch.setenv("STEPS", "few")
    assert exit_code(monkeypatch, train.main, ["toy"]) == 2
    assert "STEPS: expected a number" in capsys.readouterr().err


def test_help_without_a_preset_lists_presets_and_aggregators(capsys):
    assert train.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*PRESETS, *AGGREGATORS, "--resume"))


def test_help_of_a_preset_documents_every_flag(capsys):
    with pytest.raises(SystemExit) as end:
        train.main(["toy", "--help"])
    printed = capsys.readouterr().out
    assert end.value.code == 0
    assert all(flag in printed for flag in ("--steps-per-task", "--run-dir", "--aggregator.reduction", "default: 2000"))


OWN_METHOD = """
from mtrl import Mean

class Mine(Mean):
    \"\"\"Half the mean.

    :param strength: of it.
    \"\"\"

    def __init__(self, reduction="mean", strength: float = 0.5) -> None:
        super().__init__(reduction)
        self.strength = strength
"""


def test_a_method_of_ones_own_by_its_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN_METHOD)
    config = parse_train(["toy", "--aggregator", f"{path}:Mine", "--aggregator.strength", "0.25"])
    assert config.aggregator_options == {"reduction": "mean", "strength": 0.25}
    assert run_path(config).name == "toy-mine-py-Mine-seed0"
    path.write_text(OWN_METHOD + "\n\nclass Plain(Mean):\n    def __init__(self):\n        super().__init__()\n")
    assert parse_train(["toy", "--aggregator", f"{path}:Plain"]).aggregator_options == {}
    with pytest.raises(UsageError, match="Other"):
        parse_train(["toy", "--aggregator", f"{path}:Other"])
    with pytest.raises(UsageError, match=r"nowhere\.py"):
        parse_train(["toy", "--aggregator", "nowhere.py:Mine"])


def test_a_method_of_torchjd_by_its_name():
    pytest.importorskip("torchjd")
    assert parse_train(["toy", "--aggregator", "torchjd:UPGrad"]).aggregator == "torchjd:UPGrad"
    with pytest.raises(UsageError, match="NoSuch"):
        parse_train(["toy", "--aggregator", "torchjd:NoSuch"])


def test_diff_shows_every_setting_that_differs_and_trains_nothing(nowhere, capsys):
    assert parse.parse_train("mt10-quick --aggregator mean --gamma 0.5 --diff mt10".split()) is None
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip().startswith("--")]
    shown = {flag.removeprefix("--").replace("-", "_"): values for flag, *values in rows}
    assert shown["gamma"] == ["0.5", "0.99"]
    assert shown["aggregator"] == ["mean", "pcgrad"]
    ours, theirs = PRESETS["mt10-quick"].config.to_json(), PRESETS["mt10"].config.to_json()
    different = {name for name in ours if ours[name] != theirs[name]}
    assert shown.keys() == (different - {"preset"}) | {
        "aggregator",
        "aggregator.seed",
        "gamma",
    }  # the mean draws nothing


DIFFERENCES = {  # flags -> the rows of the difference to the preset they begin from
    "toy --aggregator cagrad --aggregator.c 0.3": {
        "--aggregator": ["cagrad", "pcgrad"],
        "--aggregator.c": ["0.3", "-"],
        "--aggregator.rescale": ["True", "-"],
        "--aggregator.seed": ["-", "0"],
    },
    "toy --aggregator.reduction sum": {"--aggregator.reduction": ["sum", "mean"]},
    "toy --critic-aggregator mean": {
        "--critic-aggregator": ["mean", "-"],
        "--critic-aggregator.reduction": ["mean", "-"],
    },
    "toy": {},
    "mt1 --tasks reach-v3": {"--tasks": ["reach-v3", "-"]},
}


@pytest.mark.parametrize(("words", "expected"), DIFFERENCES.items())
def test_diff_shows_the_options_of_aggregators(words, expected, nowhere, monkeypatch, capsys):
    monkeypatch.setenv("STEPS", "7")  # which is no setting
    preset = words.split()[0]
    assert parse.parse_train([*words.split(), "--diff", preset]) is None
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if line.strip().startswith("--")]
    assert {flag: values for flag, *values in rows} == expected
    assert expected or f"no difference to {preset}" in printed


def test_a_shorter_horizon_takes_the_presets_training_horizon_with_it():
    assert parse.parse_train(["mt10-quick"]).train_horizon == 200
    assert parse.parse_train("mt10-quick --horizon 200".split()).train_horizon == 200
    assert parse.parse_train("mt10-quick --horizon 150".split()).train_horizon == 0


def test_actor_and_critic_take_aggregators_of_their_own():
    config = parse.parse_train("toy --aggregator cagrad --aggregator.c 0.3 --actor-aggregator mean".split())
    with closing(make_env(config, 50)) as env:
        agent = make_agent(config, env)
    assert type(agent.aggregator) is mtrl.Mean
    assert type(agent.critic_aggregator) is mtrl.CAGrad
    assert agent.critic_aggregator.c == 0.3


@pytest.mark.parametrize("flag", ["aggregator", "actor-aggregator", "critic-aggregator"])
def test_an_aggregators_own_seed_is_its_own(flag):
    config = parse.parse_train(f"toy --{flag} pcgrad --{flag}.seed 7 --seed 3".split())
    assert getattr(config, f"{flag.replace('-', '_')}_options")["seed"] == 7
