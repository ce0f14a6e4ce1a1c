"""Any Gymnasium environments with equal spaces as tasks: a list of them, or a function that returns one.

A function named as `module:function` or `path/to/file.py:function` is a benchmark. It takes no arguments and
returns a list of environments, or a dict from name to environment; instead of an environment, a function that makes it.
Each call must give the same tasks, as new objects: a worker calls it for itself and keeps its share.
"""

import contextlib
import importlib
import importlib.util
import inspect
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import gymnasium
import numpy as np

from envs.benchmarks import TASK_NAME, TaskOptions, TaskSet, checked_tasks
from envs.columns import Sizes, TaskSpec, number, require_row
from envs.spaces import common_spaces

if TYPE_CHECKING:
    from envs.vec_env import TaskVecEnv

_left: dict[tuple[str, bool], dict[str, Any]] = {}  # of a function's last call, what nobody has taken yet
_seen: WeakValueDictionary[int, gymnasium.Env] = WeakValueDictionary()  # all that were built here, by id


def from_gymnasium(
    factories: Sequence[Callable[[], gymnasium.Env]], names: Sequence[str], seed: int = 0
) -> "TaskVecEnv":
    """Make any gymnasium environments with equal spaces the tasks of one in-process vector environment.

    One environment per task, all stepped in this process. Observations are rows of numbers, actions rows of real
    numbers between finite bounds. Success is what infos say under "success" or "is_success", and NaN where they do not.
    An environment that offers `snapshot()` and `restore(state) -> observation` resumes exactly.

    :raises ValueError: if spaces differ between tasks or do not fit, if names and factories do not match one to one, or
        if a factory gives no environment, or one that another gives.
    """
    from envs.vec_env import InProcess, TaskVecEnv  # brings Stable-Baselines3 and torch, which workers must not import

    if not factories or len(factories) != len(names) or len(set(names)) != len(names):
        raise ValueError(f"expected a different name for each environment, found {len(factories)} and {list(names)}")
    envs = [_made(name, factory) for name, factory in zip(names, factories, strict=True)]
    _require_apart(envs)
    return TaskVecEnv(names, common_spaces(names, envs), InProcess(names, envs), seed)


