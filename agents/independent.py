"""Independent SAC, the baseline that shares nothing: one Stable-Baselines3 SAC per task, as one algorithm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, NoReturn

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from agents.arguments import Basics, takes
from agents.collecting.rollout import Collection
from agents.environment import check_columns, check_env
from agents.fields import build
from agents.learning.guard import FiniteGuard
from agents.learning.metrics import TaskMetrics
from agents.learning.returns import RETURN_SCALES, reward_factors
from agents.mtsac import MTSAC
from agents.plain_sac import PlainSAC, SizedPolicy, TaskBuffers, make_sac, rows_of
from agents.settings import NetworkSettings


class Networks(nn.ModuleList):
    """Those of the tasks, side by side."""

    precision = "float32"

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """One of several with the same learning rate."""
        return self[0].optimizer  # type: ignore[return-value]

    def set_training_mode(self, mode: bool) -> None:
        """As a policy of Stable-Baselines3."""
        self.train(mode)


class Learners(list[PlainSAC]):
    """The tasks' SACs: what an agent of one network has as its update and rounds."""

    aggregators: ClassVar[dict[str, Any]] = {}

    def state_dict(self) -> dict[str, Any]:
        """By task."""
        return {learner.task: learner.state_dict() for learner in self}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        for learner in self:
            learner.load_state_dict(state[learner.task])

    def counters(self) -> dict[str, Any]:
        """None beside the agent's."""
        return {}

    def load_counters(self, saved: Any) -> None:
        """Nothing to do."""


class IndependentSAC(MTSAC):
    """One plain SAC per task, with nothing shared and the face of `MTSAC`.

    The learners are Stable-Baselines3's own `SAC`, and not MTSAC with one task, though a test shows the two equal: so
    the baseline stands on code that is not ours. Each has its own networks, buffer and random streams. What that SAC
    lacks is off: surgery, clipping of gradients, overlap of learning and stepping. T tasks have T networks, so T times
    the weights of one agent.

    :param policy: "MlpPolicy"; of `policy_kwargs` widths, depths and LayerNorm, for each task, and `optimizer_kwargs`.
    :param env: a vector environment with one column per task, as for `MTSAC`.
    :param keywords: settings (`agents.settings.AgentSettings`), for each task by itself.
    :raises TypeError: for a keyword that is no setting.
    :raises ValueError: for what plain SAC does not have, or an environment that does not fit.
    """

    algorithm: ClassVar[str] = "independent"
    policy_aliases: ClassVar[dict[str, Any]] = {"MlpPolicy": SizedPolicy}
    modules: ClassVar[tuple[str, ...]] = ("learners",)
    policy: Any  # and what else is here of the tasks, side by side
    actor: Any
    critic: Any
    replay_buffer: Any
    update: Any
    rounds: Any

    @takes(Basics)
    def __init__(self, *args: Any, **keywords: Any):
        given = Basics.of_call(type(self).__name__, args, keywords)
        own = {"policy": given.policy, "env": given.env, "aggregator": "mean", "_init_setup_model": False}
        if given.policy not in self.policy_aliases:
            raise ValueError(f"policy: expected 'MlpPolicy', whose size policy_kwargs say; found {given.policy!r}.")
        super().__init__(**{**keywords, **own})
        given.check_place()
        self.networks = build(NetworkSettings, {k: v for k, v in self.policy_kwargs.items() if k != "optimizer_kwargs"})
        if given._init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        own, tasks = self.settings, self.num_tasks
        factors = reward_factors(own.reward_scale, tasks, torch.empty(0)).tolist()
        root = np.random.randint(2**31) if self.seed is None else self.seed
        # the same networks and noise in all tasks would not be independent
        seeds = [int(np.random.SeedSequence([root, task]).generate_state(1)[0]) for task in range(tasks)]
        if self.env is not None:
            check_env(self.env)
            check_columns(self.env, self.task_names, 1)
            # a column begins as it would in an environment of its task alone
            self.env.unwrapped._seeds = [self.env.seed(seed)[0] for seed in seeds]
        self._convert_train_freq()
        width = self.observation_space.shape[0] - tasks + 1  # type: ignore[index]
        observations = spaces.Box(-np.inf, np.inf, (width,), np.float32)
        parts: Any = self.networks, self.policy_kwargs, observations, self.action_space, self.device
        each = [replace(own, seed=seed, learning_starts=own.learning_starts // tasks) for seed in seeds]
        self.learners = Learners(
            PlainSAC(name, make_sac(settings, *parts)) for name, settings in zip(self.task_names, each, strict=True)
        )
        sacs = [learner.sac for learner in self.learners]
        self.policy = Networks(sac.policy for sac in sacs)
        self.actor, self.critic = (Networks(getattr(sac, name) for sac in sacs) for name in ("actor", "critic"))
        self.replay_buffer = TaskBuffers([sac.replay_buffer for sac in sacs], factors)
        self.rounds = self.update = self.learners
        self.return_scale = RETURN_SCALES["none"](tasks, tasks, own.gamma, 1.0, 0.0, self.device)
        self.task_metrics = TaskMetrics(self.task_names, self._stats_window_size)
        self.guard = FiniteGuard(self.task_names, self.device)
        self.collection = Collection(self.timed, overlap=False)

    def _sample_action(self, learning_starts: int, *args: Any, **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
        rows, now = rows_of(self._last_obs, self.num_tasks), (self.steps_per_task, learning_starts // self.num_tasks)
        drawn = [learner.draw(row, *now) for learner, row in zip(self.learners, rows, strict=True)]
        actions, stored = (np.concatenate(columns) for columns in zip(*drawn, strict=True))
        return actions, stored

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """`gradient_steps` updates of each task's SAC.

        :raises NonFiniteError: naming the task whose losses or networks broke down.
        """
        with self.timed("learn"):
            found = [each.train(gradient_steps, batch_size, self._current_progress_remaining) for each in self.learners]
        self._n_updates += gradient_steps
        numbers = torch.tensor(found, device=self.device).T
        self.task_metrics.note(critic_loss=numbers[0], actor_loss=numbers[1], ent_coef=numbers[2])
        self.guard.watch(numbers, self._n_updates)
        self.guard.check()

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, None]:
        """Actions (N, A) for observations (N, D + T), each by the actor of the task that its one-hot names."""
        batch = np.atleast_2d(observation)
        tasks = batch[:, -self.num_tasks :].argmax(1)
        pairs = zip(tasks, rows_of(batch, self.num_tasks), strict=True)
        actions = [self.policy[task].predict(row, deterministic=deterministic)[0] for task, row in pairs]
        return np.concatenate(actions).reshape(*np.shape(observation)[:-1], -1), None

    def _of_one_network(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: this agent has a network per task."""
        raise NotImplementedError("IndependentSAC has a network per task: agent.learners[i].sac is the i-th SAC.")

    export_sb3 = export_onnx = get_parameters = set_parameters = _of_one_network
