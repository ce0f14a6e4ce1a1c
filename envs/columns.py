"""The same code steps the tasks in-process and in a worker: columns of tasks that write rows of one board.

The board is a structured array with one record per column: the action goes in, everything else comes out. In a worker
it lies in shared memory.
"""

import contextlib
import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium
import numpy as np


class Sizes(NamedTuple):
    """What the board must know of the spaces; plain values, as they travel to workers."""

    observation: int
    action: int
    action_type: str

    @classmethod
    def of(cls, env: Any) -> "Sizes":
        """Read the spaces of an environment, or of a class that has them as class attributes."""
        return cls(env.observation_space.shape[0], env.action_space.shape[0], env.action_space.dtype.str)


@dataclass(frozen=True)
class TaskSpec:
    """How to build one task anywhere.

    :param factory: "module:name" of a class or function.
    :param options: its arguments, JSON values and arrays.
    :param sizes: of the task's spaces; None: they are class attributes, so nothing is built to read them.
    """

    name: str
    factory: str
    options: dict[str, Any] = field(default_factory=dict)
    sizes: Sizes | None = None

    def load(self) -> Any:
        """Import the class or function."""
        module, _, name = self.factory.partition(":")
        return getattr(importlib.import_module(module), name)

    def build(self) -> Any:
        """Build the task."""
        return self.load()(**self.options)


def make_board(sizes: Sizes, num_tasks: int, envs_per_task: int = 1, memory: Any = None) -> np.ndarray:
    """Lay the board for E environments of each of T tasks, over `memory` if given: (E T,).

    Record c is of task c mod T. Observations carry its one-hot in their last T columns; it is written here, once.
    """
    width = sizes.observation + num_tasks
    dtype = np.dtype(
        [
            ("action", sizes.action_type, (sizes.action,)),
            ("observation", np.float32, (width,)),
            ("final_observation", np.float32, (width,)),  # of the episode that ended at this step
            ("reward", np.float32),
            ("return", np.float64),  # of the running or just ended episode, as are the next three
            ("length", np.int64),
            ("solved", np.bool_),  # success at any step so far
            ("success", np.float32),  # at this step
            ("goal_distance", np.float32),  # likewise; NaN where the task does not tell it
            ("terminated", np.bool_),
            ("truncated", np.bool_),
            ("busy", np.bool_),  # tells the trainer which task a dead or hanging worker was at
        ],
        align=True,
    )
    size = num_tasks * envs_per_task
    board = np.zeros(size, dtype) if memory is None else np.ndarray(size, dtype, buffer=memory)
    for rows in (board["observation"], board["final_observation"]):
        rows[:, -num_tasks:] = np.tile(np.eye(num_tasks), (envs_per_task, 1))
    return board


_SCALARS = ("reward", "return", "length", "solved", "success", "goal_distance", "terminated", "truncated", "busy")


def number(value: Any, what: str) -> float:
    """Return a number in whatever array it comes.

    :raises ValueError: for anything else.
    """
    found = np.asarray(value)
    if found.size != 1 or found.dtype.kind not in "biuf":
        raise ValueError(f"expected one number as {what}, found {value!r}")
    return float(found.item())


def require_row(observation: Any, width: int) -> None:
    """Refuse an observation that is no row of so many numbers: numpy would repeat a single one.

    :raises ValueError: saying what was found.
    """
    try:
        found = np.asarray(observation)
    except ValueError:  # rows of unequal length
        found = np.asarray(None)
    if found.shape != (width,) or found.dtype.kind not in "biuf":
        what = f"shape {found.shape}" if found.dtype.kind in "biuf" else f"a {type(observation).__name__}"
        raise ValueError(f"expected observations of shape {(width,)}, found {what}")


