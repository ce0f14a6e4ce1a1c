"""The parts that an agent holds, built from its settings and from what Stable-Baselines3 has set up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from stable_baselines3 import SAC
from torch import Tensor

import mtrl
from agents.collecting.acting import Acting, DeviceActing, HeldNoise
from agents.collecting.replay import TaskReplayBuffer
from agents.collecting.rollout import Collection
from agents.collecting.stopwatch import Stopwatch
from agents.device.captured import CapturedUpdates
from agents.device.compiled import CompiledUpdates
from agents.fields import SettingError, taken_by
from agents.learning.aggregation import build_aggregator, check_batches, refuse_beside_loss_limit, refuse_for_actor
from agents.learning.guard import FiniteGuard
from agents.learning.metrics import TaskMetrics
from agents.learning.returns import RETURN_SCALES, ReturnScale, reward_factors
from agents.learning.rounds import NotedUpdate, UpdateRounds
from agents.learning.sac import SACUpdate
from agents.learning.temperatures import FixedTemperatures, GoalTemperatures, LearnedTemperatures
from agents.learning.update import Update
from agents.networks.goal import goal_numbers
from agents.networks.policies import MultiTaskPolicy
from agents.networks.task_vectors import with_task_vectors
from agents.schedules import learning_schedule
from agents.settings import AgentSettings


def sac_options(settings: AgentSettings) -> dict[str, Any]:
    """Arguments of Stable-Baselines3's SAC."""
    rate = learning_schedule(settings.learning_rate)
    return {**taken_by(SAC, asdict(settings)), "learning_rate": rate, "n_steps": 1}  # our buffer sums the rewards


def buffer_options(settings: AgentSettings, num_tasks: int, seed: int, given: dict[str, Any]) -> dict[str, Any]:
    """Options of `TaskReplayBuffer` beside its size and spaces; `given` are a user's seed and dtype."""
    of_settings = taken_by(TaskReplayBuffer, {**asdict(settings), "num_tasks": num_tasks})
    del of_settings["buffer_size"], of_settings["seed"]
    return {"seed": seed, **given, **of_settings}


def policy_options(given: dict[str, Any], task_names: Sequence[str]) -> dict[str, Any]:
    """Options of the policy: a user's, and what follows from the tasks."""
    return {**with_task_vectors(given, task_names), "num_tasks": len(task_names)}


class Parts(NamedTuple):
    """What an agent holds beside its networks, buffer and aggregators."""

    return_scale: ReturnScale
    update: Update
    task_metrics: TaskMetrics
    guard: FiniteGuard
    captured: CapturedUpdates | None
    rounds: UpdateRounds
    collection: Collection