class GymTask(gymnasium.Wrapper):
    """One environment of a list: truncated at the horizon, with `info["success"]` 0 or 1 at every step.

    Or NaN, where the environment says by None or NaN that it does not know, and before it says anything: it may tell at
    its own end alone, to which a shorter horizon never comes.
    Its state can be saved if the environment, as the list has it, offers `snapshot()` and `restore(state)`.
    """

    def __init__(self, env: gymnasium.Env, horizon: int) -> None:
        super().__init__(env)
        self._horizon, self._steps, self._told = horizon, 0, False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode."""
        self._steps, self._told = 0, False
        return self.env.reset(seed=seed, options=options)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Step; where an info does not speak of success, there is none, if another did or the environment ends here."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        success = _success(info, otherwise=0.0 if self._told or terminated or truncated else math.nan)
        self._told = self._told or not math.isnan(success)
        return observation, reward, terminated, truncated or self._steps >= self._horizon, {**info, "success": success}

    def snapshot(self) -> dict[str, Any] | None:
        """Return what `restore` needs; None if the environment has no state to give."""
        if not hasattr(self.env, "snapshot") or not hasattr(self.env, "restore"):
            return None
        return {"steps": self._steps, "told": self._told, "env": self.env.snapshot()}

    def restore(self, state: dict[str, Any]) -> np.ndarray:
        """Go back to a snapshot and return its observation."""
        self._steps, self._told = state["steps"], state.get("told", True)  # until version 0.2 what was not told was 0
        return self.env.restore(state["env"])  # type: ignore[attr-defined]


def task_set(options: TaskOptions) -> TaskSet:
    """Name the tasks of a function of the user's, which is called.

    :raises ValueError: in one line, for whatever does not fit.
    """
    names, spaces, sizes = examine(options.suite, options.horizon)
    chosen = names if options.tasks is None else checked_tasks(options.tasks, names)
    given = {"suite": options.suite, "horizon": options.horizon, "render": options.render_size is not None}
    specs = [TaskSpec(name, "envs.gym_list:build", {"name": name, **given}, sizes) for name in chosen]
    return TaskSet(specs, {name: np.zeros((1, 0)) for name in chosen}, spaces)


def build(suite: str, name: str, horizon: int, render: bool = False) -> GymTask:
    """Build one task; what else the function has returned is kept for those that ask next."""
    place = suite, render
    if name not in _left.get(place, {}):
        for item in _left.pop(place, {}).values():
            if isinstance(item, gymnasium.Env):
                item.close()
        _left[place] = _call(suite, render)
        if name not in _left[place]:
            raise ValueError(f"{suite}: expected the same tasks at each call; found no {name!r} at a later one")
    return GymTask(_built(suite, name, _left[place].pop(name)), horizon)


@cache
def examine(suite: str, horizon: int) -> tuple[tuple[str, ...], tuple[gymnasium.Space, gymnasium.Space], Sizes]:
    """Call a function of the user's and look at what it returns: names of the tasks, their spaces.

    :raises ValueError: if these are no environments with equal spaces, each its own, that say whether they succeed
        within an episode of at most `horizon` steps.
    """
    envs: dict[str, gymnasium.Env] = {}
    try:
        for name, item in _call(suite, render=False).items():
            envs[name] = _built(suite, name, item)
        try:
            spaces = common_spaces(tuple(envs), tuple(envs.values()))
        except ValueError as error:
            raise ValueError(f"{suite}: {error}") from error
        for name, env in envs.items():
            _try_out(suite, name, env, horizon)
    finally:
        for env in envs.values():
            with contextlib.suppress(SystemExit):
                env.close()
    return tuple(envs), spaces, Sizes.of(next(iter(envs.values())))


def _call(suite: str, render: bool) -> dict[str, Any]:
    """Return what a function of the user's returns, by name; asked for pictures, if it takes `render_mode`."""
    function = _function(suite)
    pictures = render and "render_mode" in inspect.signature(function).parameters
    try:
        found = function(render_mode="rgb_array") if pictures else function()
    except (Exception, SystemExit) as error:  # code that was written as a command may want to end it
        raise ValueError(f"{suite} raised {_line(error)}") from error
    if isinstance(found, list | tuple):
        found = {f"task-{i}": item for i, item in enumerate(found)}
    if not isinstance(found, Mapping) or not found:
        what = "an empty one" if isinstance(found, Mapping) else type(found).__name__
        raise ValueError(f"{suite}: expected a list of environments, or a dict from name to environment; found {what}")
    for name in found:
        if not isinstance(name, str) or not TASK_NAME.fullmatch(name):
            raise ValueError(f"{suite}: expected names of letters, digits, '-', '_' and '.'; found {name!r}")
    return dict(found)


