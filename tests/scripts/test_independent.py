"""Independent SAC: plain Stable-Baselines3, per task, in a run folder like any other."""

import json
import os
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from stable_baselines3 import SAC

import envs
from agents import NonFiniteError
from envs.signals import STOP_SIGNALS
from envs.toy import PointReach
from scripts import compare, evaluate, plot, train
from scripts.analysis.methods import find_runs, group
from scripts.common.usage import UsageError
from scripts.runs import Run, independent, plain_sac
from scripts.setup.parse import parse_train
from scripts.setup.presets import PRESETS
from tests.helpers import tensors

SHORT = "--steps-per-task 60 --warmup-steps 20 --eval-every 20 --horizon 10 --final-goals 3 --eval-goals 1".split()
SHORT += "--actor-width 8 --critic-width 8 --batch-size 4 --no-progress --threads 1 --reward-scale 0.5".split()


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


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_stopped_in_its_last_evaluation_it_goes_on_with_that(number, finished, tmp_path, monkeypatch, capsys):
    copy, whole = shutil.copytree(finished, tmp_path / "copy"), independent.evaluate
    (copy / "result.json").unlink()

    def stopped(*args):
        os.kill(os.getpid(), number)
        return whole(*args)

    words = ["--resume", str(copy), "--no-progress"]
    with monkeypatch.context() as patch:
        patch.setattr(independent, "evaluate", stopped)
        for _ in range(2):
            assert train.main(words) == 128 + number
            assert Run(copy).verified().status == "unfinished"
    assert f"python -m scripts.train --resume {copy}" in capsys.readouterr().out
    assert train.main(words) == 0
    assert (copy / "evaluations.csv").read_text() == (finished / "evaluations.csv").read_text()
    with pytest.raises(UsageError, match="has done all of them"):
        train.main(words)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_task_is_learned_by_stable_baselines3_as_anyone_would_call_it(finished, layer_norm, tmp_path):
    path = finished
    if layer_norm:
        path = tmp_path / "norm"
        start(path, "--actor-layer-norm", "--critic-layer-norm", "--steps-per-task", "40")
    run = Run(path).verified()
    seed = independent._seed_of(run.config, 2)
    env = envs.from_gymnasium([partial(PointReach, 2, 4, horizon=10)], ["point-2"], seed)
    activation = (lambda: torch.nn.Sequential(torch.nn.LayerNorm(8), torch.nn.ReLU())) if layer_norm else torch.nn.ReLU
    sac = SAC(
        "MlpPolicy", plain_sac.RewardScale(env, 0.5), learning_rate=1e-3, buffer_size=2000, learning_starts=20,
        batch_size=4, tau=0.02, gamma=0.9, seed=seed, device="cpu",
        policy_kwargs={"net_arch": [8, 8], "activation_fn": activation, "optimizer_kwargs": {"eps": 1e-5}},
    )  # fmt: skip
    sac.learn(run.config.steps_per_task)
    with_env = independent.load_team(run, envs.make("toy", seed=0, horizon=10))
    for ours, theirs in zip(tensors(with_env.actors[2].state_dict()), tensors(sac.actor.state_dict()), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_team_acts_row_by_row():
    class Constant:
        def __init__(self, action):
            self.action = action

        def predict(self, observation, deterministic):
            assert observation[-1] == 1
            return np.array([self.action, observation[0]]), None

    team = plain_sac.Team(("a", "b"), [Constant(0.1), Constant(0.2)], 5)
    actions, _ = team.predict(np.array([[7.0, 0, 1, 0], [8.0, 0, 0, 1]]))
    assert actions.tolist() == [[0.1, 7.0], [0.2, 8.0]]


def test_what_was_stopped_goes_on_with_the_next_task(finished, tmp_path, monkeypatch, capsys):
    path, begun = tmp_path / "run", []
    whole = independent._train_task

    def stopped(work, task):
        begun.append(task)
        if task == "point-1":
            work.switch.pressed = 2
        whole(work, task)

    with monkeypatch.context() as patch:
        patch.setattr(independent, "_train_task", stopped)
        assert start(path) == 130
    assert begun == ["point-0", "point-1"]
    assert json.loads((path / "result.json").read_text())["status"] == "interrupted"
    assert "1 tasks are done" in capsys.readouterr().out
    assert Run(path).verified().status == "unfinished"
    with pytest.raises(UsageError, match="lacks point-1, point-2, point-3"):
        evaluate.main([str(path), "--episodes", "1"])
    assert train.main(["--resume", str(path), "--no-progress"]) == 0
    assert (path / "evaluations.csv").read_text() == (finished / "evaluations.csv").read_text()


def test_stopped_once_and_again_at_its_end_it_is_concluded(finished, tmp_path):
    path = shutil.copytree(finished, tmp_path / "run")
    result = json.loads((path / "result.json").read_text())
    for name in ("evaluations.csv", "metrics.csv"):
        (path / name).unlink()
    interrupted = {"status": "interrupted", "env_steps_per_task": 0}  # as the first stop left it
    (path / "result.json").write_text(json.dumps(result | interrupted))
    assert train.main(["--resume", str(path), "--no-progress"]) == 0
    assert Run(path).verified().status == "finished"
    assert (path / "evaluations.csv").read_text() == (finished / "evaluations.csv").read_text()


def test_a_task_that_diverges_is_named(tmp_path):
    path = tmp_path / "run"
    with pytest.raises(NonFiniteError, match="point-1"):
        start(path, "--reward-scale", "1,1e38,1,1", "--steps-per-task", "40")
    assert json.loads((path / "postmortem.json").read_text())["task"] == "point-1"
    assert Run(path).verified().status == "failed"


BAD = {
    "--aggregator pcgrad": "--aggregator: expected 'mean' with --independent",
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
    assert not (tmp_path / "run").exists()


def test_every_preset_can_be_independent():
    for preset in PRESETS:
        config = parse_train([preset, "--independent", *(["--tasks", "reach-v3"] if preset == "mt1" else [])])
        assert config.independent
        assert not config.overlap
        assert config.aggregator == "mean"


def test_a_finished_run_is_not_extended_and_damage_is_named(finished, tmp_path):
    path = shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(UsageError, match="found another steps_per_task"):
        train.main(["--resume", str(path), "--steps-per-task", "90"])
    with pytest.raises(UsageError, match="has done all of them"):
        train.main(["--resume", str(path)])
    (path / "tasks" / "point-3.safetensors").write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(UsageError, match=r"point-3\.safetensors is damaged"):
        evaluate.main([str(path), "--episodes", "1"])