@dataclass(frozen=True)
class Assembly:
    """Builds the parts of an agent of its settings and of what Stable-Baselines3 has set up.

    :param columns: E T, of the environment.
    :param seed: of random streams beside torch's own.
    """

    settings: AgentSettings
    task_names: tuple[str, ...]
    columns: int
    seed: int
    policy: MultiTaskPolicy
    buffer: TaskReplayBuffer
    update_class: type[Update] = SACUpdate

    def aggregators(self, *given: tuple[str | mtrl.Aggregator, dict[str, Any] | None]) -> list[mtrl.Aggregator]:
        """Return the aggregators of actor and critic on their device, from names or instances with their options."""
        built = [build_aggregator(*each, self.seed).to(self.buffer.rows.device) for each in given]
        refuse_for_actor(type(built[0]))
        networks = {"actor": self.policy.actor, "critic": self.policy.critic}
        for aggregator, (name, network) in zip(built, networks.items(), strict=True):
            check_batches(aggregator, self.settings)
            if self.settings.loss_limit:
                refuse_beside_loss_limit(aggregator)
            if aggregator.wanted_batches > 1:
                network.check_block_gradients(name, aggregator.wanted_batches)
        return built

    def temperatures(self, log_alpha: Tensor | None, rate: float, target_entropy: float) -> FixedTemperatures:
        """Return one per task, or a function of the goal.

        :param log_alpha: the single one that Stable-Baselines3 has made, if it is learned.
        """
        num_tasks = len(self.task_names)
        if log_alpha is None:
            alpha = float(self.settings.ent_coef)
            return FixedTemperatures(torch.full((num_tasks,), alpha, device=self.buffer.rows.device))
        by_goal, start = self.settings.goal_temperature, log_alpha.detach()
        numbers = goal_numbers(self.policy.settings, self.buffer.obs_dim) if by_goal else 0
        log_alpha = F.pad(start, (numbers, 0)) if by_goal else start.repeat(num_tasks)
        # a decay is for weights: it would pull the temperatures to 1
        options = {"lr": rate, "fused": True, **self.policy.optimizer_kwargs, "weight_decay": 0.0}
        optimizer = torch.optim.Adam([log_alpha.requires_grad_()], **options)
        if by_goal:
            return GoalTemperatures(log_alpha, optimizer, target_entropy, num_tasks)
        limits = self.settings.ent_coef_min, self.settings.ent_coef_max
        return LearnedTemperatures(
            log_alpha, optimizer, target_entropy, *limits, shared=self.settings.shared_temperature
        )

    def parts(
        self,
        aggregators: Sequence[mtrl.Aggregator],
        temperatures: FixedTemperatures,
        target_entropy: float,
        timed: Stopwatch,
        capture: bool,
        compile: bool,
    ) -> Parts:
        """Return the parts, for aggregators of actor and critic."""
        options, tasks, device = asdict(self.settings), len(self.task_names), self.buffer.rows.device
        kind = RETURN_SCALES[self.settings.return_scale]
        scale = kind(tasks, self.columns, self.settings.gamma, self.policy.v_max, target_entropy, device)
        options["reward_scale"] = reward_factors(self.settings.reward_scale, tasks, self.buffer.rows)
        self._check_loss_limit()
        update = self.update_class(
            self.policy,
            {"actor": self.policy.actor.optimizer, "critic": self.policy.critic.optimizer},
            dict(zip(("actor", "critic"), aggregators, strict=True)),
            scale,
            temperatures,
            **taken_by(self.update_class, options),
        )
        update.reset_aggregators()
        metrics = TaskMetrics(self.task_names, self.settings.stats_window_size)
        noted = NotedUpdate(
            update, self.buffer, metrics, FiniteGuard(self.task_names, device, self.buffer.first_not_finite)
        )
        if capture and device.type != "cuda":
            raise ValueError(
                f"capture needs a CUDA device, the agent is on {device}. Leave capture=False, or give a device."
            )
        if compile and self.policy.actor.precision == "tf32":  # a setting of torch's, which no operation tells
            raise ValueError("compile: expected precision float32 or bfloat16 with it, found tf32.")
        captured = CompiledUpdates(noted) if compile else CapturedUpdates(noted) if capture else None
        rounds = UpdateRounds(noted, captured, **taken_by(UpdateRounds, options))
        return Parts(scale, update, metrics, noted.guard, captured, rounds, self._collection(timed, captured))

    def _check_loss_limit(self) -> None:
        networks = (self.policy.actor, self.policy.critic)
        if self.settings.loss_limit and not any(network.sets_back for network in networks):
            named = " and ".join(dict.fromkeys(type(network.torso).__name__ for network in networks))
            expected = f"0, as no task can begin anew in {named}; a limit is for paco"
            raise SettingError("loss_limit", expected, self.settings.loss_limit)

    def _collection(self, timed: Stopwatch, captured: CapturedUpdates | None) -> Collection:
        hold = self.settings.noise_hold
        acting: Acting | None = None
        if hold > 1:
            acting = HeldNoise(self.policy.actor, hold, self.columns, self.buffer.action_dim)
        elif self.buffer.rows.is_cuda:
            acting = DeviceActing(self.policy.actor, captured.graphs if captured else None)
        return Collection(timed, self.settings.overlap, acting)
