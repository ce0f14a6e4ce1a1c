"""Speed of Meta-World: plain, ours in-process and in workers, MuJoCo alone; and of a reset."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import gymnasium
import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.types import Task

import envs
from envs.meta_world.suites import Goals, goal_vectors, task_names
from envs.meta_world.task import MetaWorldTask
from scripts.bench.figures import Figure, Ways, compare, take_turns

STEPS = 20  # per turn: few, so that turns are short against what else a machine may be doing


def plain_task(name: str, goal: np.ndarray) -> Any:
    """Return a task as metaworld makes it."""
    env = ALL_V3_ENVIRONMENTS[name]()
    data = {"env_cls": type(env), "rand_vec": goal, "partially_observable": False}
    env.set_task(Task(name, pickle.dumps(data)))
    env.reset()
    return env


def steps(suite: str, rounds: int) -> list[Figure]:
    """One step on one core, on average over the suite's tasks: plain metaworld, ours, and MuJoCo alone."""
    names = task_names(suite)
    goals = goal_vectors(names, suite, 0)
    per_task = [_step_seconds(name, goals[name], rounds) for name in names]
    mean = {way: np.mean([np.median(seconds[way]) for seconds in per_task]) / STEPS for way in per_task[0]}
    plain = float(mean["plain metaworld"])
    return [Figure(f"step, {way}", 1e3 * value, "ms", plain / value, "plain's speed") for way, value in mean.items()]


def _step_seconds(name: str, goals: np.ndarray, rounds: int) -> dict[str, np.ndarray]:
    plain, ours = plain_task(name, goals[0]), MetaWorldTask(name, goals[:1])
    ours.reset(seed=0)
    actions = _actions(1)

    def step(env: Any) -> None:
        getattr(env, "_env", env).curr_path_length = 0  # metaworld refuses a 501st step
        for _ in range(STEPS):
            env.step(next(actions)[0])

    ways: Ways = {
        "plain metaworld": partial(step, plain),
        "ours": partial(step, ours),
        "MuJoCo alone": _physics(name, goals),
    }
    seconds = take_turns(ways, rounds)
    plain.close()
    ours.close()
    return seconds


def _physics(name: str, goals: np.ndarray) -> Callable[[], None]:
    """Return the simulator's part of STEPS steps: five substeps and an `mj_forward` each, the hand moving at random."""
    env = plain_task(name, goals[0])
    model, data, actions = env.model, env.data, _actions(1)

    def simulate() -> None:
        for _ in range(STEPS):
            action = next(actions)[0]
            data.mocap_pos[0] = np.clip(data.mocap_pos[0] + action[:3] / 100, env.mocap_low, env.mocap_high)
            data.ctrl[:] = (action[3], -action[3])
            mujoco.mj_step(model, data, nstep=env.frame_skip)
            mujoco.mj_forward(model, data)

    return simulate


def resets(suite: str) -> list[Figure]:
    """One reset, on average over tasks: plain, ours at a goal's first visit, and at a later one."""
    names = task_names(suite)
    goals = goal_vectors(names, suite, 0)
    seconds = np.array([_reset_seconds(name, goals) for name in names]).mean(0)
    kinds = ("plain metaworld", "ours, first visit of a goal", "ours, later visits")
    return [
        Figure(f"reset, {kind}", 1e3 * value, "ms", seconds[0] / value, "plain's speed")
        for kind, value in zip(kinds, seconds, strict=True)
    ]


def _reset_seconds(name: str, goals: Goals) -> tuple[float, float, float]:
    plain, ours = plain_task(name, goals[name][0]), MetaWorldTask(name, goals[name][:4], goal_order="sequential")
    theirs = take_turns({"reset": plain.reset}, 3)["reset"]
    visits = take_turns({"reset": ours.reset}, 11)["reset"]  # the warm-up sees goal 0; then goals 1, 2, 3, 0, 1, ...
    plain.close()
    ours.close()
    return float(np.median(theirs)), float(np.median(visits[:3])), float(np.median(visits[3:]))


def vector_steps(suite: str, rounds: int, workers: Sequence[int]) -> list[Figure]:
    """All tasks together: plain in a row, gymnasium's process per task, ours in-process (0) and in workers."""
    names = task_names(suite)
    goals = goal_vectors(names, suite, 0)
    num_tasks, actions = len(names), _actions(len(names))
    with ExitStack() as stack:
        plain = [stack.enter_context(closing(plain_task(name, goals[name][0]))) for name in names]
        theirs = gymnasium.vector.AsyncVectorEnv([partial(plain_task, name, goals[name][0]) for name in names])
        stack.enter_context(closing(theirs))
        theirs.reset()
        ours = {k: stack.enter_context(closing(envs.make(suite, 0, workers=k, goals=1))) for k in workers}
        for env in ours.values():
            env.reset()

        def in_a_row() -> None:
            for env in plain:
                env.curr_path_length = 0
            for _ in range(STEPS):
                for env, action in zip(plain, next(actions), strict=True):
                    env.step(action)

        def together(env: Any) -> None:
            for _ in range(STEPS):
                env.step(next(actions))

        ways: dict[str, Callable[[], object]] = {
            "plain metaworld, one after the other": in_a_row,
            "gymnasium, a process per task": partial(together, theirs),
        }
        ways.update({_crew(k): partial(together, env) for k, env in ours.items()})
        seconds = take_turns(ways, rounds)
    first = next(iter(ways))
    figures = []
    for name, values in seconds.items():
        rate = num_tasks * STEPS / float(np.median(values))
        figures.append(Figure(name, rate, "env steps/s", 1 / compare(seconds, name, first), "plain's speed"))
    if 1 in ours and 2 in ours:
        speedup = compare(seconds, _crew(1), _crew(2))
        figures.append(Figure("two workers against one", speedup, "times"))
    if 0 in ours and 1 in ours:
        overhead = float(np.median(seconds[_crew(1)] - seconds[_crew(0)])) / STEPS
        figures.append(Figure("a vector step with one worker takes longer than in-process by", 1e3 * overhead, "ms"))
    return figures


def worker_counts(suite: str) -> tuple[int, ...]:
    """In-process, then 1, 2, 4 ... workers, up to one per core or task."""
    most = min(os.cpu_count() or 1, len(task_names(suite)))
    return (0, *(2**k for k in range(most.bit_length()) if 2**k < most), most)


def _crew(workers: int) -> str:
    return {0: "ours, in-process", 1: "ours, 1 worker"}.get(workers, f"ours, {workers} workers")


def _actions(rows: int) -> Iterator[np.ndarray]:
    """Random actions (rows, 4), endlessly."""
    generator = np.random.default_rng(0)
    while True:
        yield from generator.uniform(-1, 1, (1000, rows, 4)).astype(np.float32)
