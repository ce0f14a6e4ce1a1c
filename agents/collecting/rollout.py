"""Collecting transitions while the networks learn: Stable-Baselines3's off-policy loop, reordered.

Stable-Baselines3's `learn` alternates `collect_rollouts` and `train`. Here `collect_rollouts` ends by sending the next
actions to the environment, so the environment steps while `train` runs. The update of step t therefore acts with a
policy that lags by one update: deterministic, on by default (`overlap`), and part of the protocol.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import RolloutReturn, TrainFreq
from stable_baselines3.common.vec_env import VecEnv

from agents.collecting.acting import Acting, HeldNoise, there_and_back
from agents.collecting.stopwatch import Stopwatch
from agents.settings import AgentSettings


class Step(NamedTuple):
    """One vector step of E T columns; actions as the environment and as the buffer takes them."""

    actions: np.ndarray
    stored_actions: np.ndarray
    new_observations: np.ndarray
    rewards: np.ndarray
    dones: np.ndarray
    infos: list[dict[str, Any]]


@runtime_checkable
class Learner(Protocol):
    """What the loop asks of the agent that it collects for."""

    policy: Any
    settings: AgentSettings
    num_timesteps: int
    _total_timesteps: int
    _n_updates: int
    _last_obs: Any

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the next actions, as the environment and as the buffer takes them."""

    def take_in(self, step: Step) -> None:
        """Store the step and count it."""

    def due(self, every: int) -> bool:
        """Whether that step reached or passed a multiple of `every` steps per task."""

    def dump_logs(self) -> None:
        """Write a row of logs."""


class Collection:
    """Steps an environment for an agent, and can be resumed exactly where a callback saw it.

    Unlike Stable-Baselines3's loop it stores a transition *before* the callbacks see the step, and logs every so many
    environment steps per task instead of once per finished episode.

    :param timed: adds up the seconds of "env", "act" and "evaluate".
    :param overlap: step the environment during the update.
    :param acting: draws the actions after the random ones of the beginning; None: Stable-Baselines3 does.
    """

    def __init__(self, timed: Stopwatch, overlap: bool, acting: Acting | None = None):
        self._timed, self._overlap, self.acting = timed, overlap, acting
        self._rollout_steps = 0  # vector steps that this rollout has stored so far
        self._next_actions: tuple[np.ndarray, np.ndarray] | None = None  # drawn, not stored: (env's, buffer's)
        self._stepping: VecEnv | None = None  # it was sent the actions, and their step is not stored yet
        self._outcome: Any = None  # of that step, received before it was asked for

    @property
    def pending(self) -> bool:
        """Whether actions were sent whose step is not stored yet."""
        return self._stepping is not None

    def collect(
        self,
        agent: Learner,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: BaseBuffer,
        action_noise: ActionNoise | None = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        """Receive and store steps until an update is due, then draw the next actions and send them off.

        A checkpoint that a callback writes sees the step stored, nothing pending and the update still to come;
        `counters` say so, and a resumed loop continues right there. After `agent` come the arguments of
        Stable-Baselines3's `collect_rollouts`; the agent's own buffer and interval of logs are used.
        """
        agent.policy.set_training_mode(False)
        frequency = train_freq.frequency  # vector steps between two rounds of updates
        if self._rollout_steps == 0:
            self.settle()  # the next that happens to the environment is to wait for it anyway
            callback.on_rollout_start()
        while self._rollout_steps < frequency:
            step = self._step(agent, env, learning_starts, action_noise)
            actions, _, new_obs, rewards, dones, infos = step  # names that callbacks look for
            agent.take_in(step)
            self._next_actions = self._stepping = None  # not before: an interrupted store counts as pending
            self._rollout_steps += 1
            if agent.due(agent.settings.log_every):
                agent.dump_logs()  # before the callbacks: a checkpoint of this step finds the step's row written
            callback.update_locals(locals())
            with self._timed("evaluate"):
                keep_going = callback.on_step()
            ended_early = agent.num_timesteps >= agent._total_timesteps and self._rollout_steps < frequency
            if not keep_going or ended_early:  # the update is still to come if `learn` is called again
                return RolloutReturn(env.num_envs, 0, continue_training=False)
        if self._overlap:  # else they are drawn after the update, as Stable-Baselines3 does
            self._draw_actions(agent, env, learning_starts, action_noise)
        callback.on_rollout_end()  # before they are sent: it may touch the environment
        if self._next_actions is not None and agent.num_timesteps < agent._total_timesteps:
            self._send(env)
        collected, self._rollout_steps = self._rollout_steps * env.num_envs, 0
        return RolloutReturn(collected, 0, continue_training=True)

    def settle(self) -> None:
        """Wait until nothing moves in the environment."""
        if self._stepping is not None and self._outcome is None:
            with self._timed("env"):
                self._outcome = self._stepping.step_wait()

    def forget(self) -> None:
        """Forget what came before: the environment is about to be reset."""
        self._next_actions, self._rollout_steps = None, 0

    def drop(self) -> bool:
        """Give up the step that is being made, after an error.

        :return: whether there was one: then the environment must be reset before its next step.
        """
        if self._stepping is None:
            return False
        if self._outcome is None:
            with contextlib.suppress(Exception):
                self._stepping.step_wait()
        self._stepping = self._next_actions = self._outcome = None
        return True

    def counters(self) -> dict[str, Any]:
        """Where the loop is, by its names in a saved agent."""
        noise = getattr(self.acting, "noise", None)
        return {"_rollout_steps": self._rollout_steps, "_next_actions": self._next_actions, "_noise": noise}

    def load_counters(self, saved: Mapping[str, Any]) -> None:
        """Go on from `counters`."""
        self._rollout_steps, self._next_actions = saved["_rollout_steps"], saved["_next_actions"]
        if isinstance(self.acting, HeldNoise):
            self.acting.load_noise(saved["_noise"])

    def _step(self, agent: Learner, env: VecEnv, learning_starts: int, action_noise: ActionNoise | None) -> Step:
        """Return the next vector step."""
        self._draw_actions(agent, env, learning_starts, action_noise)
        if self._stepping is None:
            self._send(env)
        self.settle()
        assert self._next_actions is not None
        outcome, self._outcome = self._outcome, None
        return Step(*self._next_actions, *outcome)

    def _draw_actions(
        self, agent: Learner, env: VecEnv, learning_starts: int, action_noise: ActionNoise | None
    ) -> None:
        if self._next_actions is not None:
            return
        with self._timed("act"):
            if self.acting is None or agent.num_timesteps < learning_starts or action_noise is not None:
                self._next_actions = agent._sample_action(learning_starts, action_noise, env.num_envs)
            else:
                drawn = self.acting(np.asarray(agent._last_obs), agent.num_timesteps // env.num_envs)
                self._next_actions = there_and_back(agent.policy, agent.policy.unscale_action(drawn))

    def _send(self, env: VecEnv) -> None:
        assert self._next_actions is not None
        env.step_async(self._next_actions[0])
        self._stepping = env
