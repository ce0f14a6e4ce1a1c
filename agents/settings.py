"""The settings of an agent, each written once: name, type, default, bounds, role and help.

A field of `AgentSettings` is a keyword of `MTSAC`, one of `NetworkSettings` a keyword of `MultiTaskPolicy` (an entry
of `policy_kwargs`). `scripts.setup.config.TrainConfig` inherits `SACSettings` and `NetworkSettings`, so the string
under a field is also the help of its flag. What a saved agent holds, what `--resume` may change, what makes two runs
one method and what plain SAC cannot follow are all read from the fields (`agents.fields`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from agents.bounds import (
    AUTO_OR_FINITE,
    CANDIDATES,
    CONDITIONING,
    EXPERTS,
    FACTORS,
    FINITE,
    GROWING,
    RATE,
    SEED,
    TEMPERATURE,
    TORSO,
    is_positive,
)
from agents.fields import (
    DEFAULT,
    Bound,
    Count,
    NotNegative,
    Positive,
    Role,
    Share,
    Whole,
    build,
    check_fields,
)

Precision = Literal["float32", "tf32", "bfloat16"]
CriticHead = Literal["scalar", "c51", "hl-gauss"]
Reduction = Literal["min", "mean"]
ReturnScaleName = Literal["none", "brc", "reward-std", "popart"]

ARS_REMOVED = (
    "return_scale='ars' is gone since version 0.2, as no publication describes it. Train again with 'reward-std' or "
    "'brc'; what was trained with it opens with version 0.1."
)
AHEAD_REMOVED = "collect_ahead is gone since version 0.2, as learning while the environments step (overlap) is faster"


@dataclass(frozen=True, kw_only=True)
class SACSettings:
    """How the agent learns: what `MTSAC` and the command line share, under one name and with one meaning."""

    batch_size: Count = 128
    """Batch size per task, in transitions."""
    buffer_size: Count = 100_000
    """Transitions kept per task."""
    train_freq: Count = 1
    """Steps between rounds of updates: vector steps for MTSAC, steps per task on the command line, which joins rounds
    so that --envs-per-task does not change the updates per step."""
    gradient_steps: Count = 1
    """Updates in a round."""
    policy_delay: Annotated[Count, Role(plain_sac=1)] = 1
    """Critic updates per update of actor and temperatures."""
    n_steps: Count = 1
    """Rewards summed in a target before it bootstraps; fewer where the episode or the buffer ends. As in
    Stable-Baselines3 there is no correction for older policies, and only the entropy after the last reward counts."""
    high_reward_fraction: Annotated[Share, Role(added=True)] = 0.0
    """Share of each task's batch that is drawn for high rewards; 0: the whole batch is drawn uniformly."""
    high_reward_candidates: Annotated[int, CANDIDATES, Role(added=True)] = 64
    """Each of those is the transition with the highest reward among this many uniform draws."""
    episode_batches: Annotated[bool, Role(plain_sac=False, added=True)] = False
    """Draw each task's batch from one stored episode, another at each update; with push-goals that is one goal."""
    learning_rate: Annotated[
        float | str, RATE, Role(resume="Continue with another learning rate, e.g. after losses became non-finite.")
    ] = 3e-4
    """Learning rate of actor, critics and temperatures; linear:3e-4 falls from there to 0 over the run."""
    max_grad_norm: Annotated[
        NotNegative, Role(resume="Continue with another limit of the gradient norm; 0: off.", plain_sac=0.0)
    ] = 0.0
    """Gradient clipping: limit of the global norm of an update, after surgery; 0: off."""
    loss_limit: Annotated[NotNegative, Role(plain_sac=0.0, added=True)] = 0.0
    """PaCo: a task whose critics' loss is beyond it has no gradient in that update, and its weights of the sets begin
    anew from those of the others; 0: no limit."""
    gamma: Share = 0.99
    """Discount factor."""
    tau: Annotated[float, Bound("more than 0, at most 1", lambda value: 0 < value <= 1)] = 0.005
    """Polyak coefficient: how far the target critics move towards the critics at each update."""
    ent_coef: Annotated[str | float, TEMPERATURE, Role(no_entropy=0.0, learned="temperatures")] = "auto"
    """Temperature: auto learns one per task; auto_0.1 starts it there; a number fixes it, 0: no entropy bonus."""
    ent_coef_min: Annotated[NotNegative, Role(plain_sac=0.0, no_entropy=0.0)] = 0.0
    """Lower limit of learned temperatures."""
    ent_coef_max: Annotated[NotNegative, Role(plain_sac=0.0, no_entropy=0.0, added=True)] = 0.0
    """Upper limit of learned temperatures; 0: none."""
    shared_temperature: Annotated[bool, Role(plain_sac=False, no_entropy=False, learned="temperatures", added=True)] = (
        False
    )
    """Learn one temperature for all tasks, which keeps their mean entropy at the target."""
    goal_temperature: Annotated[bool, Role(plain_sac=False, no_entropy=False, learned="temperatures", added=True)] = (
        False
    )
    """Learn the temperature as a function of the goal, the last --goal-size numbers of an observation; needs
    --episode-batches, with which a batch has one goal."""
    target_entropy: Annotated[Literal["auto"] | float, AUTO_OR_FINITE, Role(no_entropy=0.0)] = "auto"
    """Target entropy of the learned temperatures; auto: minus the number of action dimensions."""
    target_noise: Annotated[NotNegative, Role(no_added_noise=DEFAULT, added=True)] = 0.2
    """TD3: standard deviation of the noise on the target actor's actions, which range from -1 to 1."""
    target_noise_clip: Annotated[NotNegative, Role(no_added_noise=DEFAULT, added=True)] = 0.5
    """TD3: limit of that noise."""
    noise_hold: Annotated[Count, Role(plain_sac=1)] = 1
    """Vector steps for which the exploration noise is held."""
    critic_reduction: Annotated[Reduction, Role(plain_sac="min")] = "min"
    """How the critics' values are combined, in the target and for the actor."""
    reward_scale: Annotated[tuple[float, ...], FACTORS] = (1.0,)
    """Factor on the rewards in an update: one for all tasks or one per task; the buffer keeps raw rewards."""
    return_scale: Annotated[ReturnScaleName, Role(plain_sac="none", learned="critics and temperatures")] = "none"
    """How the tasks' returns are normalised to one size; temperatures and Q values are in its units."""
    reset_at: Annotated[tuple[int, ...], GROWING, Role(plain_sac=())] = ()
    """Steps per task at which networks, optimizers, temperatures and aggregators are reset; the buffer and the return
    scale stay."""
    loss_weighting: Annotated[Literal["none", "temperature"], Role(plain_sac="none", no_entropy="none")] = "none"
    """Weights of the tasks' losses; temperature: T softmax(-log alpha)_i for task i."""
    overlap: Annotated[bool, Role("protocol", plain_sac=False)] = True
    """Learn while the environments step; the update of step t cannot draw transition t."""
    log_every: Annotated[Count, Role("monitoring")] = 100
    """Steps per task between rows of metrics.csv."""
    log_conflicts: Annotated[Whole, Role("monitoring")] = 500
    """Updates between measurements of gradient conflict, cosines of all task pairs included; 0: never. Rounded up to a
    multiple of --policy-delay."""

    def to_json(self) -> dict[str, Any]:
        """All fields by name, as JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def drop_removed(settings: Mapping[str, Any], path: Any) -> dict[str, Any]:
    """Return the settings of an agent in a file without one that is gone, of which a warning tells if it was in use."""
    settings = dict(settings)
    if lag := settings.pop("collect_ahead", 0):
        told = (
            f"{path} was trained with collect_ahead={lag}: {AHEAD_REMOVED}. It acts as it did, and learns on without."
        )
        warnings.warn(told, RuntimeWarning, stacklevel=4)  # at who calls `load`
    return settings


@dataclass(frozen=True, kw_only=True)
class AgentSettings(SACSettings):
    """All settings that `MTSAC` takes as keywords and saves. The further ones have Stable-Baselines3's names.

    On the command line `learning_starts` is --warmup-steps, counted per task; the others are not offered there.
    """

    learning_starts: Whole = 100
    """Environment steps, of all tasks together, with random actions, before the first update."""
    target_update_interval: Annotated[Count, Role(targets_with_actor=1)] = 1
    """Updates of a round per update of the target critics, the round's first included, as in Stable-Baselines3."""
    stats_window_size: Annotated[Count, Role("monitoring")] = 20
    """Episodes of a task over which its training success and return are averaged."""
    seed: Annotated[
        int | None, Bound("0 or more", lambda value: value is None or value >= 0), SEED, Role("protocol")
    ] = None
    """Seed of weights, actions, samples and random orders; None: another one each time."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> AgentSettings:
        """Return the settings with these values, checked.

        `max_grad_norm=None` is 0, a number as text becomes a number, a sequence or a single number a tuple.

        :raises ValueError: for a value that does not fit (SettingError), or is gone.
        :raises TypeError: for a name that is no setting.
        """
        values = dict(values)
        if values.get("return_scale") == "ars":
            raise ValueError(ARS_REMOVED)
        if values.get("max_grad_norm", 0.0) is None:
            values["max_grad_norm"] = 0.0
        coefficient = values.get("ent_coef")
        if isinstance(coefficient, str) and (is_positive(coefficient) or coefficient in ("0", "0.0")):
            values["ent_coef"] = float(coefficient)
        for name in ("reward_scale", "reset_at"):
            if name in values:
                values[name] = tuple(np.ravel(values[name]).tolist())
        settings: AgentSettings = build(cls, values)
        check_fields(cls, vars(settings))
        return settings


@dataclass(frozen=True)
class NetworkSettings:
    """Sizes and forms of the networks: what `MultiTaskPolicy` and the command line share."""

    actor_width: Count = 400
    """Units in a hidden layer of the actor."""
    actor_depth: Count = 3
    """Hidden layers of the actor."""
    critic_width: Count = 400
    """Units in a hidden layer of each critic."""
    critic_depth: Count = 3
    """Hidden layers of each critic."""
    exploration_noise: Annotated[NotNegative, Role(no_added_noise=DEFAULT, added=True)] = 0.1
    """TD3: standard deviation of the noise on actions to explore with, which range from -1 to 1."""
    actor_layer_norm: bool = False
    """LayerNorm before each ReLU of the actor."""
    critic_layer_norm: bool = False
    """LayerNorm before each ReLU of the critics."""
    actor_torso: Annotated[str, TORSO, Role(plain_sac="mlp")] = "mlp"
    """Hidden layers of the actor. mlp: plain layers; bronet: one layer and --actor-depth residual blocks of two, with
    LayerNorm; simba, simba-v2: likewise, of SimBa's blocks; soft-modularization: --actor-depth layers of modules, whose
    connections depend on task and state; moe, moore, mmoe: --experts such stacks of plain layers, which are mixed; ple:
    --actor-depth layers of --experts shared experts and each task's own; paco: plain layers, mixed of --experts sets
    of parameters."""
    critic_torso: Annotated[str, TORSO, Role(plain_sac="mlp")] = "mlp"
    """Hidden layers of the critics, likewise."""
    actor_modules: Annotated[Count, Role(added=True)] = 2
    """Modules in a layer of the actor, with soft-modularization."""
    critic_modules: Annotated[Count, Role(added=True)] = 2
    """Modules in a layer of each critic, with soft-modularization."""
    actor_module_width: Annotated[Count, Role(added=True)] = 256
    """Units of a module of the actor, with soft-modularization."""
    critic_module_width: Annotated[Count, Role(added=True)] = 256
    """Units of a module of the critics, with soft-modularization."""
    experts: Annotated[int, EXPERTS, Role(added=True)] = 4
    """Experts in each network, with moe, moore, mmoe, ple and care; sets of parameters, with paco."""
    n_critics: Annotated[Count, Role(plain_sac=2)] = 2
    """Number of critics."""
    critic_head: Annotated[CriticHead, Role(plain_sac="scalar")] = "scalar"
    """Output of a critic: a value, or a histogram of returns (C51 or HL-Gauss)."""
    bins: Annotated[int, Bound("at least 2", lambda value: value >= 2)] = 101
    """Bins of the histogram."""
    v_max: Annotated[Positive, Role(learned="critics")] = 10.0
    """Largest return a histogram critic can represent; its bins span [-v_max, v_max]. brc scales returns into it."""
    conditioning: Annotated[str, CONDITIONING, Role(plain_sac="one-hot")] = "one-hot"
    """How the networks see the task. one-hot: among the inputs; own-columns: the same, with the one-hot's columns of
    the first layer left out of surgery; embedding: a learned vector per task; film, film-scalar: an encoder that the
    task scales and shifts, per unit or per layer; care: --experts encoders, mixed; goal: not at all, but an encoding of
    the goal, the last --goal-size numbers of an observation. soft-modularization, moe, moore,
    mmoe, ple and paco have their own way."""
    embedding_size: Count = 32
    """Numbers in a task's embedding, or in the encoding of a goal."""
    goal_size: Annotated[Count, Role(added=True)] = 3
    """Numbers of the goal, the last of an observation: 3 in Meta-World, 6 in push-goals, with the start of the puck."""
    task_embeddings: Annotated[str, Role(plain_sac="", added=True)] = ""
    """JSON file with a list of numbers for each task by its name, for care: fixed vectors, such as a language model
    makes of a description, from which it learns --embedding-size numbers; empty: it learns those freely."""
    multi_head: Annotated[bool, Role(plain_sac=False)] = False
    """One output layer per task, on a shared torso."""
    precision: Annotated[Precision, Role(plain_sac="float32")] = "float32"
    """Matrix-product precision of the hidden layers during training. bfloat16: faster on hardware that supports it.
    tf32: CUDA only, heads included. Weights, optimizers and acting stay in float32."""
    weight_decay: Annotated[NotNegative, Role(plain_sac=0.0)] = 0.0
    """Weight decay of AdamW; 0: Adam."""
    actor_l2: Annotated[NotNegative, Role(plain_sac=0.0, added=True)] = 0.0
    """L2 penalty on the actor: this times its weights is added to the gradient, after surgery and clipping."""
    log_std_min: Annotated[float, FINITE, Role(plain_sac=-20.0, no_entropy=DEFAULT, added=True)] = -20.0
    """Lower limit of the logarithm of the policy's standard deviation, before the tanh."""
    log_std_max: Annotated[float, FINITE, Role(plain_sac=2.0, no_entropy=DEFAULT, added=True)] = 2.0
    """Upper limit of it."""


def half_rate(learning_rate: float | str) -> str:
    """Half of a learning rate, or of a schedule's beginning, as it is written on the command line."""
    name, _, number = str(learning_rate).rpartition(":")
    return f"{name}:{float(number) / 2:g}".lstrip(":")
