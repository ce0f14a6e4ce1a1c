"""Independent SAC: plain Stable-Baselines3, per task, in a run folder like any other."""

import json
import shutil

import pytest

from agents import MTSAC, NonFiniteError
from agents.algorithms import ALGORITHMS, Algorithm
from scripts import compare, evaluate, plot, train
from scripts.analysis.methods import find_runs, group
from scripts.common.usage import UsageError
from scripts.runs import Run
from scripts.runs.protocol import describe
from scripts.runs.tables import STEP
from scripts.setup.parse import parse_train
from scripts.setup.presets import PRESETS
from scripts.sweeps.request import ARMS
from tests.run_folders import GOALS, TASKS

SHORT = "--steps-per-task 60 --warmup-steps 20 --eval-every 20 --horizon 10 --final-goals 3 --eval-goals 1".split()
SHORT += "--actor-width 8 --critic-width 8 --batch-size 4 --threads 1 --reward-scale 0.5 --log-every 20".split()
SHORT += ["--no-progress"]


def start(path, *flags):
    return train.main(["toy", "--independent", *SHORT, "--run-dir", str(path), *flags])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    assert start(path) == 0
    return path


def test_it_leaves_a_run_that_every_command_reads(finished, tmp_path, capsys):
    run = Run(finished).verified()
    assert run.status == "finished"
    assert run.success_curves()[0].tolist() == [20, 40, 60]
    assert group(find_runs([finished]))[0].label == "independent"
    result = json.loads((finished / "result.json").read_text())
    assert result["evaluation"]["mean"]["episodes"] == 4 * 3
    assert evaluate.main([str(finished), "--episodes", "3", "--json", str(tmp_path / "a.json")]) == 0
    numbers = json.loads((tmp_path / "a.json").read_text())
    assert numbers["tasks"] == result["evaluation"]["tasks"]  # the same actors on the same episodes
    assert compare.main([str(finished)]) == 0
    assert "| independent | 1 | 0 |" in capsys.readouterr().out
    assert plot.main([str(finished), "--kind", "wall-clock"]) == 0


def test_stopped_it_goes_on_as_if_it_had_not(finished, tmp_path, capsys):
    path = tmp_path / "run"
    assert start(path, "--steps-per-task", "30") == 0
    assert train.main(["--resume", str(path), "--steps-per-task", "60", "--no-progress"]) == 0
    later = [[row for row in Run(run).evaluations.read() if int(row[STEP]) > 30] for run in (path, finished)]
    assert later[0] == later[1]


def test_an_algorithm_is_a_class_and_a_row(tmp_path, monkeypatch, capsys):
    """A run of one's own is trained, goes on, acts and is named without another line of code."""
    monkeypatch.setitem(ALGORITHMS, "modest", Algorithm(f"{__name__}:Modest", to_act={"aggregator": "mean"}))
    path = tmp_path / "run"
    words = ["toy", "--algorithm", "modest", *SHORT, "--run-dir", str(path)]
    assert train.main([*words, "--steps-per-task", "40", "--reward-scale", "1"]) == 0
    assert train.main(["--resume", str(path), "--steps-per-task", "60", "--no-progress"]) == 0
    run = Run(path).verified()
    assert type(run.agent()).__name__ == "Modest"
    assert group(find_runs([path]))[0].label == "modest-pcgrad"
    assert evaluate.main([str(path), "--episodes", "1"]) == 0


class Modest(MTSAC):
    """Another algorithm: half the action."""

    def predict(self, *args, **kwargs):
        actions, state = super().predict(*args, **kwargs)
        return actions / 2, state


def test_a_task_that_diverges_is_named(tmp_path):
    path = tmp_path / "run"
    with pytest.raises(NonFiniteError, match="point-1"):
        start(path, "--reward-scale", "1,1e38,1,1", "--steps-per-task", "40")
    assert json.loads((path / "postmortem.json").read_text())["task"] == "point-1"
    assert Run(path).verified().status == "failed"


BAD = {
    "--aggregator pcgrad": "--aggregator: expected 'mean' with --algorithm independent",
    "--multi-head": "--multi-head: expected False",
    "--max-grad-norm 1": "--max-grad-norm: expected 0.0",
    "--overlap": "--overlap: expected False",
    "--precision bfloat16": "--precision: expected 'float32'",
}


@pytest.mark.parametrize(("flags", "message"), BAD.items())
def test_what_plain_sac_has_not_is_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        parse_train(["mt10-quick", "--independent", *flags.split()])


def test_reward_scales_are_one_or_one_per_task(tmp_path):
    with pytest.raises(UsageError, match="one per task"):
        start(tmp_path / "run", "--reward-scale", "1,2")
    assert not list((tmp_path / "run").glob("*.json"))


def test_every_preset_can_be_independent():
    for preset in PRESETS:
        config = parse_train([preset, "--independent", *(["--tasks", "reach-v3"] if preset == "mt1" else [])])
        assert config.algorithm == "independent"
        assert not config.overlap
        assert config.aggregator == "mean"


def test_the_arms_of_a_preset_can_be_compared():
    for preset in PRESETS:
        tasks = ["--tasks", "reach-v3"] if preset == "mt1" else []
        arms = (ARMS[arm].split() for arm in ("mean", "multi-head-pcgrad", "independent"))
        mean, *others = (describe(parse_train([preset, *flags, *tasks]), TASKS, GOALS) for flags in arms)
        assert not any(mean.conflicts(other) for other in others)
        assert {other.env_steps_per_task for other in others} == {mean.env_steps_per_task}


def test_a_run_of_before_shows_its_tables_and_says_what_it_cannot(finished, tmp_path):
    """Until version 0.2 an actor per task lay in tasks/, and the algorithm was called otherwise in config.json."""
    path = shutil.copytree(finished, tmp_path / "run")
    config = json.loads((path / "config.json").read_text())
    del config["algorithm"]
    (path / "config.json").write_text(json.dumps({**config, "independent": True}))
    assert parse_train([str(path / "config.json"), "--seed", "1"]).algorithm == "independent"
    shutil.rmtree(path / "checkpoints")
    (path / "tasks").mkdir()
    assert group(find_runs([path]))[0].label == "independent"
    for call in (lambda: train.main(["--resume", str(path)]), lambda: evaluate.main([str(path)]), Run(path).agent):
        with pytest.raises(UsageError, match="an actor per task in tasks/"):
            call()
