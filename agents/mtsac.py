"""Multi-task soft actor-critic: Stable-Baselines3's SAC with a loss per task and surgery on the tasks' gradients."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv

import mtrl
from agents.checks import check_settings, named_schedule
from agents.collecting.acting import DeviceActing
from agents.collecting.replay import TaskReplayBuffer, truncations
from agents.device.captured import CapturedUpdates
from agents.environment import check_columns, check_env, check_kind, check_one_hot, task_names
from agents.learning.aggregation import build_aggregator
from agents.learning.guard import FiniteGuard
from agents.learning.metrics import TaskMetrics
from agents.learning.returns import RETURN_SCALES
from agents.learning.rounds import UpdateRounds
from agents.networks.policies import MultiTaskPolicy


class MTSAC(UpdateRounds):
    """One soft actor-critic for T tasks, with the tasks' gradients reconciled by an aggregator before each step.

    Column c of the environment is of task c mod T, and the last T columns of an observation are the task's one-hot.
    Each update takes `batch_size` rows per task from one replay buffer and forms a critic loss and an actor loss per
    task; the aggregators turn the tasks' gradients of the shared parameters into one update each. Temperatures are per
    task, and each moves by its own task's loss alone. With one task and `Mean` this is Stable-Baselines3's SAC to
    rounding.
    (Haarnoja et al. 2018, arXiv 1812.05905; Yu et al. 2020, arXiv 2001.06782.)

    :param policy: "MultiTaskMlpPolicy"; `policy_kwargs` are those of `MultiTaskPolicy`.
    :param env: a vector environment with one column per task, or `env.envs_per_task` of them.
    :param aggregator: a name that `mtrl.make_aggregator` knows (options in `aggregator_kwargs`), or an instance.
    :param critic_aggregator: the critic's (options in `critic_aggregator_kwargs`), if it is to differ from the actor's;
        else a second instance of the same.
    :param learning_rate: of actor, critic and temperatures; a number or a named schedule ("linear:3e-4").
    :param buffer_size: transitions kept *per task*.
    :param learning_starts: environment steps, all tasks together, of random actions before the first update.
    :param batch_size: rows *per task* in an update.
    :param train_freq: vector steps between two rounds of `gradient_steps` updates: with E environments per task, take
        E times the updates for as many updates per environment step.
    :param n_steps: rewards that a target adds up before it bootstraps, fewer where the episode or the buffer ends. As
        in Stable-Baselines3 nothing corrects for the policy having changed since, and of the entropies only that after
        the last reward counts: with more steps the same temperature is a smaller bonus.
    :param high_reward_fraction: share of a task's rows in an update that are drawn for their reward, each the best of
        `high_reward_candidates` uniform draws (see `agents.TaskReplayBuffer`); 0: all are drawn uniformly.
    :param target_update_interval: updates of a round (`gradient_steps` of them) per update of the target critics, the
        round's first included, as in Stable-Baselines3.
    :param policy_delay: critic updates per update of actor and temperatures.
    :param ent_coef: "auto", "auto_0.1" (initial value), or a fixed number, 0 for no entropy.
    :param noise_hold: vector steps for which an action's noise stays the same; 1: fresh noise at each.
    :param ent_coef_min: learned temperatures do not fall below it.
    :param critic_reduction: "min" or "mean" over the critics, in the target and for the actor.
    :param max_grad_norm: clip the global norm of actor's and critic's update at this, after surgery; None: no clipping.
    :param reward_scale: one number, or one per task, that rewards are multiplied by in the update (raw in the buffer).
    :param return_scale: what brings the tasks' returns to one size: "none", "brc", "reward-std" or "popart" (see
        `agents.learning.returns`). Temperatures and Q values are in its units.
    :param reset_at: steps per task at which networks, optimizers, temperatures and aggregators begin anew. Buffer and
        return scale stay, as do the numbers of updates and steps.
    :param loss_weighting: "temperature" weights task i's losses with T softmax(-log alpha)_i, "none" equally.
    :param capture: on a CUDA device, replay an update as one captured graph (see `agents.device.captured`); a
        number: so many updates together, where `gradient_steps` has as many. Like `device` it is not saved: say it
        again at `load`.
    :param overlap: step the environment during the update (see `agents.collecting.rollout`).
    :param collect_ahead: N above 0: a thread steps the environment, up to N vector steps ahead of the learner, and acts
        with the actor of N vector steps ago (see `agents.ahead.collector`). Then `overlap` means nothing.
    :param log_every: environment steps per task between two rows of logs.
    :param log_conflicts: updates between two measurements of the tasks' conflict (see `mtrl.diagnostics`), rounded up
        to a multiple of `policy_delay`; 0 for none.
    :param replay_buffer_kwargs: `seed` and `dtype` of `agents.TaskReplayBuffer`; the rest follows from the others here.
    :param seed: of weights, actions, samples and random orders; None: another one each time.
    :raises ValueError: for settings or environments that do not fit; the message says what was expected.
    """

    policy_aliases: ClassVar[dict[str, Any]] = {"MultiTaskMlpPolicy": MultiTaskPolicy, "MlpPolicy": MultiTaskPolicy}
    policy: MultiTaskPolicy  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[MultiTaskPolicy],
        env: GymEnv | None,
        aggregator: str | mtrl.Aggregator = "pcgrad",
        aggregator_kwargs: dict[str, Any] | None = None,
        critic_aggregator: str | mtrl.Aggregator | None = None,
        critic_aggregator_kwargs: dict[str, Any] | None = None,
        learning_rate: float | str = 3e-4,
        buffer_size: int = 100_000,
        learning_starts: int = 100,
        batch_size: int = 128,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int = 1,
        gradient_steps: int = 1,
        n_steps: int = 1,
        high_reward_fraction: float = 0.0,
        high_reward_candidates: int = 64,
        policy_delay: int = 1,
        ent_coef: str | float = "auto",
        ent_coef_min: float = 0.0,
        noise_hold: int = 1,
        target_entropy: str | float = "auto",
        target_update_interval: int = 1,
        critic_reduction: str = "min",
        max_grad_norm: float | None = None,
        reward_scale: float | Sequence[float] = 1.0,
        return_scale: str = "none",
        reset_at: Sequence[int] = (),
        loss_weighting: Literal["none", "temperature"] = "none",
        capture: bool | int = False,
        overlap: bool = True,
        collect_ahead: int = 0,
        log_every: int = 100,
        log_conflicts: int = 500,
        stats_window_size: int = 20,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        check_settings(locals())
        check_kind(env)
        if critic_aggregator is None:
            critic_aggregator, critic_aggregator_kwargs = aggregator, aggregator_kwargs
        self._aggregators_given = ((aggregator, aggregator_kwargs), (critic_aggregator, critic_aggregator_kwargs))
        self.return_steps = n_steps  # Stable-Baselines3's n_steps is for a buffer of its own
        self.high_reward_fraction, self.high_reward_candidates = high_reward_fraction, high_reward_candidates
        self.policy_delay = policy_delay
        self.ent_coef_min = ent_coef_min
        self.noise_hold = noise_hold
        self.critic_reduction = critic_reduction
        self.max_grad_norm = max_grad_norm
        self.reward_scale = reward_scale
        self.return_scale_name = return_scale
        self.reset_at = tuple(reset_at)
        self.loss_weighting = loss_weighting
        self.capture = capture
        self.overlap = overlap
        self.collect_ahead = collect_ahead
        self.log_every = log_every
        self.log_conflicts = log_conflicts
        self.learning_rate_name = learning_rate
        super().__init__(
            policy=policy,  # type: ignore[arg-type]
            env=env,  # type: ignore[arg-type]
            learning_rate=named_schedule(learning_rate),
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            replay_buffer_class=TaskReplayBuffer,  # type: ignore[arg-type]
            replay_buffer_kwargs=replay_buffer_kwargs,
            ent_coef=ent_coef,
            target_update_interval=target_update_interval,
            target_entropy=target_entropy,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=dict(policy_kwargs or {}),  # Stable-Baselines3 and we add entries: not to the caller's
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        self.policy_kwargs.pop("use_sde", None)  # Stable-Baselines3 adds it; this policy has no such noise
        self.task_names = task_names(self.env)
        self._setup_loop()
        self._noise: torch.Tensor | None = None
        self._resets, self._refreshed = 0, -1  # networks begun anew; steps at the last look of the return scale
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        if self.env is not None:
            check_env(self.env)
        if self.target_entropy == "auto":
            self.target_entropy = -float(np.prod(self.action_space.shape))  # type: ignore[arg-type]
        self.policy_kwargs["num_tasks"] = self.num_tasks
        fixed = {
            "num_tasks": self.num_tasks,
            "n_steps": self.return_steps,
            "gamma": self.gamma,
            "high_reward_fraction": self.high_reward_fraction,
            "high_reward_candidates": self.high_reward_candidates,
        }
        # without a seed it is another one each time, from the generator that Stable-Baselines3 would sample with
        self._stream_seed = np.random.randint(2**31) if self.seed is None else self.seed
        self.replay_buffer_kwargs = {"seed": self._stream_seed, **self.replay_buffer_kwargs, **fixed}
        super()._setup_model()
        self.policy.check_trained()
        self._setup_temperatures()
        tasks, device = self.num_tasks, self.device
        self.aggregator, self.critic_aggregator = (
            build_aggregator(given, options, self._stream_seed).to(device) for given, options in self._aggregators_given
        )
        self._reset_aggregators()
        scale = torch.as_tensor(self.reward_scale, device=device, dtype=self.replay_buffer.rows.dtype)
        if scale.ndim > 1 or scale.numel() not in (1, tasks):
            raise ValueError(f"reward_scale takes one number or one per task ({tasks}), found {self.reward_scale}.")
        self._reward_scale = scale.expand(tasks)
        restored = vars(self).get("return_scale")  # Stable-Baselines3's load has put the pickled one here
        self.return_scale = RETURN_SCALES[self.return_scale_name](
            tasks, self.n_envs, self.gamma, self.policy.v_max, float(self.target_entropy), device
        )
        if restored is not None:
            self.return_scale.load_state_dict(restored.state_dict())
        self.task_metrics = TaskMetrics(self.task_names, self._stats_window_size)
        self.guard = FiniteGuard(self.task_names, self.device)
        self._looked_at = False
        self._update_number = torch.zeros((), dtype=torch.int64, device=device)
        self._captured = CapturedUpdates(self, int(self.capture)) if self.capture else None
        graphs = self._captured.graphs if self._captured else None
        self._acting = DeviceActing(self.actor, graphs) if device.type == "cuda" else None

    def _setup_temperatures(self) -> None:
        """One temperature per task; Stable-Baselines3's set-up has checked `ent_coef` and made a single one."""
        if self.log_ent_coef is None:
            self.ent_coef_tensor = self.ent_coef_tensor.repeat(self.num_tasks)
            return
        self.log_ent_coef = self.log_ent_coef.detach().repeat(self.num_tasks).requires_grad_()
        self._log_ent_coef_start = float(self.log_ent_coef[0].detach())
        options = {"fused": True, **self.policy.optimizer_kwargs}
        self.ent_coef_optimizer = torch.optim.Adam([self.log_ent_coef], lr=self.lr_schedule(1), **options)

    def _setup_learn(
        self, total_timesteps: int, callback: Any = None, reset_num_timesteps: bool = True, *args: Any, **kwargs: Any
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps or self._last_obs is None:
            self._begin_loop()
            self.replay_buffer.cut()  # an episode that was running ends here, for who looks at neighbours
            self.return_scale.cut()
        if self.actor.precision == "tf32" and self.device.type != "cuda":
            warnings.warn(
                f"precision tf32 has no effect on {self.device}: float32 it is.", RuntimeWarning, stacklevel=3
            )
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)
        check_one_hot(np.asarray(self._last_obs), self.num_tasks)
        return result

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """As Stable-Baselines3's; the environment must have the tasks that the agent was built for."""
        check_kind(env)
        check_columns(env, self.task_names, self.envs_per_task)
        super().set_env(env, force_reset)
        assert self.env is not None
        check_env(self.env)

    def eval_action(self, observations: np.ndarray) -> np.ndarray:
        """Deterministic actions (rows, A): what `metaworld.evaluation.evaluation` calls."""
        return self.predict(observations, deterministic=True)[0]

    def reset(self, env_mask: np.ndarray) -> None:
        """Nothing to do at an episode's start: the policy has no memory (`metaworld.evaluation` calls this)."""

    def _store_transition(self, replay_buffer: Any, buffer_action: Any, *step: Any) -> None:
        super()._store_transition(replay_buffer, buffer_action, *step)
        _, rewards, dones, infos = step
        self.return_scale.observe(rewards, dones, truncations(infos))

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """As Stable-Baselines3's, action for action; on CUDA without its detours."""
        draw = self._draw_held if self.noise_hold > 1 else self._acting
        if draw is None or self.num_timesteps < learning_starts or action_noise is not None:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        drawn = self.policy.unscale_action(draw(np.asarray(self._last_obs)))
        stored = self.policy.scale_action(drawn)  # there and back, as Stable-Baselines3: the same rounding
        return self.policy.unscale_action(stored), stored

    @torch.no_grad()
    def _draw_held(self, observations: np.ndarray) -> np.ndarray:
        """Actions (E T, A) in (-1, 1) whose normal noise stays the same for `noise_hold` vector steps."""
        if self._noise is None or self.num_timesteps // self.n_envs % self.noise_hold == 0:
            self._noise = torch.randn(self.n_envs, *self.action_space.shape, device=self.device)  # type: ignore[misc]
        rows = torch.as_tensor(observations, device=self.device, dtype=next(self.actor.parameters()).dtype)
        return self.actor(rows, noise=self._noise).cpu().numpy()

    def _record_episodes(self, infos: list[dict[str, Any]], dones: np.ndarray) -> None:
        self.task_metrics.add_episodes(infos, dones)

    def metrics(self) -> dict[str, float]:
        """The latest numbers, "group/quantity" over all tasks and "group/quantity/task" by task name.

        Waits for the device: meant for log time.
        """
        return self.task_metrics.read()

    def dump_logs(self) -> None:
        """Write one row of `metrics` and times to the logger."""
        for key, value in self.metrics().items():
            # by task: to files only, as Stable-Baselines3's table has no room for names that long
            self.logger.record(key, value, exclude="stdout" if key.count("/") > 1 else None)
        if self._n_updates:  # `train` records it, too, but that record is lost when a run stops in between
            self.logger.record("train/learning_rate", float(self.actor.optimizer.param_groups[0]["lr"]))
        self.logger.record("time/env_steps_per_task", self.steps_per_task)
        self.logger.record("time/updates", self._n_updates)
        for part, seconds in self.seconds.items():
            self.logger.record(f"time/seconds_{part}", round(seconds, 3))
        for network, aggregator in (("actor", self.aggregator), ("critic", self.critic_aggregator)):
            if hasattr(aggregator, "fallbacks"):  # of an iterative solver, so far
                self.logger.record(f"train/{network}_fallbacks", int(aggregator.fallbacks))
        for network, cosines in self.task_metrics.cosines().items():
            self.logger.record(f"cosines/{network}", cosines, exclude=("stdout", "log", "csv", "json", "tensorboard"))
        self.task_metrics.measured.clear()  # each measurement is written once
        self.logger.dump(step=self.num_timesteps)
