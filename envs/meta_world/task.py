"""One Meta-World task as a gymnasium environment with a fixed set of goals, whose state can be saved and restored."""

from envs.meta_world import simulator  # noqa: F401  (before metaworld, which imports MuJoCo as it is)

# isort: split
import pickle
from typing import Any, Literal, get_args

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.types import Task

from envs.benchmarks import MAX_HORIZON
from envs.meta_world.fast.path import task_class

CAMERA = "corner2"
# MuJoCo's counters of a state or control that is NaN, infinite or huge; a reset clears them
_UNSTABLE = [int(kind) for name, kind in mujoco.mjtWarning.__members__.items() if name.startswith("mjWARN_BAD")]
RewardVersion = Literal["v1", "v2"]
GoalOrder = Literal["random", "sequential"]


class MetaWorldTask(gymnasium.Env):
    """Run one task over its goals, one goal per episode; an episode is truncated at `horizon` and never terminates.

    Observations are metaworld's 39 numbers as float32: 18 now, the same 18 one step ago, 3 of the goal. The first one
    of an episode repeats its own frame. metaworld's bounds are zero for the goal, so the space here is unbounded.

    :param name: task name, such as "reach-v3".
    :param goals: (G, D) the vectors that metaworld draws at a reset; they place the goal and the object.
    :param reward_version: "v2" lies in [0, 10]; "v1" can be in the thousands.
    :param horizon: steps per episode, 1 to 500.
    :param goal_order: "random" picks a goal uniformly at each reset; "sequential" visits goal n mod G at the
        n-th reset since `restart`, or every `goal_stride`-th one from `goal_offset` on.
    :param render_size: pixels, each way, of the pictures that `render` gives.
    """

    observation_space = Box(-np.inf, np.inf, (39,), np.float32)
    action_space = Box(-1.0, 1.0, (4,), np.float32)

    def __init__(
        self,
        name: str,
        goals: np.ndarray,
        reward_version: RewardVersion = "v2",
        horizon: int = MAX_HORIZON,
        goal_order: GoalOrder = "random",
        render_size: int = 240,
    ) -> None:
        check_options(reward_version, horizon, goal_order)
        self.goals = np.asarray(goals, dtype=np.float64)
        self.horizon = horizon
        self.goal_order = goal_order
        self.render_size = render_size
        self._name = name
        self._env = task_class(name)(reward_function_version=reward_version)
        if self.goals.shape[1:] != (drawn := self._env._random_reset_space.shape):  # type: ignore[union-attr]
            raise ValueError(f"{name}: expected goals of {drawn[0]} numbers each, found shape {self.goals.shape}")
        self._renderer: mujoco.Renderer | None = None
        self.goal_offset, self.goal_stride = 0, 1
        self._goal = 0
        self._resets = 0
        self._unstable = 0  # episodes, without the running one
        self._actions: list[np.ndarray] = []  # since the last reset: replayed, they restore the physics

    @property
    def instabilities(self) -> int:
        """In how many episodes, the running one included, MuJoCo's state became NaN or huge; it is then reset."""
        return self._unstable + int(self._env.data.warning.number[_UNSTABLE].any())

    def restart(self) -> None:
        """Let the next reset visit the first goal, if goals are visited in sequence."""
        self._resets = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode with the next goal; `seed` seeds the choice of goals."""
        super().reset(seed=seed)
        if seed is not None:
            self._env.seed(seed)  # metaworld ignores reset(seed=...)
        self._goal = self._next_goal()
        self._resets += 1
        return self._begin(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move hand and gripper by `action` (4,), x, y, z, grip; `info["success"]` is of this step."""
        action = np.array(action, dtype=np.float32)  # the space's type: `restore` then plays the very same again
        observation, reward, _, _, info = self._env.step(action)
        self._actions.append(action)  # not before: a step that was refused is not played again
        truncated = len(self._actions) >= self.horizon
        return observation.astype(np.float32), float(reward), False, truncated, {"success": float(info["success"])}

    def snapshot(self) -> dict[str, Any]:
        """Return what `restore` needs: goal, generator, and the actions of the running episode, (steps, 4)."""
        return {
            "goal": self._goal,
            "resets": self._resets,
            "generator": self.np_random.bit_generator.state,
            "unstable": self._unstable,
            "actions": np.array(self._actions, dtype=np.float32).reshape(-1, 4),
        }

    def restore(self, state: dict[str, Any]) -> np.ndarray:
        """Go back to a snapshot, bit for bit, and return its observation (39,).

        The episode is played again. Copying metaworld's fields would not do: many are live views into the simulator,
        and a reset writes positions into the model. A reset forgets all that came before it, on all 50 tasks.
        """
        if not 0 <= state["goal"] < len(self.goals):
            raise ValueError(
                f"{self._name}: expected a goal below {len(self.goals)}, found {state['goal']}; "
                "restore with the goals of the saved run"
            )
        self._goal, self._resets = state["goal"], state["resets"]
        self.np_random.bit_generator.state = state["generator"]
        observation = self._begin()
        self._unstable = state.get("unstable", 0)  # after the beginning, which counts what lies before it
        for action in state["actions"]:
            observation = self.step(action)[0]
        return observation

    def render(self) -> np.ndarray:
        """Return what metaworld's camera in the corner sees: (size, size, 3), uint8."""
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self._env.model, self.render_size, self.render_size)
        self._renderer.update_scene(self._env.data, camera=CAMERA)
        return np.ascontiguousarray(self._renderer.render()[::-1, ::-1])  # this camera hangs upside down

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _next_goal(self) -> int:
        sequential = self.goal_order == "sequential"
        number = self.goal_offset + self.goal_stride * self._resets
        return number % len(self.goals) if sequential else int(self.np_random.integers(len(self.goals)))

    def _begin(self) -> np.ndarray:
        data = {
            "env_cls": ALL_V3_ENVIRONMENTS[self._name],
            "rand_vec": self.goals[self._goal],
            "partially_observable": False,  # multi-task: the goal is observed
        }
        self._unstable = self.instabilities
        self._env.set_task(Task(self._name, pickle.dumps(data)))  # the form that metaworld's own method takes
        self._actions = []
        observation, _ = self._env.reset()
        return observation.astype(np.float32)


def check_options(reward_version: str, horizon: int, goal_order: str) -> None:
    """Refuse what no task offers.

    :raises ValueError: for another reward version or order of goals, or a horizon outside 1 to 500.
    """
    if reward_version not in get_args(RewardVersion):
        raise ValueError(f"expected reward version v1 or v2, found {reward_version!r}")
    if goal_order not in get_args(GoalOrder):
        raise ValueError(f"expected goal order random or sequential, found {goal_order!r}")
    if not 1 <= horizon <= MAX_HORIZON:
        raise ValueError(f"expected a horizon of 1 to {MAX_HORIZON} steps, found {horizon}")
