"""Tasks with unusual answers and attributes, importable in a worker."""

from envs import toy


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


class Says(toy.Countdown):
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