class Column:
    """One task, its running episode and its row of the board; a finished episode is followed by a reset at once.

    Each step writes through views of the board's fields, made once: to look a field up in a record takes as long as
    ten of these.
    """

    def __init__(self, name: str, env: Any, board: np.ndarray, place: int) -> None:
        self.name = name
        self.env = env
        self.row = board[place]
        self.reset_info: dict[str, Any] = {}  # of the last reset
        self._width = width = env.observation_space.shape[0]
        self._shape = (width,)
        self._action = board["action"][place]
        self._observation = board["observation"][place, :width]
        self._final_observation = board["final_observation"][place, :width]
        self._fields = {key: board[key][place : place + 1] for key in _SCALARS}
        self._started = self._over = False
        self._cut: int | None = None

    def reset(self, seed: int | None, options: dict[str, Any], cut: int | None = None) -> None:
        """Abandon the episode and start a new one; tasks with a sequence of goals begin it again.

        :param options: for the task's own reset, if there are any.
        :param cut: truncate this one episode after so many steps.
        """
        self._cut = cut
        if hasattr(self.env, "restart"):
            self.env.restart()
        given = {"options": options} if options else {}
        observation, self.reset_info = self.env.reset(seed=seed, **given)
        self._begin(observation)

    def step(self) -> None:
        """Take the row's action, write the row."""
        fields = self._fields
        if self._over:
            self._clear()
        observation, reward, terminated, truncated, info = self.env.step(self._action.copy())
        if type(observation) is not np.ndarray or observation.shape != self._shape:
            self._require_row(observation)
        success = info.get("success", info.get("is_success"))
        if type(reward) is not float or type(success) is not float:
            reward, success = number(reward, "reward"), math.nan if success is None else number(success, "success")
        fields["reward"][0] = reward
        fields["return"][0] += reward
        fields["length"][0] += 1
        fields["success"][0] = success
        distance = info.get("goal_distance")
        fields["goal_distance"][0] = math.nan if distance is None else number(distance, "goal_distance")
        if success > 0:
            fields["solved"][0] = True
        truncated = truncated or fields["length"][0] == self._cut
        fields["terminated"][0] = terminated
        fields["truncated"][0] = truncated
        self._over = bool(terminated or truncated)
        if self._over:
            self._cut = None
            self._final_observation[:] = observation
            observation, self.reset_info = self.env.reset()
            self._require_row(observation)
        self._observation[:] = observation

    def busy(self, is_busy: bool) -> None:
        """Tell the trainer whether this task is at work."""
        self._fields["busy"][0] = is_busy

    def snapshot(self) -> dict[str, Any]:
        """Return the state as JSON values and arrays; "env" is None where the task offers no snapshot."""
        if not self._started:
            raise RuntimeError(f"{self.name}: expected a running episode, found none; call reset() first")
        row, over = self.row, self._over  # then the row tells of the last episode, not of this one
        return {
            "env": self.env.snapshot() if hasattr(self.env, "snapshot") else None,
            "observation": self._observation.copy(),
            "return": 0.0 if over else float(row["return"]),
            "length": 0 if over else int(row["length"]),
            "solved": False if over else bool(row["solved"]),
            "cut": self._cut,
        }

    def restore(self, state: dict[str, Any]) -> str | None:
        """Go back to a snapshot; return what was lost: "bits", "episode" (the running one goes on) or None."""
        if state["env"] is None or not hasattr(self.env, "restore"):
            return "episode"
        observation = self.env.restore(state["env"])
        self._begin(observation)
        for key in ("return", "length", "solved"):
            self.row[key] = state[key]
        self._cut = state["cut"]
        return None if np.array_equal(self._observation, state["observation"], equal_nan=True) else "bits"

    def get_attr(self, name: str) -> Any:
        """Read an attribute of the task, or of a wrapper around it."""
        return self.env.get_wrapper_attr(name)

    def has_attr(self, name: str) -> bool:
        """Say whether `get_attr` finds an attribute."""
        return self.env.has_wrapper_attr(name)

    def set_attr(self, name: str, value: Any) -> None:
        """Set an attribute where `get_attr` finds it; a new one at the outermost wrapper."""
        self.env.set_wrapper_attr(name, value)

    def call(self, name: str, arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
        """Call a method of the task, or of a wrapper around it."""
        return self.env.get_wrapper_attr(name)(*arguments, **keywords)

    def last_reset_info(self) -> dict[str, Any]:
        """Return what the task said at its last reset."""
        return self.reset_info

    def is_wrapped(self, wrapper: str) -> bool:
        """Say whether a wrapper class, given as "module:Class", is around the task."""
        layer = self.env
        while isinstance(layer, gymnasium.Wrapper):
            if wrapper in (f"{base.__module__}:{base.__qualname__}" for base in type(layer).__mro__):
                return True
            layer = layer.env
        return False

    def _require_row(self, observation: Any) -> None:
        try:
            require_row(observation, self._width)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    def _begin(self, observation: np.ndarray) -> None:
        self._require_row(observation)
        self._started, self._over = True, False
        self._clear()
        self._observation[:] = observation

    def _clear(self) -> None:
        for key in ("return", "length", "solved", "terminated", "truncated"):
            self._fields[key][0] = 0


class Columns:
    """Some tasks, one after the other, in this process; `places` are their rows of the board."""

    def __init__(self, names: Sequence[str], envs: Sequence[Any], board: np.ndarray, places: Sequence[int]) -> None:
        self._columns = [Column(name, env, board, place) for name, env, place in zip(names, envs, places, strict=True)]

    def step(self) -> None:
        """Step every task with its row's action."""
        self._each("step")

    def reset(self, seeds: Sequence[int | None], options: Sequence[dict[str, Any]], cuts: Sequence[int | None]) -> None:
        """Reset every task, with a seed each or None; see `Column.reset`."""
        self._each("reset", seeds, options, cuts)

    def snapshot(self) -> list[dict[str, Any]]:
        """Return the state of every task."""
        return self._each("snapshot")

    def restore(self, states: Sequence[dict[str, Any]]) -> list[str | None]:
        """Restore the state of every task; see `Column.restore`."""
        return self._each("restore", states)

    def ask(self, index: int, operation: str, *arguments: Any) -> Any:
        """Run one operation of one column."""
        return getattr(self._columns[index], operation)(*arguments)

    def close(self) -> None:
        """Close every task."""
        for column in self._columns:
            with contextlib.suppress(SystemExit):
                column.env.close()

    def _each(self, operation: str, *per_task: Sequence[Any]) -> list[Any]:
        answers = []
        for column, *given in zip(self._columns, *per_task, strict=True):
            column.busy(True)  # stays so if the task fails, or hangs, or takes the process with it
            try:
                answers.append(getattr(column, operation)(*given))
            except SystemExit as error:  # code that was written as a command may want to end it
                raise RuntimeError(f"task {column.name!r} ended the program: {error!r}") from error
            except Exception as error:
                error.add_note(f"in task {column.name!r}")
                raise
            column.busy(False)
        return answers
