"""T tasks as one Stable-Baselines3 vector environment: column c is task c mod T, in-process or in worker processes."""

import time
import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import Any, NoReturn

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from jaxtyping import Bool, Float32
from stable_baselines3.common.vec_env import VecEnv

from envs.columns import Columns, Sizes, TaskSpec, make_board
from envs.spaces import common_spaces
from envs.workers.pool import Pool, WorkerError, count_workers

Observations = Float32[np.ndarray, "columns width"]  # columns = E T, width = D + T
Rewards = Float32[np.ndarray, " columns"]
Dones = Bool[np.ndarray, " columns"]

_LOST = {
    "episode": "cannot restore their state and began a new episode",
    "bits": "did not come back to the saved observation bit for bit; the machine or a version differs",
}


class InProcess(Columns):
    """Tasks in this process, with a step in two halves as `Pool` has it: all work is in the second."""

    num_workers = 0

    def __init__(self, names: Sequence[str], envs: Sequence[gymnasium.Env]) -> None:
        copies = len(envs) // len(names)
        self.board = make_board(Sizes.of(envs[0]), len(names), copies)
        super().__init__(list(names) * copies, envs, self.board, range(len(envs)))

    def step_async(self) -> None:
        """Do nothing yet."""

    def step_wait(self) -> None:
        """Step every task."""
        self.step()


