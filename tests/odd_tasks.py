"""Tasks with unusual answers and attributes, importable in a worker."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from envs import toy


class Countdown(gymnasium.Env):
    """Count 3, 2, 1, 0 and pay 1, 2, 3, whatever the action: bootstrap targets can be worked out by hand.

    :param ending: how the third step ends the episode. The second step is the one that succeeds.
    """

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, ending):
        self._ending = ending
        self._left = 3

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._left = 3
        return self._observation(), {}

    def step(self, action):
        self._left -= 1
        over = self._left == 0
        ends = (over and self._ending == "terminated", over and self._ending == "truncated")
        return self._observation(), float(3 - self._left), *ends, {"success": float(self._left == 1)}

    def snapshot(self):
        return {"left": self._left}

    def restore(self, state):
        self._left = state["left"]
        return self._observation()

    def _observation(self):
        return np.array([self._left], dtype=np.float32)


class Knobs(toy.PointReach):
    """With options and infos at reset, and a property beside plain attributes."""

    def __init__(self, index, num_tasks):
        super().__init__(index, num_tasks, horizon=2)
        self.index, self.nothing, self.resets = index, None, []

    @property
    def twice(self):
        return 2 * self.index

    def reset(self, *, seed=None, options=None):
        self.resets.append(options)
        return super().reset(seed=seed)[0], {"episode": len(self.resets), "options": options}

    def scaled(self, factor, *, offset=0):
        return factor * self.index + offset


class Says(Countdown):
    """An environment that answers with given values."""

    def __init__(self, reward=1.0, observation=None, first=None, **info):
        super().__init__("truncated")
        self.said = reward, observation, first, info

    def reset(self, *, seed=None, options=None):
        observation = super().reset(seed=seed)[0]
        return observation if self.said[2] is None else self.said[2], {}

    def step(self, action):
        observation, _, *ends, _ = super().step(action)
        reward, other, _, info = self.said
        return observation if other is None else other, reward, *ends, info
