"""The loop of an agent whose environment is stepped by a thread, several vector steps ahead of the learner."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.vec_env import VecEnv

from agents.ahead.collector import Collector
from agents.collecting.rollout import Collection, Learner, Step
from agents.collecting.stopwatch import Stopwatch
from agents.networks.policies import MultiTaskPolicy


class AheadCollection(Collection):
    """Takes the steps that a collector has made.

    :param timed: adds up the seconds of "env" and "evaluate".
    :param columns: E T, of the environment; the others are a `Collector`'s.
    """

    def __init__(self, timed: Stopwatch, policy: MultiTaskPolicy, columns: int, lag: int, noise_hold: int, seed: int):
        super().__init__(timed, overlap=False)
        self.collector = Collector(policy, columns, lag, noise_hold, seed)

    def settle(self) -> None:
        """Wait until the collector has made all steps that it may make."""
        self.collector.rest()

    def forget(self) -> None:
        """Drop what was collected."""
        super().forget()
        self.collector.forget()

    def drop(self) -> bool:
        """Drop what was collected, after an error."""
        if running := self.collector.running:
            self.collector.forget()
        return running

    def stop(self) -> None:
        """End the thread."""
        self.collector.stop()

    def record(self, logger: Logger) -> None:
        """Add the lag, and how long the collector waited."""
        logger.record("time/policy_lag", self.collector.lag)
        logger.record("time/seconds_collector_waited", round(self.collector.waited, 3))

    def state_dict(self) -> dict[str, Any]:
        """Return what was collected ahead, and what that goes on with."""
        return self.collector.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None, observations: np.ndarray) -> None:
        """Go on from `state_dict`."""
        if state is not None:
            self.collector.load_state_dict(state, observations)

    def _start(self, agent: Learner, env: VecEnv, learning_starts: int, action_noise: ActionNoise | None) -> None:
        if action_noise is not None:
            raise ValueError("collect_ahead acts with noise of its own: expected no action_noise. Set it to None.")
        if not self.collector.running:
            observations = np.asarray(agent._last_obs)
            self.collector.start(env, observations, agent.num_timesteps, agent._total_timesteps, learning_starts)

    def _step(self, agent: Learner, env: VecEnv, learning_starts: int, action_noise: ActionNoise | None) -> Step:
        with self._timed("env"):
            return self.collector.take(agent._n_updates)

    def _shown(self) -> None:
        self.collector.publish()  # what the device has computed meanwhile; before it gets more to do
