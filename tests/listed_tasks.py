"""Lists of Gymnasium environments, as a user would write them in a file of their own."""

from functools import partial

import gymnasium
import numpy as np
from gymnasium.spaces import Box


class Walk(gymnasium.Env):
    """Walk along a line to a mark, which ends the episode for good; there is no time limit."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012  (as Gymnasium has it)

    def __init__(self, mark, render_mode=None):
        self.action_space = Box(-2.0, 2.0, (1,), np.float32)  # not of the class
        self.mark, self.render_mode = mark, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-0.2, 0.2)
        return self._observation(), {}

    def step(self, action):
        self.place += 0.1 * float(action[0])
        there = abs(self.place - self.mark) < 0.1
        return self._observation(), -abs(self.place - self.mark), there, False, {"success": there}

    def render(self):
        picture = np.zeros((24, 48, 3), np.uint8)
        picture[:, int(np.clip(24 + 12 * self.place, 0, 47))] = 255
        return picture if self.render_mode == "rgb_array" else None

    def _observation(self):
        return np.array([self.place, self.mark])


class Kept(Walk):
    """One that can be saved in mid-episode."""

    def snapshot(self):
        return {"place": self.place, "generator": self.np_random.bit_generator.state}

    def restore(self, state):
        self.place, self.np_random.bit_generator.state = state["place"], state["generator"]
        return self._observation()


def walks(render_mode=None):
    return {"left": Walk(-0.5, render_mode), "right": Walk(0.5, render_mode), "far": Walk(1.0, render_mode)}


def made_later():
    return [partial(Walk, mark) for mark in (-0.5, 0.5, 1.0)]


def kept():
    return {"left": partial(Kept, -0.5), "right": partial(Kept, 0.5)}


class Doubtful(Walk):
    """One that does not know whether it succeeded, from its second episode on."""

    episodes = 0

    def reset(self, **options):
        self.episodes += 1
        return super().reset(**options)

    def step(self, action):
        *rest, info = super().step(action)
        return *rest, info if self.episodes < 2 else {"success": np.nan}


def doubtful():
    return {"sure": partial(Walk, 9.0), "doubtful": partial(Doubtful, 9.0)}


class Late(Walk):
    """One that tells at its end alone that it succeeded, after so many steps times the number of the episode."""

    def __init__(self, steps):
        super().__init__(9.0)
        self.steps, self.episode = steps, 0

    def reset(self, **options):
        self.episode, self.now = self.episode + 1, 0
        return super().reset(**options)

    def step(self, action):
        self.now += 1
        over = self.now == self.steps * self.episode
        return *super().step(action)[:2], False, over, {"is_success": True} if over else {}


late, very_late = partial(list, [partial(Late, 6)]), partial(list, [partial(Late, 1001)])


# What is refused


class Silent(Walk):
    def step(self, action):
        return *super().step(action)[:4], {"distance": 1.0}


class Wide(Walk):
    observation_space = Box(-1, 1, (3,))


class Buttons(Walk):
    def __init__(self):
        super().__init__(1.0)
        self.action_space = gymnasium.spaces.Discrete(2)


class Told(Walk):
    def __init__(self, mark, success=0.0, observation=None, reward=0.0):
        super().__init__(mark)
        self.success, self.observation, self.reward = success, observation, reward

    def step(self, action):
        observation, _, *ends, _ = super().step(action)
        seen = observation if self.observation is None else self.observation
        return seen, self.reward, *ends, {"success": self.success}


class Spaceless(Walk):
    observation_space = None


class Broken(Walk):
    def reset(self, **options):
        raise RuntimeError("no such\nmodel")


_one = Walk(1.0)


def again():
    return [_one]


def twice():
    walk = Walk(1.0)
    return [walk, walk]


def raises():
    raise KeyError("there is no simulator here")


nothing, number, bad_name = list, partial(int, 3), partial(dict, {"a/b": None})
not_an_environment, silent = partial(list, [3]), partial(list, [partial(Silent, 1.0)])
not_known = partial(list, [partial(Told, 1.0, success=np.nan)])
never_said = partial(list, [partial(Told, 1.0, success=None)])
short = partial(list, [partial(Told, 1.0, observation=np.zeros(1))])
single = partial(list, [partial(Told, 1.0, observation=0.5)])
keyed = partial(list, [partial(Told, 1.0, observation={"place": 0.0, "mark": 1.0})])
blind = partial(list, [partial(Told, 1.0, observation=np.array([0.0, np.nan]))])
unpaid, priceless = (partial(list, [partial(Told, 1.0, reward=found)]) for found in ("much", np.nan))
spaceless, half = partial(list, [partial(Spaceless, 1.0)]), partial(list, [partial(Walk, 1.0), partial(Spaceless, 1.0)])
unequal = partial(dict, {"narrow": partial(Walk, 1.0), "wide": partial(Wide, 1.0)})
buttons, broken = partial(list, [Buttons]), partial(list, [partial(Broken, 1.0)])
not_a_function = 5


class Wordy(Walk):
    def step(self, action):
        return *super().step(action)[:4], {"success": "yes"}


wordy = partial(list, [partial(Wordy, 1.0)])


def ends():
    raise SystemExit(0)  # as code does that was written as a command