def _function(suite: str) -> Callable[..., Any]:
    where, _, name = suite.rpartition(":")
    try:
        module = _run_file(where) if where.endswith(".py") else _import(where)
    except (Exception, SystemExit) as error:
        raise ValueError(f"suite {suite!r}: {where!r} could not be imported: {_line(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        own = [key for key, value in vars(module).items() if inspect.isfunction(value) and key[0] != "_"]
        raise ValueError(
            f"suite {suite!r}: expected a function {name!r} in {where}; found {', '.join(own) or 'no function'}"
        )
    return function


def _import(name: str) -> ModuleType:
    """Return the module of that name, which may lie in the working folder."""
    _look_also_in(os.getcwd())  # an installed command does not
    return importlib.import_module(name)


def _look_also_in(folder: str) -> None:
    """Let modules be found in a folder, after all others: it hides nothing."""
    if folder not in sys.path:
        sys.path.append(folder)


@cache
def _run_file(path: str) -> ModuleType:
    """Return the module in a file, which is run."""
    if not Path(path).is_file():
        raise FileNotFoundError("expected a Python file there, found none; put it, or a link to it, there")
    _look_also_in(os.path.dirname(os.path.abspath(path)))
    name = "mtrl_suite_" + "".join(c if c.isalnum() else "_" for c in str(Path(path).resolve()))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and copies look their module up
    spec.loader.exec_module(module)
    return module


def _built(suite: str, name: str, item: Any) -> gymnasium.Env:
    """Return the environment that an item of a list is or makes."""
    try:
        env = item if isinstance(item, gymnasium.Env) or not callable(item) else item()
    except (Exception, SystemExit) as error:
        raise ValueError(f"{suite}: {name} raised {_line(error)}") from error
    if not isinstance(env, gymnasium.Env):
        raise ValueError(
            f"{suite}: expected an environment, or a function that makes one, at {name}; found {type(env).__name__}"
        )
    if _seen.get(id(env.unwrapped)) is env.unwrapped:
        raise ValueError(
            f"{suite}: expected a separate environment for each task, new at each call; found one twice, at {name}; "
            "make it in the function"
        )
    _seen[id(env.unwrapped)] = env.unwrapped
    return env


def _made(name: str, factory: Any) -> gymnasium.Env:
    """Make the environment of a factory."""
    if isinstance(factory, gymnasium.Env) or not callable(factory):
        found, instead = factory, "a function that makes an environment, such as lambda: gymnasium.make(name)"
    else:
        found, instead = factory(), "the function to return a gymnasium.Env"
        if isinstance(found, gymnasium.Env):
            return found
    raise ValueError(f"{name}: expected {instead}; found {type(found).__name__}")


def _require_apart(envs: Sequence[gymnasium.Env]) -> None:
    if len({id(env.unwrapped) for env in envs}) != len(envs):
        raise ValueError("expected a separate environment for each task, found one twice; make it in the factory")


def _try_out(suite: str, name: str, env: gymnasium.Env, horizon: int) -> None:
    """Plays until a task says whether it succeeds: one step, or an episode where only the last one does."""
    keys: set[str] = set()
    try:
        env.action_space.seed(0)
        _require_observation(env.reset(seed=0)[0], env)
        for _ in range(horizon):
            observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
            _require_observation(observation, env)
            if not math.isfinite(number(reward, "reward")):
                raise ValueError(f"expected finite rewards, found {reward}")
            keys |= info.keys()
            if not math.isnan(_success(info)):
                return
            if terminated or truncated:
                end = "an episode;"
                break
        else:
            end = f"an episode cut off at the horizon of {horizon} steps; make that longer if its own end tells it, or"
    except (Exception, SystemExit) as error:
        raise ValueError(f"{suite}: {name} raised {_line(error)}") from error
    unknown = " without a number" if {"success", "is_success"} & keys else ""
    raise ValueError(
        f"{suite}: expected 'success' or 'is_success' among the infos of {name}, as evaluations count successes; found "
        f"{', '.join(sorted(map(str, keys))) or 'none'}{unknown} in {end} add it with a wrapper "
        "(docs/benchmarks.md)"
    )


def _require_observation(observation: Any, env: gymnasium.Env) -> None:
    require_row(observation, Sizes.of(env).observation)
    if not np.isfinite(observation).all():
        raise ValueError(f"expected finite observations, found {observation}")


def _success(info: Mapping[str, Any], otherwise: float = math.nan) -> float:
    """0 or 1, NaN where an info says that it is not known, or `otherwise` where it says nothing."""
    said = info.get("success", info.get("is_success", otherwise))
    value = math.nan if said is None else number(said, "success")
    return value if math.isnan(value) else float(value > 0)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
