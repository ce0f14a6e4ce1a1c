"""Speed of Meta-World: plain, ours in-process and in workers, MuJoCo alone; and of a reset."""

from __future__ import annotations

import copy
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
from envs.meta_world.suites import goal_vectors, task_names
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


def single_tasks(suite: str, rounds: int) -> list[Figure]:
    """One step and one reset on one core, on average over the suite's tasks: plain metaworld, ours, MuJoCo alone."""
    names = task_names(suite)
    goals = goal_vectors(names, suite, 0)
    per_task = [_seconds_of(name, goals[name], rounds) for name in names]
    mean = {way: float(np.mean([seconds[way] for seconds in per_task])) for way in per_task[0]}
    figures = []
    for way, seconds in mean.items():
        plain = mean[f"{way.partition(',')[0]}, plain metaworld"]
        figures.append(Figure(way, 1e3 * seconds, "ms", plain / seconds, "plain's speed"))
    return figures


def _seconds_of(name: str, goals: np.ndarray, rounds: int) -> dict[str, float]:
    """Seconds of each way for one task; building the two environments takes most of the time."""
    plain, ours = plain_task(name, goals[0]), MetaWorldTask(name, goals[:4], goal_order="sequential")
    theirs = take_turns({"reset": plain.reset}, 3)["reset"]
    visits = take_turns({"reset": ours.reset}, 11)["reset"]  # the warm-up sees goal 0; then goals 1, 2, 3, 0, 1, ...
    ours.reset(seed=0)
    actions = _actions(1)

    def step(env: Any) -> None:
        getattr(env, "_env", env).curr_path_length = 0  # metaworld refuses a 501st step
        for _ in range(STEPS):
            env.step(next(actions)[0])

    ways: Ways = {
        "step, plain metaworld": partial(step, plain),
        "step, ours": partial(step, ours),
        "step, MuJoCo alone": _physics(plain),
    }
    steps = {way: float(np.median(seconds)) / STEPS for way, seconds in take_turns(ways, rounds).items()}
    plain.close()
    ours.close()
    return {
        **steps,
        "reset, plain metaworld": float(np.median(theirs)),
        "reset, ours, first visit of a goal": float(np.median(visits[:3])),
        "reset, ours, later visits": float(np.median(visits[3:])),
    }


def _physics(env: Any) -> Callable[[], None]:
    """Return the simulator's part of STEPS steps: five substeps and an `mj_forward` each, the hand moving at random."""
    model, data, actions = env.model, copy.copy(env.data), _actions(1)

    def simulate() -> None:
        for _ in range(STEPS):
            action = next(actions)[0]
            data.mocap_pos[0] = np.clip(data.mocap_pos[0] + action[:3] / 100, env.mocap_low, env.mocap_high)
            data.ctrl[:] = (action[3], -action[3])
            mujoco.mj_step(model, data, nstep=env.frame_skip)
            mujoco.mj_forward(model, data)

    return simulate


def vector_steps(suite: str, rounds: int, workers: Sequence[int], envs_per_task: int = 1) -> list[Figure]:
    """All tasks together: plain in a row, gymnasium's process per task, ours in-process (0) and in workers.

    And with this process in the place of the last of the most workers, as evaluations do.

    :param envs_per_task: of ours; the others have one.
    """
    names = task_names(suite)
    goals = goal_vectors(names, suite, 0)
    with ExitStack() as stack:
        plain = [stack.enter_context(closing(plain_task(name, goals[name][0]))) for name in names]
        theirs = gymnasium.vector.AsyncVectorEnv([partial(plain_task, name, goals[name][0]) for name in names])
        stack.enter_context(closing(theirs))
        theirs.reset()
        same: dict[str, Any] = {"goals": 1, "envs_per_task": envs_per_task}
        ours = {k: stack.enter_context(closing(envs.make(suite, 0, workers=k, **same))) for k in workers}
        crews = {_crew(k): env for k, env in ours.items()}
        if (others := max(workers) - 1) > 0:
            shared = stack.enter_context(closing(envs.make(suite, 0, workers=others, takes_share=True, **same)))
            crews[f"{_crew(others)} and this process"] = shared
        for env in crews.values():
            env.reset()
        columns, actions = len(names) * envs_per_task, _actions(len(names))

        def in_a_row() -> None:
            for env in plain:
                env.curr_path_length = 0
            for _ in range(STEPS):
                for env, action in zip(plain, next(actions), strict=True):
                    env.step(action)

        def together(env: Any, copies: int = 1) -> None:
            for _ in range(STEPS):
                env.step(np.tile(next(actions), (copies, 1)))

        ways: dict[str, Callable[[], object]] = {
            "plain metaworld, one after the other": in_a_row,
            "gymnasium, a process per task": partial(together, theirs),
        }
        ways.update({name: partial(together, env, envs_per_task) for name, env in crews.items()})
        seconds = take_turns(ways, rounds)
    first = next(iter(ways))
    figures = []
    for name, values in seconds.items():
        stepped = columns if name.startswith("ours") else len(names)
        rate, speed = stepped * STEPS / float(np.median(values)), stepped / len(names) / compare(seconds, name, first)
        figures.append(Figure(name, rate, "env steps/s", speed, "plain's speed"))
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
