"""What one training run is: a frozen set of plain settings (`scripts.setup.presets` has sets of them by name).

Every field is a flag of `python -m scripts.train`; the string under it is its help. The whole object is saved in the
run folder, so a run has no hidden defaults. A "step" is one environment step of one task: a step of the vector
environment is --envs-per-task of them. Totals over all tasks are T times larger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tyro.conf import Suppress

from agents.collecting.replay import MAX_CANDIDATES
from agents.settings import Conditioning, CriticHead, Precision, Reduction, Torso
from envs import Benchmark, find_benchmark
from scripts.common.flags import Capture, Counts, Names, Numbers

# Settings that run folders of earlier versions lack: there they were off.
_LATER = {"collect_ahead", "high_reward_fraction", "high_reward_candidates", "checkpoint_minutes", "trial", "loggers"}


@dataclass(frozen=True)
class TrainConfig:
    """All settings of one run."""

    preset: Suppress[str] = ""
    trial: Suppress[bool] = False  # cut short by the environment variable STEPS: no result
    suite: str = "MT10"
    """MT1, MT10, MT25, MT50, custom (any list of --tasks) or toy; or module:function or path/to/file.py:function, which
    returns Gymnasium environments."""
    tasks: Names = ()
    """Task names, e.g. reach-v3,push-v3; empty: all tasks of the suite."""
    aggregator: str = "pcgrad"
    """How task gradients become one update; its own options follow as --aggregator.NAME."""
    aggregator_options: Suppress[dict[str, Any]] = field(default_factory=dict)
    actor_aggregator: str = ""
    """Another aggregator for the actor; empty: the same one."""
    actor_aggregator_options: Suppress[dict[str, Any]] = field(default_factory=dict)
    critic_aggregator: str = ""
    """Another aggregator for the critic; empty: the same one."""
    critic_aggregator_options: Suppress[dict[str, Any]] = field(default_factory=dict)
    seed: int = 0
    """Of goals, networks, exploration and sampling."""
    steps_per_task: int = 2_000_000
    """Environment steps of each task."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks live; auto: cuda if there is one."""
    capture: Capture = "auto"
    """Make updates by replaying CUDA graphs, N in one if a round has as many; auto: on CUDA, one each."""
    run_dir: str = ""
    """Folder of the run, new or empty; empty: runs/PRESET[-TASKS]-AGGREGATOR-seedSEED."""
    workers: Literal["auto"] | int = "auto"
    """Processes that step the environments; 0: none, in this process."""
    envs_per_task: int = 1
    """Environments of each task; what comes every N steps comes with the first vector step that reaches them."""
    threads: Literal["auto"] | int = "auto"
    """Threads of torch; chosen once and kept at resume, as they change the order of sums."""
    progress: bool = True
    """Show the progress bar."""

    reward_version: Literal["v1", "v2"] = "v2"
    """Meta-World's reward functions; never compare across versions."""
    horizon: int = 500
    """Steps of an episode, at most 500; its end is a time limit, values bootstrap through it."""
    train_horizon: int = 0
    """Steps of a training episode, at most --horizon, which evaluations keep; 0: as many."""
    staggered_starts: bool = False
    """Cut the first training episode of each environment at another step, so that episodes do not all end together."""
    goals: int = 50
    """Goals per task, of the 50 that metaworld draws for the seed."""
    overlap: bool = True
    """Learn while the environments step; the update of step t cannot draw transition t."""
    collect_ahead: int = 0
    """Step the environments in a thread, up to N vector steps ahead of learning, and act with the actor of N vector
    steps ago; 0: off. For a GPU and cores to spare."""

    eval_every: int = 20_000
    """Steps per task between evaluations; 0: only at the end."""
    eval_goals: int = 50
    """Goals (= episodes) per task in an evaluation during training."""
    final_goals: int = 50
    """Goals (= episodes) per task in the evaluation at the end."""
    checkpoint_every: int = 20_000
    """Steps per task between checkpoints; 0: only at the end."""
    checkpoint_minutes: float = 0.0
    """Minutes between checkpoints, besides those by steps; 0: by steps only."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints to keep."""
    log_every: int = 500
    """Steps per task between rows of metrics.csv."""
    log_conflicts: int = 500
    """Updates between measurements of gradient conflict, cosines of all task pairs included; 0: never."""
    loggers: Names = ("csv", "tensorboard")
    """Where the numbers of a training go, evaluations included; csv is always among them."""

    batch_size: int = 128
    """Rows per task in a batch."""
    buffer_size: int = 100_000
    """Transitions kept per task."""
    warmup_steps: int = 4_000
    """Steps per task with random actions, before the first update."""
    train_freq: int = 1
    """Steps per task between rounds of updates; --envs-per-task joins rounds, and keeps the updates per step."""
    gradient_steps: int = 1
    """Updates in a round."""
    policy_delay: int = 1
    """Critic updates per update of actor and temperatures."""
    n_steps: int = 1
    """Rewards that a target adds up before it bootstraps."""
    high_reward_fraction: float = 0.0
    """Share of a task's rows in a batch that are drawn for their reward; 0: all are drawn uniformly."""
    high_reward_candidates: int = 64
    """Each of those is the row with the highest reward of so many, drawn uniformly."""
    learning_rate: float = 3e-4
    """Of Adam, for actor, critic and temperatures."""
    adam_eps: float = 1e-5
    """Epsilon of Adam."""
    weight_decay: float = 0.0
    """Of AdamW; 0: Adam."""
    max_grad_norm: float = 1.0
    """Clip of the global norm, after surgery; 0: off."""
    gamma: float = 0.99
    """Discount."""
    tau: float = 0.005
    """How far the target critics move at each update."""
    ent_coef: str = "auto"
    """Temperature: `auto` learns one per task; auto_0.1 starts it there; a number fixes it."""
    noise_hold: int = 1
    """Environment steps for which an action's noise stays the same."""
    ent_coef_min: float = 0.0
    """Learned temperatures do not fall below it."""
    target_entropy: Literal["auto"] | float = "auto"
    """Target of the learned temperatures; auto: minus the number of action dimensions."""
    reward_scale: Numbers = (1.0,)
    """Factor on the rewards: one for all tasks or one per task."""
    return_scale: Literal["none", "brc", "reward-std", "popart"] = "none"
    """What brings the tasks' returns to one size; temperatures and Q values are in its units."""
    reset_at: Counts = ()
    """Steps per task at which networks, optimizers, temperatures and aggregators begin anew; the buffer stays."""
    loss_weighting: Literal["none", "temperature"] = "none"
    """temperature: weigh the loss of task i by T softmax(-log alpha)_i."""

    actor_width: int = 400
    """Units in a hidden layer of the actor."""
    actor_depth: int = 3
    """Hidden layers of the actor."""
    critic_width: int = 400
    """Units in a hidden layer of each critic."""
    critic_depth: int = 3
    """Hidden layers of each critic."""
    actor_layer_norm: bool = False
    """LayerNorm before each ReLU of the actor."""
    critic_layer_norm: bool = False
    """LayerNorm before each ReLU of the critics."""
    actor_torso: Torso = "mlp"
    """bronet: one layer and --actor-depth residual blocks of two, with LayerNorm."""
    critic_torso: Torso = "mlp"
    """bronet: one layer and --critic-depth residual blocks of two, with LayerNorm."""
    n_critics: int = 2
    """Number of critics."""
    critic_reduction: Reduction = "min"
    """Over the critics, in the target and for the actor."""
    critic_head: CriticHead = "scalar"
    """A value, or a histogram of returns: C51, or HL-Gauss."""
    bins: int = 101
    """Bins of the histogram."""
    v_max: float = 10.0
    """It reaches from -v_max to v_max; brc brings the returns into that range."""
    conditioning: Conditioning = "one-hot"
    """How the task enters; own-columns: a one-hot whose input columns stay out of surgery."""
    embedding_size: int = 32
    """Numbers in a task's embedding."""
    multi_head: bool = False
    """An output layer per task, on a shared torso."""
    independent: bool = False
    """One plain Stable-Baselines3 SAC per task, nothing shared: the baseline. It has neither clipping nor overlap."""
    precision: Literal["auto"] | Precision = "float32"
    """Of the products in hidden layers, in training; bfloat16 is faster where there are units for it, tf32 is for CUDA
    and takes in the heads."""

    def aggregators(self) -> dict[str, dict[str, Any]]:
        """Names of the methods and their options: one, or the actor's and the critic's."""
        found = {
            self.aggregator: self.aggregator_options,
            self.actor_aggregator: self.actor_aggregator_options,
            self.critic_aggregator: self.critic_aggregator_options,
        }
        return {name: options for name, options in found.items() if name}

    def to_json(self) -> dict[str, Any]:
        """All fields by name, as JSON values."""
        return {f.name: _as_json(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainConfig:
        """The config that `to_json` wrote. Raises ValueError if a field is missing, unknown or of another type."""
        expected = {f.name for f in fields(cls)}
        values = {**{f.name: f.default for f in fields(cls) if f.name in _LATER}, **values}
        if values.keys() != expected:
            raise ValueError(f"fields {sorted(expected ^ values.keys())} are missing or unknown")
        hints = get_type_hints(cls)
        for name, value in values.items():
            if not _fits(value, hints[name]):
                raise ValueError(f"{name}: expected {_spelled(hints[name])}; found {value!r}")
        arguments: dict[str, Any] = {
            n: tuple(value) if isinstance(value, list) else value for n, value in values.items()
        }
        return cls(**arguments)


def shorten(config: TrainConfig, limit: int) -> TrainConfig:
    """A trial of at most `limit` steps per task. If that is less than one episode, episodes and all else shrink, too:
    no result, but every part of the whole chain has run, in seconds."""
    steps = min(config.steps_per_task, limit)
    config = replace(config, steps_per_task=steps, trial=True)
    if steps >= config.horizon:
        return config
    return replace(
        config,
        horizon=steps,
        train_horizon=min(config.train_horizon, steps),
        eval_goals=1,
        final_goals=1,
        warmup_steps=min(config.warmup_steps, steps // 2),
        log_every=min(config.log_every, steps),
    )


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value may stand in a field of this type."""
    kind, arguments = get_origin(hint), get_args(hint)
    if kind is Literal:
        return value in arguments
    if kind in (Union, UnionType):
        return any(_fits(value, option) for option in arguments)
    if kind is tuple:
        return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value)
    if isinstance(value, bool):  # Python takes True for the number 1
        return hint is bool
    return isinstance(value, (int, float) if hint is float else kind or hint)


def _spelled(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")


PLAIN_SAC: dict[str, Any] = {  # what --independent fixes
    **{"aggregator": "mean", "actor_aggregator": "", "critic_aggregator": "", "multi_head": False},
    **{"loss_weighting": "none", "return_scale": "none", "critic_reduction": "min", "critic_head": "scalar"},
    **{"actor_torso": "mlp", "critic_torso": "mlp", "conditioning": "one-hot", "n_critics": 2, "policy_delay": 1},
    **{"noise_hold": 1},
    **{"ent_coef_min": 0.0, "weight_decay": 0.0, "reset_at": (), "envs_per_task": 1},
    **{"overlap": False, "collect_ahead": 0, "max_grad_norm": 0.0, "precision": "float32", "capture": False},
}


def plain_sac(config: TrainConfig) -> TrainConfig:
    """The config as far as plain SAC can follow it; a BroNet becomes as many plain layers with LayerNorm."""
    layers: dict[str, Any] = {}
    for network in ("actor", "critic"):
        if getattr(config, f"{network}_torso") == "bronet":
            depth = 1 + 2 * getattr(config, f"{network}_depth")
            layers |= {f"{network}_depth": depth, f"{network}_layer_norm": True}
    return replace(config, **PLAIN_SAC, **layers)


_AT_LEAST_ONE = (
    *("steps_per_task", "batch_size", "buffer_size", "log_every", "train_freq", "gradient_steps", "keep_checkpoints"),
    *("horizon", "goals", "eval_goals", "final_goals", "actor_width", "actor_depth", "critic_width", "critic_depth"),
    *("envs_per_task", "policy_delay", "n_steps", "noise_hold", "n_critics", "embedding_size"),
)
_POSITIVE = ("learning_rate", "adam_eps", "v_max")
_NOT_NEGATIVE = ("max_grad_norm", "weight_decay", "ent_coef_min", "checkpoint_minutes")


def check(config: TrainConfig) -> None:
    """Raises ValueError for numbers that make no sense: expected, found, flag."""
    for name in _AT_LEAST_ONE:
        _expect(config, name, getattr(config, name) >= 1, "at least 1")
    whole = ("eval_every", "checkpoint_every", "log_conflicts", "warmup_steps", "collect_ahead", "seed")
    for name in (*whole, *_NOT_NEGATIVE):
        _expect(config, name, getattr(config, name) >= 0, "0 or more")
    for name in _POSITIVE:
        _expect(config, name, getattr(config, name) > 0, "more than 0")
    for name in (*_POSITIVE, *_NOT_NEGATIVE):
        _expect(config, name, math.isfinite(getattr(config, name)), "a finite number")
    target = config.target_entropy
    _expect(config, "target_entropy", target == "auto" or math.isfinite(target), "auto or a finite number")
    _expect(config, "workers", config.workers == "auto" or config.workers >= 0, "auto, 0 or more")
    _expect(config, "threads", config.threads == "auto" or 1 <= config.threads <= 1024, "auto, or 1 to 1024")
    _expect(config, "seed", config.seed < 2**32, "a seed of 0 to 2**32 - 1")
    _expect(config, "gamma", 0 <= config.gamma <= 1, "between 0 and 1")
    _expect(config, "tau", 0 < config.tau <= 1, "more than 0, at most 1")
    _check_benchmark(config, find_benchmark(config.suite))
    _expect(config, "bins", config.bins >= 2, "at least 2")
    _expect(config, "high_reward_fraction", 0 <= config.high_reward_fraction <= 1, "between 0 and 1")
    chosen = config.high_reward_fraction * config.batch_size
    _expect(
        config, "high_reward_fraction", not 0 < chosen <= 0.5, f"one row of --batch-size {config.batch_size} or more"
    )
    candidates = config.high_reward_candidates
    _expect(config, "high_reward_candidates", 1 <= candidates <= MAX_CANDIDATES, f"1 to {MAX_CANDIDATES}")
    resets = config.reset_at
    growing = list(resets) == sorted({step for step in resets if step > 0})
    _expect(config, "reset_at", growing, "growing numbers of steps above 0")
    _expect(config, "ent_coef", _is_temperature(config.ent_coef), "auto, auto_X or X with a finite X above 0")
    _expect(
        config, "reward_scale", all(0 < scale < math.inf for scale in config.reward_scale), "finite factors above 0"
    )
    _expect(config, "tasks", len(set(config.tasks)) == len(config.tasks), "every task once")
    for name in ("eval_goals", "final_goals"):
        _expect(
            config, name, getattr(config, name) <= config.goals, f"at most --goals ({config.goals}), each goal once"
        )
    for name, value in PLAIN_SAC.items() if config.independent else ():
        _expect(config, name, getattr(config, name) == value, f"{value!r} with --independent, as plain SAC has it")


def _check_benchmark(config: TrainConfig, benchmark: Benchmark) -> None:
    most = benchmark.max_horizon or math.inf
    _expect(config, "horizon", config.horizon <= most, f"at most {most}, the limit of {benchmark.family}")
    _expect(config, "train_horizon", 0 <= config.train_horizon <= most, f"0 (as --horizon) to {most}")
    if number := benchmark.num_tasks:
        enough = f"{number} task name for {benchmark.name}, e.g. --tasks reach-v3"
        _expect(config, "tasks", len(config.tasks) == number, enough)


def _is_temperature(text: str) -> bool:
    try:
        return text == "auto" or 0 < float(text.removeprefix("auto_")) < math.inf
    except ValueError:
        return False


def _expect(config: TrainConfig, name: str, holds: bool, expectation: str) -> None:
    if not holds:
        found = ",".join(map(str, value)) if isinstance(value := getattr(config, name), tuple) else value
        raise ValueError(f"--{name.replace('_', '-')}: expected {expectation}; found {found!r}")
