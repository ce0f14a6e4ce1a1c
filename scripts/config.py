"""What one training run is: a frozen set of plain settings, and the presets.

Every field is a flag of `python -m scripts.train`; the string under it is its help. The whole object is saved in the
run folder, so a run has no hidden defaults. A "step" is one environment step of one task, that is one step of the
vector environment; totals over all tasks are T times larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tyro.conf import Suppress
from tyro.constructors import PrimitiveConstructorSpec

from agents.policies import Precision


def _comma_separated(item: Callable[[str], Any], metavar: str) -> PrimitiveConstructorSpec[Any]:
    """Reads `a,b,c` as one tuple: the natural way to write a list of tasks in a shell."""

    def read(words: list[str]) -> tuple[Any, ...]:
        found = tuple(item(part.strip()) for part in words[0].split(",") if part.strip())
        if words[0] and not found:  # an empty list would mean all
            raise ValueError(f"expected names separated by commas; found {words[0]!r}")
        return found

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )


Names = Annotated[tuple[str, ...], _comma_separated(str, "A,B,...")]
Numbers = Annotated[tuple[float, ...], _comma_separated(float, "X,Y,...")]


@dataclass(frozen=True)
class TrainConfig:
    """All settings of one run."""

    preset: Suppress[str] = ""
    suite: str = "MT10"
    """MT1, MT10, MT25, MT50, custom (any list of --tasks) or toy."""
    tasks: Names = ()
    """Task names, e.g. reach-v3,push-v3; empty: all tasks of the suite."""
    aggregator: str = "pcgrad"
    """How task gradients become one update; its own options follow as --aggregator.NAME."""
    aggregator_options: Suppress[dict[str, Any]] = field(default_factory=dict)
    critic_aggregator: str = ""
    """Another aggregator for the critic; empty: the same one."""
    critic_aggregator_options: Suppress[dict[str, Any]] = field(default_factory=dict)
    seed: int = 0
    """Of goals, networks, exploration and sampling."""
    steps_per_task: int = 2_000_000
    """Environment steps of each task."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks live; auto: cuda if there is one."""
    run_dir: str = ""
    """Folder of the run, new or empty; empty: runs/PRESET[-TASKS]-AGGREGATOR-seedSEED."""
    workers: Literal["auto"] | int = "auto"
    """Processes that step the environments; 0: none, in this process."""
    threads: Literal["auto"] | int = "auto"
    """Threads of torch; chosen once and kept at resume, as they change the order of sums."""
    progress: bool = True
    """Show the progress bar."""

    reward_version: Literal["v1", "v2"] = "v2"
    """Meta-World's reward functions; never compare across versions."""
    horizon: int = 500
    """Steps of an episode, at most 500; its end is a time limit, values bootstrap through it."""
    goals: int = 50
    """Goals per task, of the 50 that metaworld draws for the seed."""
    overlap: bool = True
    """Learn while the environments step; the update of step t cannot draw transition t."""

    eval_every: int = 20_000
    """Steps per task between evaluations; 0: only at the end."""
    eval_goals: int = 50
    """Goals (= episodes) per task in an evaluation during training."""
    final_goals: int = 50
    """Goals (= episodes) per task in the evaluation at the end."""
    checkpoint_every: int = 20_000
    """Steps per task between checkpoints; 0: only at the end."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints to keep."""
    log_every: int = 500
    """Steps per task between rows of metrics.csv."""
    log_conflicts: int = 500
    """Updates between measurements of gradient conflict, cosines of all task pairs included; 0: never."""

    batch_size: int = 128
    """Rows per task in a batch."""
    buffer_size: int = 100_000
    """Transitions kept per task."""
    warmup_steps: int = 4_000
    """Steps per task with random actions, before the first update."""
    train_freq: int = 1
    """Steps per task between rounds of updates."""
    gradient_steps: int = 1
    """Updates in a round."""
    learning_rate: float = 3e-4
    """Of Adam, for actor, critic and temperatures."""
    adam_eps: float = 1e-5
    """Epsilon of Adam."""
    max_grad_norm: float = 1.0
    """Clip of the global norm, after surgery; 0: off."""
    gamma: float = 0.99
    """Discount."""
    tau: float = 0.005
    """How far the target critics move at each update."""
    ent_coef: str = "auto"
    """Temperature: `auto` learns one per task; auto_0.1 starts it there; a number fixes it."""
    target_entropy: Literal["auto"] | float = "auto"
    """Target of the learned temperatures; auto: minus the number of action dimensions."""
    reward_scale: Numbers = (1.0,)
    """Factor on the rewards: one for all tasks or one per task."""
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
    layer_norm: bool = False
    """LayerNorm before each ReLU."""
    multi_head: bool = False
    """An output layer per task, on a shared torso."""
    precision: Precision = "float32"
    """Of the products in hidden layers, in training; bfloat16 is faster where there are units for it."""

    def aggregators(self) -> dict[str, dict[str, Any]]:
        """Names of the methods and their options: one, or the actor's and the critic's."""
        found = {self.aggregator: self.aggregator_options, self.critic_aggregator: self.critic_aggregator_options}
        return {name: options for name, options in found.items() if name}

    def to_json(self) -> dict[str, Any]:
        """All fields by name, as JSON values."""
        return {f.name: _as_json(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainConfig:
        """The config that `to_json` wrote. Raises ValueError if a field is missing, unknown or of another type."""
        expected = {f.name for f in fields(cls)}
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
    """At most `limit` steps per task. If that is less than one episode, episodes and all else shrink to a trial of the
    whole chain that takes seconds: no result, but every part has run."""
    steps = min(config.steps_per_task, limit)
    config = replace(config, steps_per_task=steps)
    if steps >= config.horizon:
        return config
    return replace(
        config,
        horizon=steps,
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


_AT_LEAST_ONE = (
    *("steps_per_task", "batch_size", "buffer_size", "log_every", "train_freq", "gradient_steps", "keep_checkpoints"),
    *("horizon", "goals", "eval_goals", "final_goals", "actor_width", "actor_depth", "critic_width", "critic_depth"),
)


def check(config: TrainConfig) -> None:
    """Raises ValueError for numbers that make no sense: expected, found, flag."""
    for name in _AT_LEAST_ONE:
        _expect(config, name, getattr(config, name) >= 1, "at least 1")
    for name in ("eval_every", "checkpoint_every", "log_conflicts", "warmup_steps", "max_grad_norm", "seed"):
        _expect(config, name, getattr(config, name) >= 0, "0 or more")
    for name in ("learning_rate", "adam_eps"):
        _expect(config, name, getattr(config, name) > 0, "more than 0")
    for name in ("learning_rate", "adam_eps", "max_grad_norm"):
        _expect(config, name, math.isfinite(getattr(config, name)), "a finite number")
    target = config.target_entropy
    _expect(config, "target_entropy", target == "auto" or math.isfinite(target), "auto or a finite number")
    _expect(config, "workers", config.workers == "auto" or config.workers >= 0, "auto, 0 or more")
    _expect(config, "threads", config.threads == "auto" or config.threads >= 1, "auto, 1 or more")
    _expect(config, "gamma", 0 <= config.gamma <= 1, "between 0 and 1")
    _expect(config, "tau", 0 < config.tau <= 1, "more than 0, at most 1")
    _expect(config, "horizon", config.horizon <= 500, "at most 500, the limit of Meta-World")
    _expect(config, "ent_coef", _is_temperature(config.ent_coef), "auto, auto_X or X with a finite X above 0")
    _expect(
        config, "reward_scale", all(0 < scale < math.inf for scale in config.reward_scale), "finite factors above 0"
    )
    _expect(config, "tasks", len(set(config.tasks)) == len(config.tasks), "every task once")
    for name in ("eval_goals", "final_goals"):
        _expect(
            config, name, getattr(config, name) <= config.goals, f"at most --goals ({config.goals}), each goal once"
        )
    if config.suite.lower() == "mt1":
        _expect(config, "tasks", len(config.tasks) == 1, "one task name for MT1, e.g. --tasks reach-v3")


def _is_temperature(text: str) -> bool:
    try:
        return text == "auto" or 0 < float(text.removeprefix("auto_")) < math.inf
    except ValueError:
        return False


def _expect(config: TrainConfig, name: str, holds: bool, expectation: str) -> None:
    if not holds:
        found = ",".join(map(str, value)) if isinstance(value := getattr(config, name), tuple) else value
        raise ValueError(f"--{name.replace('_', '-')}: expected {expectation}; found {found!r}")


_PLUS = TrainConfig()  # Meta-World+ (McLean et al. 2025), multi-task SAC on a plain network
_PAPER = replace(  # PCGrad (Yu et al. 2020); what the paper leaves open is chosen here: v1 rewards, horizon 150
    _PLUS, reward_version="v1", horizon=150, train_freq=600, gradient_steps=600, max_grad_norm=0.0, adam_eps=1e-8
)
_TOY = replace(
    _PLUS, suite="toy", steps_per_task=2_000, workers=0, threads=1, horizon=25, eval_every=500, eval_goals=10,
    final_goals=20, checkpoint_every=1_000, log_every=100, batch_size=32, buffer_size=2_000, warmup_steps=200,
    learning_rate=1e-3, gamma=0.9, tau=0.02, actor_width=64, actor_depth=2, critic_width=64, critic_depth=2,
)  # fmt: skip
# two CPU cores: LayerNorm, rewards in [0, 1], temperatures that start where they do not drown the reward
_QUICK = replace(
    _PLUS, steps_per_task=100_000, eval_every=5_000, eval_goals=10, checkpoint_every=5_000, batch_size=64,
    warmup_steps=1_000, actor_width=256, critic_width=256, layer_norm=True, reward_scale=(0.1,), ent_coef="auto_0.01",
)  # fmt: skip
_MT1 = replace(_QUICK, suite="MT1", batch_size=128, checkpoint_every=10_000)

PRESETS: dict[str, tuple[str, TrainConfig]] = {
    "toy": ("four point-reaching tasks with a known optimum, seconds on a CPU", _TOY),
    "mt1": ("one Meta-World task, given by --tasks; settings as mt10-quick, 128 rows", _MT1),
    "mt10": ("MT10 with the settings of Meta-World+: 3 x 400, 128 rows, 2M steps per task", _PLUS),
    "mt25": ("MT25, settings as mt10", replace(_PLUS, suite="MT25")),
    "mt50": ("MT50, settings as mt10", replace(_PLUS, suite="MT50")),
    "mt10-quick": (
        "MT10 sized for two CPU cores: 3 x 256, LayerNorm, 64 rows, rewards x 0.1, temperatures from 0.01, 100k steps "
        "per task",
        _QUICK,
    ),
    "mt10-paper2020": (
        "MT10 as in the PCGrad paper: 6 x 160, v1 rewards, 500k steps per task; horizon 150 is our reading",
        replace(_PAPER, steps_per_task=500_000, actor_width=160, critic_width=160, actor_depth=6, critic_depth=6),
    ),
    "mt50-paper2020": (
        "MT50 as in the PCGrad paper: 6 x 300, v1 rewards, 400k steps per task; horizon 150 is our reading",
        replace(
            _PAPER,
            suite="MT50",
            steps_per_task=400_000,
            actor_width=300,
            critic_width=300,
            actor_depth=6,
            critic_depth=6,
        ),
    ),
}  # name -> (one line, settings)