class TaskVecEnv(VecEnv):
    """Step E environments of each of T tasks together.

    Column c is environment c // T of task c mod T: all tasks, then all tasks again. Observations are
    (E T, D + T) float32: the task's own D numbers, then its one-hot.

    Infos, one dict per column and step: "success" (float, of this step; NaN where the task says nothing about it),
    "is_success" (any step of the episode so far; left out where nothing is known), "TimeLimit.truncated", and
    "goal_distance" (float, where the task tells it); with the last
    step of an episode also "episode" (r, l, t) and "terminal_observation".

    :param names: of the T tasks.
    :param crew: the tasks, in this process or in workers.
    :param goals: name -> (G, D) goal vectors, kept to be saved with the run.
    :param seed: column c is seeded from (seed, c), so adding environments per task does not change the first
        environment of each task.
    :param stagger: the horizon H, if the first episode after `reset` is to be truncated after ceil(H (c + 1) / (E T))
        steps, so that episodes do not all end together; 0: all episodes have full length.
    """

    def __init__(
        self,
        names: Sequence[str],
        spaces: tuple[gymnasium.Space, gymnasium.Space],
        crew: InProcess | Pool,
        seed: int = 0,
        goals: dict[str, np.ndarray] | None = None,
        stagger: int = 0,
    ) -> None:
        self.task_names = tuple(names)
        self.goals = goals or {}
        self.num_workers = crew.num_workers
        self._crew = crew
        self._board = crew.board
        self._pending = self._closed = False
        self._born = time.time()
        observation, action = spaces
        width = observation.shape[0] + len(names)  # type: ignore[index]
        size = len(self._board)
        super().__init__(size, Box(-np.inf, np.inf, (width,), np.float32), action)
        self.staggered = stagger > 0
        self._cuts = [-(-stagger * (c + 1) // size) if stagger else None for c in range(size)]
        self.seed(seed)

    @classmethod
    def from_specs(
        cls,
        specs: Sequence[TaskSpec],
        seed: int = 0,
        workers: int | str = "auto",
        goals: dict[str, np.ndarray] | None = None,
        envs_per_task: int = 1,
        stagger: int = 0,
        spaces: tuple[gymnasium.Space, gymnasium.Space] | None = None,
        **of_pool: Any,
    ) -> "TaskVecEnv":
        """Build the tasks in-process (workers=0) or in K processes ("auto": one for every two cores).

        :param spaces: of all tasks; None: they are class attributes of what the specs name.
        :param of_pool: takes_share, and step_timeout and build_timeout in seconds; see `Pool`.
        :raises ValueError: for a number of workers outside 0 to E T, or spaces that differ between tasks.
        """
        names = [spec.name for spec in specs]
        spaces = spaces or common_spaces(names, [spec.load() for spec in specs])
        count = count_workers(workers, len(specs), envs_per_task)
        crew: InProcess | Pool
        if count:
            crew = Pool(specs, count, envs_per_task=envs_per_task, **of_pool)
        else:
            crew = InProcess(names, [spec.build() for spec in list(specs) * envs_per_task])
        return cls(names, spaces, crew, seed, goals, stagger)

    @property
    def num_tasks(self) -> int:
        """T."""
        return len(self.task_names)

    @property
    def envs_per_task(self) -> int:
        """E: there are E T columns."""
        return self.num_envs // self.num_tasks

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Seed column c from (seed, c) at the next reset; None keeps the generators as they are."""
        if seed is None:
            self._reset_seeds()
        else:
            sequences = [np.random.SeedSequence([seed, c]) for c in range(self.num_envs)]
            self._seeds = [int(sequence.generate_state(1)[0]) for sequence in sequences]
        return self._seeds

    def reset(self) -> Observations:
        """Begin a new episode in every column: (E T, D + T). A pending step is awaited and dropped.

        What `set_options` gave goes to the tasks at this one reset; `reset_infos` has their answers.
        """
        if self._pending:
            self.step_wait()
        self._idle("reset")
        self._crew.reset(self._seeds, self._options, self._cuts)
        self._reset_seeds()
        self._reset_options()
        return self._board["observation"].copy()

    def step_async(self, actions: np.ndarray) -> None:
        """Hand over the actions (E T, ...) and return at once; workers begin to step."""
        self._idle("step_async")
        expected = self._board["action"].shape
        if np.shape(actions) != expected:
            raise ValueError(f"expected actions of shape {expected}, one row per column; found {np.shape(actions)}")
        self._board["action"] = actions
        self._crew.step_async()
        self._pending = True

    def step_wait(self) -> tuple[Observations, Rewards, Dones, list[dict[str, Any]]]:
        """Return observations (E T, D + T), rewards, dones (E T,), infos; what is finished has been reset already."""
        if not self._pending:
            raise RuntimeError("expected a pending step, found none; call step_async(actions) first")
        try:
            self._crew.step_wait()
        except WorkerError:  # there is nobody left, which is what any further call is told
            raise
        except Exception:  # this step is lost, and what a reset mends may go on; an interrupted one is still to come
            self._pending = False
            raise
        self._pending = False
        board = self._board
        dones = board["terminated"] | board["truncated"]
        return board["observation"].copy(), board["reward"].copy(), dones, self._infos(dones)

    def get_state(self) -> dict[str, Any]:
        """Return the state of all tasks, in mid-episode too, as nested dicts and lists of JSON values and arrays."""
        self._idle("get_state")
        return {"task_names": list(self.task_names), "tasks": self._crew.snapshot()}

    def set_state(self, state: dict[str, Any]) -> Observations:
        """Go back to what `get_state` returned and return the current observation (E T, D + T).

        Running episodes are played again, bit for bit. Tasks without `snapshot` and `restore` begin a new episode,
        with a warning.

        :raises ValueError: if the state is of other tasks or columns, or of observations of another size.
        """
        self._idle("set_state")
        if list(state["task_names"]) != list(self.task_names):
            raise ValueError(
                f"expected the state of {', '.join(self.task_names)}; found that of {', '.join(state['task_names'])}; "
                "make the environment with the tasks of the saved run"
            )
        if len(state["tasks"]) != self.num_envs:
            raise ValueError(
                f"expected the state of {self.num_envs} columns, found that of {len(state['tasks'])}; "
                "make the environment with the envs_per_task of the saved run"
            )
        expected, found = self._board["observation"].shape[1] - self.num_tasks, len(state["tasks"][0]["observation"])
        if expected != found:
            raise ValueError(f"expected a state with {expected} numbers per observation, found {found}")
        self.reset()  # tasks that cannot be restored begin a new episode
        losses = self._crew.restore(state["tasks"])
        for loss, text in _LOST.items():
            columns = zip(self.task_names * self.envs_per_task, losses, strict=True)
            if names := dict.fromkeys(name for name, lost in columns if lost == loss):
                warnings.warn(f"{', '.join(names)} {text}", stacklevel=2)
        return self._board["observation"].copy()

    def close(self) -> None:
        """End workers and free the tasks; harmless when repeated."""
        if not self._closed:
            self._closed = True
            self._crew.close()

    @property
    def reset_infos(self) -> list[dict[str, Any]]:
        """What each column's last reset returned as its info; from workers only JSON values and arrays."""
        return self._ask(None, "last_reset_info")

    @reset_infos.setter
    def reset_infos(self, infos: list[dict[str, Any]]) -> None:
        """Stable-Baselines3 begins with empty ones; the columns do, too."""

    def has_attr(self, attr_name: str) -> bool:
        """Say whether all tasks, or wrappers around them, have the attribute."""
        return all(self._ask(None, "has_attr", attr_name))

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Read an attribute of the tasks, or of wrappers around them; from workers only JSON values and arrays.

        :param indices: columns, in any order, counted from the end if negative; None: all.
        """
        return self._ask(indices, "get_attr", attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the tasks where `get_attr` finds it, under wrappers too."""
        self._ask(indices, "set_attr", attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Call a method of the tasks; through workers only JSON values and arrays go in and out."""
        return self._ask(indices, "call", method_name, list(method_args), method_kwargs)

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: Any = None) -> list[bool]:
        """Say which tasks have a wrapper of this class."""
        return self._ask(indices, "is_wrapped", f"{wrapper_class.__module__}:{wrapper_class.__qualname__}")

    def get_images(self) -> NoReturn:
        """Refuse: training environments have no camera."""
        raise NotImplementedError(
            "expected no rendering here: these environments have no camera; render one task apart"
        )

    def render(self, mode: str | None = None) -> NoReturn:
        """Refuse: training environments have no camera."""
        self.get_images()

    @property
    def worker_pids(self) -> list[int]:
        """The process ids of the workers."""
        return self._crew.pids if isinstance(self._crew, Pool) else []

    def _infos(self, dones: np.ndarray) -> list[dict[str, Any]]:
        board = self._board
        truncated = board["truncated"] & ~board["terminated"]
        steps = zip(board["success"].tolist(), board["solved"].tolist(), truncated.tolist(), strict=True)
        infos: list[dict[str, Any]] = [
            {"success": success, "is_success": solved, "TimeLimit.truncated": cut}
            if solved or success == success  # not NaN
            else {"success": success, "TimeLimit.truncated": cut}
            for success, solved, cut in steps
        ]
        for i in np.flatnonzero(~np.isnan(board["goal_distance"])):
            infos[i]["goal_distance"] = float(board["goal_distance"][i])
        for i in np.flatnonzero(dones):
            seconds = round(time.time() - self._born, 6)
            infos[i]["episode"] = {"r": float(board["return"][i]), "l": int(board["length"][i]), "t": seconds}
            infos[i]["terminal_observation"] = board["final_observation"][i].copy()
        return infos

    def _ask(self, indices: Any, operation: str, *arguments: Any) -> list[Any]:
        self._idle(operation)
        return [self._crew.ask(i, operation, *arguments) for i in self._chosen(indices)]

    def _chosen(self, indices: Any) -> Sequence[int]:
        columns = range(self.num_envs)
        if indices is None:
            return columns
        return [columns[i] for i in ([indices] if isinstance(indices, Integral) else indices)]

    def _idle(self, operation: str) -> None:
        if self._closed:
            raise RuntimeError(f"expected an open environment at {operation}, found a closed one; make a new one")
        if self._pending:
            raise RuntimeError(
                f"expected no pending step at {operation}, found one; call step_wait() first, or, "
                "in a callback, reach this environment as self.training_env"
            )
