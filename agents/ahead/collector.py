"""Collecting ahead: a thread steps the environment while the learner updates, and acts with a copy of the actor.

What it does depends on the seed and on nothing else. With a lag of N, the action that follows t vector steps is drawn
with the parameters that the learner had when it was done with t - N of them: stored, shown to the callbacks, and
trained on if an update was due. (For t < N: with those that it began with.) The collector waits for that version and
takes no newer one. So it is N steps ahead of the learner at most, the lag is N always, updates and steps keep their
ratio, and how fast either side is changes nothing but the time that a run takes.

The thread never calls CUDA, which would break a capture in the learner's thread: its copy of the actor is on the CPU.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from agents.ahead.actor_copy import ActorCopy, actor_parameters
from agents.collecting.rollout import Step
from agents.device.transfer import HostBlock
from agents.networks.policies import MultiTaskPolicy


class Collector:
    """Steps a vector environment in a thread, and keeps the steps until the learner takes them.

    Time is counted as the agent's `num_timesteps` counts it: a vector step is `num_envs`.

    :param lag: N of above, at least 1.
    """

    def __init__(self, policy: MultiTaskPolicy, num_envs: int, lag: int, noise_hold: int, seed: int):
        self.lag, self.waited = lag, 0.0  # seconds that the collector has waited for the learner
        self._policy, self._num_envs = policy, num_envs
        self._copy = ActorCopy(policy, noise_hold, seed)
        self._down = HostBlock(actor_parameters(policy))
        self._changed = threading.Condition()  # of what both threads use
        self._thread: threading.Thread | None = None
        self.forget()

    @property
    def running(self) -> bool:
        """Whether the environment is the collector's."""
        return self._thread is not None

    def forget(self) -> None:
        """Stop, and drop what was collected: the next start begins anew."""
        self.stop()
        self._steps: deque[Step] = deque()
        self._due: deque[tuple[int, Tensor]] = deque()  # parameters, after the time from which to act with them
        self._observations: np.ndarray | None = None  # what the next action is for
        self._collected = self._done = 0  # time of the collector; time that the learner is done with
        self._updates = 0  # made when the newest parameters were handed over
        self._working = self._on_its_way = False  # the learner at a step; parameters to the host

    def start(self, env: VecEnv, observations: np.ndarray, now: int, until: int, random_until: int) -> None:
        """Go on, or begin at `observations` with the actor of now; no step begins at the time `until` or later."""
        self.stop()
        if self._observations is None:
            self._observations, self._collected, self._done = observations, now, now
            self._copy.load(actor_parameters(self._policy).cpu())
        self._until, self._random_until = until, random_until
        self._error: BaseException | None = None
        self._stopping = False
        thread = threading.Thread(target=self._run, args=(env,), name="collector", daemon=True)
        thread.start()
        self._thread = thread

    def stop(self) -> None:
        """Let the thread end, after the step that it is making."""
        if self._thread is not None:
            with self._changed:
                self._stopping = True
                self._changed.notify_all()
            self._thread.join()
            self._thread = None

    def take(self, updates: int) -> Step:
        """Return the next step, in order. Asking for it says that the learner is done with the one before.

        :param updates: made so far: if there are new ones, the parameters are new.
        :raises BaseException: what the environment raised at this step, with its own traceback.
        """
        if self._working:
            self._working = False
            if updates != self._updates:
                self._updates, self._on_its_way = updates, True
                self._down.request(actor_parameters(self._policy))
            else:
                self._advance()
        if not self._steps:
            self.publish()
        with self._changed:
            self._changed.wait_for(lambda: self._steps or self._error is not None)
            if not self._steps and self._error is not None:
                raise self._error
            self._working = True
            return self._steps.popleft()

    def publish(self) -> None:
        """Hand over the parameters that are on their way to the host, if any: the learner waits for its device here."""
        if self._on_its_way:
            self._on_its_way = False
            self._advance(torch.from_numpy(self._down.received()))

    def rest(self) -> None:
        """Wait until the collector has made all steps that it may make: nothing moves in the environment then.

        :raises BaseException: what the environment raised on the way there.
        """
        self.publish()
        with self._changed:
            if self.running:
                self._changed.wait_for(lambda: self._error is not None or not self._may_step())
                if self._error is not None:
                    raise self._error

    def _advance(self, parameters: Tensor | None = None) -> None:
        """Say that the learner is done with a step; these are its parameters, if they are new."""
        with self._changed:
            self._done += self._num_envs
            if parameters is not None:
                self._due.append((self._done + self.lag * self._num_envs, parameters))
            self._changed.notify_all()

    def _may_step(self) -> bool:
        return self._collected < self._until and self._collected <= self._done + self.lag * self._num_envs

    def _run(self, env: VecEnv) -> None:
        torch.set_num_threads(1)  # of this thread: its network is small, and the cores are the learner's
        try:
            while self._wait():
                step = self._step(env)
                with self._changed:
                    self._steps.append(step)
                    self._observations = step.new_observations
                    self._collected += self._num_envs
                    self._changed.notify_all()
        except BaseException as error:  # the learner raises it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _wait(self) -> bool:
        """Wait for a step that may be made, and load the parameters that are due at it; False: it is time to stop."""
        start = time.perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._may_step())
            self.waited += time.perf_counter() - start
            while not self._stopping and self._due and self._due[0][0] <= self._collected:
                self._copy.load(self._due.popleft()[1])
            return not self._stopping

    def _step(self, env: VecEnv) -> Step:
        seen, number = self._observations, self._collected // self._num_envs
        assert seen is not None
        actions, stored = self._copy.act(seen, number, at_random=self._collected < self._random_until)
        return Step(seen, actions, stored, *env.step(actions))  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        """All that the coming steps depend on, but the environment; at rest."""
        return {
            **{name: getattr(self, f"_{name}") for name in ("collected", "done", "updates", "working")},
            "lag": self.lag,
            "steps": [step._asdict() for step in self._steps],
            "copy": self._copy.state_dict(),
            "due": [list(entry) for entry in self._due],
            "seconds": self.waited,
        }

    def load_state_dict(self, state: dict[str, Any], observations: np.ndarray) -> None:
        """Go on from `state_dict`, with an environment that was put back to where it was and shows `observations`."""
        self.forget()
        for name in ("collected", "done", "updates", "working"):
            setattr(self, f"_{name}", state[name])
        self._steps.extend(Step(**step) for step in state["steps"])
        self._copy.load_state_dict(state["copy"])
        self._due.extend((since, parameters) for since, parameters in state["due"])
        self._observations, self.waited = observations, state["seconds"]
