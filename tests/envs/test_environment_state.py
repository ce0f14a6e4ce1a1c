"""Environments go back to any step of an episode bit for bit, never slow down or swell, and follow their seed alone."""

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import envs
from agents import MTSAC, evaluate
from envs.meta_world.suites import goal_vectors, task_names
from envs.meta_world.task import MetaWorldTask
from tests.helpers import SMALL

ALL = task_names("MT50")
SAMPLE = ALL[::12]  # five of the fifty


@cache
def goals_of(name):
    return goal_vectors([name], "custom", 0)[name]


def check_restore(name, reward_version, horizon, step):
    """Save at `step` of the second episode, in another environment go on to beyond the end, and compare bit for bit."""
    goals = goals_of(name)[:3]
    actions = np.random.default_rng(step).uniform(-1, 1, (horizon + 3, 4)).astype(np.float32)

    def play(task, chosen):
        found = []
        for action in chosen:
            observation, reward, _, truncated, info = task.step(action)
            found.append((observation.tobytes(), reward, info["success"]))
            if truncated:
                found.append(task.reset()[0].tobytes())  # which goal comes next, too
        return found

    task = MetaWorldTask(name, goals, reward_version, horizon)
    task.reset(seed=0)
    play(task, actions[:horizon])  # an episode that lies behind
    play(task, actions[:step])
    other = MetaWorldTask(name, goals, reward_version, horizon)
    other.restore(task.snapshot())
    assert play(other, actions[step:]) == play(task, actions[step:])


@pytest.mark.parametrize("name", SAMPLE)
def test_any_step_comes_back(name):
    for reward_version, step in (("v1", 0), ("v2", 7), ("v2", 11)):
        check_restore(name, reward_version, horizon=12, step=step)


@pytest.mark.stress
@pytest.mark.parametrize("reward_version", ["v1", "v2"])
@pytest.mark.parametrize("name", ALL)
def test_any_step_of_any_task_comes_back(name, reward_version):
    for step in (0, 1, 57, 149, *np.random.default_rng(ALL.index(name)).integers(150, size=3)):
        check_restore(name, reward_version, horizon=150, step=int(step))


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files():
    return len(os.listdir("/proc/self/fd"))


def check_flat(suite, tasks, horizon, evaluations):
    """Memory within 5 % and as many open files after many evaluations as after the first tenth of them."""
    env = envs.make(suite, 0, workers=0, tasks=tasks, horizon=horizon, goals=2, goal_order="sequential")
    agent = MTSAC("MultiTaskMlpPolicy", env, policy_kwargs=SMALL, device="cpu", seed=0, buffer_size=100)
    for _ in range(evaluations // 10):  # caches fill
        evaluate(agent, env, 2)
    before = resident(), open_files()
    first = evaluate(agent, env, 2)
    for _ in range(evaluations - evaluations // 10):
        last = evaluate(agent, env, 2)
    assert open_files() == before[1]
    assert resident() < 1.05 * before[0]
    assert np.array_equal(first.returns, last.returns)  # and evaluation leaves nothing behind
    env.close()
    return before[0], resident()


needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")


@needs_proc
def test_evaluations_keep_memory_and_files():
    check_flat("custom", ["reach-v3", "door-open-v3"], horizon=3, evaluations=30)


@needs_proc
@pytest.mark.stress
def test_200_evaluations_of_mt10_keep_memory_and_files():
    before, after = check_flat("MT10", None, horizon=10, evaluations=200)
    print(f"resident: {before / 1e6:.1f} MB, then {after / 1e6:.1f} MB")


def check_same_seed(suite, steps, tmp_path, *flags):
    """Runs with one seed give one set of tables, with workers or without; another seed gives another."""
    from scripts import train
    from tests.runs import rows

    def tables(name, *more):
        path = tmp_path / name
        assert train.main([suite, *steps, "--run-dir", str(path), *flags, *more]) == 0
        return [rows(path / f"{table}.csv") for table in ("metrics", "evaluations", "conflicts")]

    first = tables("first", "--seed", "3", "--workers", "0")
    assert all(first)
    assert tables("again", "--seed", "3", "--workers", "0") == first
    assert tables("workers", "--seed", "3", "--workers", "2") == first
    assert all(a != b for a, b in zip(tables("other", "--seed", "4", "--workers", "0"), first, strict=True))


NETWORK = "--actor-width 8 --critic-width 8 --batch-size 4 --log-conflicts 10 --no-progress --threads 1".split()


def test_one_seed_one_set_of_numbers(tmp_path):
    steps = "--steps-per-task 60 --warmup-steps 20 --eval-every 30 --log-every 10 --eval-goals 1 --final-goals 1"
    check_same_seed("toy", [*steps.split(), "--horizon", "10"], tmp_path, *NETWORK)


@pytest.mark.stress
def test_one_seed_one_set_of_numbers_mt10(tmp_path):
    steps = "--steps-per-task 300 --warmup-steps 50 --eval-every 150 --log-every 50 --eval-goals 1 --final-goals 2"
    check_same_seed("mt10-quick", [*steps.split(), "--horizon", "50"], tmp_path, *NETWORK)
