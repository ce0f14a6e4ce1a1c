"""The parts that an agent holds, built from its settings and from what Stable-Baselines3 has set up."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from stable_baselines3 import SAC

import mtrl
from agents.ahead.collection import AheadCollection
from agents.collecting.acting import Acting, DeviceActing, HeldNoise
from agents.collecting.replay import TaskReplayBuffer
from agents.collecting.rollout import Collection
from agents.collecting.stopwatch import Stopwatch
from agents.device.captured import CapturedUpdates
from agents.fields import taken_by
from agents.learning.guard import FiniteGuard
from agents.learning.metrics import TaskMetrics
from agents.learning.returns import RETURN_SCALES, ReturnScale, reward_factors
from agents.learning.rounds import NotedUpdate, UpdateRounds
from agents.learning.temperatures import FixedTemperatures
from agents.learning.update import SACUpdate
from agents.networks.policies import MultiTaskPolicy
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


@dataclass(frozen=True)
class Assembly:
    """Builds the parts of one agent.

    :param columns: E T, of the environment.
    :param seed: of random streams beside torch's own.
    """

    settings: AgentSettings
    task_names: tuple[str, ...]
    columns: int
    seed: int
    policy: MultiTaskPolicy
    buffer: TaskReplayBuffer

    @property
    def device(self) -> torch.device:
        """Where the networks live."""
        return self.buffer.rows.device

    def return_scale(self, target_entropy: float) -> ReturnScale:
        """What brings the tasks' returns to one size."""
        kind, tasks = RETURN_SCALES[self.settings.return_scale], len(self.task_names)
        return kind(tasks, self.columns, self.settings.gamma, self.policy.v_max, target_entropy, self.device)

    def update(
        self,
        aggregator: mtrl.Aggregator,
        critic_aggregator: mtrl.Aggregator,
        scale: ReturnScale,
        temperatures: FixedTemperatures,
    ) -> NotedUpdate:
        """The update, with its metrics and its guard."""
        factors = reward_factors(self.settings.reward_scale, len(self.task_names), self.buffer.rows)
        update = SACUpdate(
            self.policy,
            {"actor": self.policy.actor.optimizer, "critic": self.policy.critic.optimizer},
            {"actor": aggregator, "critic": critic_aggregator},
            scale,
            temperatures,
            **taken_by(SACUpdate, {**asdict(self.settings), "reward_scale": factors}),
        )
        update.reset_aggregators()
        metrics = TaskMetrics(self.task_names, self.settings.stats_window_size)
        return NotedUpdate(update, self.buffer, metrics, FiniteGuard(self.task_names, self.device))

    def rounds(self, update: NotedUpdate, captured: CapturedUpdates | None) -> UpdateRounds:
        """What decides between updates."""
        return UpdateRounds(update, captured, **taken_by(UpdateRounds, asdict(self.settings)))

    def collection(self, timed: Stopwatch, captured: CapturedUpdates | None) -> Collection:
        """The loop over the environment's steps."""
        hold = self.settings.noise_hold
        if lag := self.settings.collect_ahead:
            return AheadCollection(timed, self.policy, self.columns, lag, hold, self.seed)
        acting: Acting | None = None
        if hold > 1:
            acting = HeldNoise(self.policy.actor, hold, self.columns, self.buffer.action_dim)
        elif self.device.type == "cuda":
            acting = DeviceActing(self.policy.actor, captured.replays.graphs if captured else None)
        return Collection(timed, self.settings.overlap, acting)
