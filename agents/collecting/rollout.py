"""Collecting transitions while the networks learn: Stable-Baselines3's off-policy loop, reordered.

Stable-Baselines3's `learn` alternates `collect_rollouts` and `train`. Here `collect_rollouts` ends by sending the next
actions to the environment, so the environment steps while `train` runs. The update of step t therefore acts with a
policy that lags by one update: deterministic, on by default (`overlap`), and part of the protocol. With `collect_ahead`
a thread steps the environment instead, several vector steps ahead of the learner (see `agents.ahead.collector`).
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import RolloutReturn, TrainFreq
from stable_baselines3.common.vec_env import VecEnv

from agents.ahead.collector import Collector


class OverlappedSAC(SAC):
    """SAC whose environment steps during the update, and whose loop can be resumed exactly where a callback saw it.

    Unlike Stable-Baselines3's loop it stores a transition *before* the callbacks see the step, and it logs every
    `log_every` environment steps per task instead of once per finished episode.
    """

    overlap: bool
    collect_ahead: int
    noise_hold: int
    log_every: int
    _stream_seed: int  # of the generators beside torch's own
    task_names: tuple[str, ...]
    seconds: dict[str, float]

    def _setup_loop(self) -> None:
        self._pending = False  # actions were sent and the result was not received yet
        self._next_actions: tuple[np.ndarray, np.ndarray] | None = None  # drawn, but not sent: (env's, buffer's)
        self._outcome: Any = None  # of the pending step, received before it was asked for
        self._rollout_steps = 0  # vector steps that this rollout has stored so far
        self._collector: Collector | None = None  # made when it is needed
        self.seconds = {"env": 0.0, "act": 0.0, "learn": 0.0, "evaluate": 0.0}

    @property
    def num_tasks(self) -> int:
        """T: of the environment's E T columns."""
        return len(self.task_names)

    @property
    def envs_per_task(self) -> int:
        """E: environment steps per task in a vector step."""
        return self.n_envs // self.num_tasks

    @property
    def steps_per_task(self) -> int:
        """Environment steps per task so far."""
        return self.num_timesteps // self.num_tasks

    def due(self, every: int) -> bool:
        """Whether the last vector step reached or passed a multiple of `every` steps per task; 0: never."""
        return every > 0 and self.steps_per_task > 0 and self.steps_per_task % every < self.envs_per_task

    @contextlib.contextmanager
    def timed(self, part: str) -> Any:
        """Add the time spent inside to `seconds[part]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start

    def learn(self, *args: Any, **kwargs: Any) -> Any:
        """As Stable-Baselines3's. When it ends, normally or not, no environment step is pending."""
        if len(args) < 4:  # the position of tb_log_name
            kwargs.setdefault("tb_log_name", type(self).__name__)
        try:
            result = super().learn(*args, **kwargs)
            self.settle()
            return result
        except BaseException:
            if self._pending:  # the step in flight is dropped, and the next `learn` begins with a reset
                with contextlib.suppress(Exception):
                    assert self.env is not None
                    self.env.step_wait()
                self._pending, self._next_actions, self._outcome, self._last_obs = False, None, None, None
            if self._collector is not None and self._collector.running:  # likewise the steps ahead
                self._collector.forget()
                self._last_obs = None
            raise
        finally:
            if self._collector is not None:
                self._collector.stop()

    def settle(self) -> None:
        """Wait until nothing moves in the training environment."""
        if self._collector is not None:
            self._collector.rest()
        elif self._pending and self._outcome is None:
            with self.timed("env"):
                assert self.env is not None
                self._outcome = self.env.step_wait()

    def get_env(self) -> VecEnv | None:
        """The training environment, with nothing moving in it: what callbacks see as `training_env`.

        Under `collect_ahead` it is up to so many vector steps ahead of the learner, and what a callback changes holds
        from there on.
        """
        self.settle()
        return super().get_env()

    def collected_state(self) -> dict[str, Any] | None:
        """What was collected ahead, and what that goes on with; None without `collect_ahead`. After `settle`."""
        return self._the_collector().state_dict() if self.collect_ahead else None

    def load_collected_state(self, state: dict[str, Any] | None) -> None:
        """Go on from `collected_state`, with the environment put back to where it was; `_last_obs` is what it shows."""
        if state is not None:
            self._the_collector().load_state_dict(state, self._last_obs)  # type: ignore[arg-type]

    def _begin_loop(self) -> None:
        """The environment is about to be reset: what came before belongs to other episodes."""
        self._next_actions, self._rollout_steps = None, 0
        if self._collector is not None:
            self._collector.forget()

    def collect_rollouts(
        self,
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
        `_rollout_steps` says so, and a resumed loop continues right there. `log_interval` is not used.
        """
        self.policy.set_training_mode(False)
        if self.collect_ahead:
            self._start_collector(env, learning_starts, action_noise)
        if self._rollout_steps == 0:
            if self._collector is None:
                self.settle()  # the next that happens to the environment is to wait for it anyway
            callback.on_rollout_start()
        while self._rollout_steps < train_freq.frequency:
            if self._collector is None:
                self._draw_actions(learning_starts, action_noise)
                self._send()
            actions, new_obs, rewards, dones, infos = self._receive(replay_buffer)  # names that callbacks look for
            self._rollout_steps += 1
            if self.due(self.log_every):
                self._record_lag()
                self.dump_logs()  # before the callbacks: a checkpoint of this step finds the step's row written
            callback.update_locals(locals())
            with self.timed("evaluate"):
                keep_going = callback.on_step()
            if self._collector is not None:
                self._collector.publish()  # what the device has computed meanwhile; before it gets more to do
            ended_early = self.num_timesteps >= self._total_timesteps and self._rollout_steps < train_freq.frequency
            if not keep_going or ended_early:  # the update is still to come if `learn` is called again
                return RolloutReturn(env.num_envs, 0, continue_training=False)
        if self.overlap and self._collector is None:  # else they are drawn after the update, as Stable-Baselines3 does
            self._draw_actions(learning_starts, action_noise)
        callback.on_rollout_end()  # before they are sent: it may touch the environment
        if self._next_actions is not None and self.num_timesteps < self._total_timesteps:
            self._send()
        collected, self._rollout_steps = self._rollout_steps * env.num_envs, 0
        return RolloutReturn(collected, 0, continue_training=True)

    def _the_collector(self) -> Collector:
        if self._collector is None:
            lag, hold, seed = self.collect_ahead, self.noise_hold, self._stream_seed
            self._collector = Collector(self.policy, self.n_envs, lag, hold, seed)  # type: ignore[arg-type]
        return self._collector

    def _start_collector(self, env: VecEnv, learning_starts: int, action_noise: ActionNoise | None) -> None:
        if action_noise is not None:
            raise ValueError("collect_ahead acts with noise of its own: expected no action_noise. Set it to None.")
        if not (collector := self._the_collector()).running:
            observations = np.asarray(self._last_obs)
            collector.start(env, observations, self.num_timesteps, self._total_timesteps, learning_starts)

    def _record_lag(self) -> None:
        if self._collector is not None:
            self.logger.record("time/policy_lag", self._collector.lag)
            self.logger.record("time/seconds_collector_waited", round(self._collector.waited, 3))

    def _draw_actions(self, learning_starts: int, action_noise: ActionNoise | None) -> None:
        if self._next_actions is None:
            with self.timed("act"):
                self._next_actions = self._sample_action(learning_starts, action_noise, self.n_envs)

    def _send(self) -> None:
        if not self._pending:
            assert self.env is not None
            assert self._next_actions is not None
            self.env.step_async(self._next_actions[0])
            self._pending = True

    def _receive(self, replay_buffer: BaseBuffer) -> tuple[Any, ...]:
        actions, buffer_actions, (new_obs, rewards, dones, infos) = self._await_step()
        self._store_transition(replay_buffer, buffer_actions, new_obs, rewards, dones, infos)  # type: ignore[arg-type]
        self._next_actions, self._pending = None, False  # not before: an interrupted store counts as pending
        self.num_timesteps += self.n_envs
        self._update_info_buffer(infos, dones)
        self._record_episodes(infos, dones)
        self._episode_num += int(np.sum(dones))
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        return actions, new_obs, rewards, dones, infos

    def _await_step(self) -> tuple[Any, Any, tuple[Any, ...]]:
        """Actions of the environment and of the buffer, and what the environment answered."""
        if self._collector is not None:
            with self.timed("env"):
                self._last_obs, actions, buffer_actions, *outcome = self._collector.take(self._n_updates)
            return actions, buffer_actions, tuple(outcome)
        self.settle()
        assert self._next_actions is not None
        outcome, self._outcome = self._outcome, None
        return *self._next_actions, outcome

    def _record_episodes(self, infos: list[dict[str, Any]], dones: np.ndarray) -> None:
        """Called with each vector step's infos; a subclass keeps its statistics per task."""
