"""What one training run is: a frozen set of plain settings (`scripts.setup.presets` has sets of them by name).

Every field is a flag of `python -m scripts.train` and a key of a preset's file; the string under it is its help. The
whole object is saved in the run folder, so a run has no hidden defaults. A "step" is one environment step of one task:
a step of the vector environment is --envs-per-task of them. Totals over all tasks are T times larger.

Most fields are inherited from the classes that use them (`agents.settings`). Three things are said otherwise here than
to `MTSAC`, which counts the random steps of all tasks together (`learning_starts`) and takes an aggregator's options
apart from its name, and Adam's epsilon among `optimizer_kwargs`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from agents.algorithms import ALGORITHMS
from agents.bounds import SEED
from agents.fields import (
    Bound,
    Count,
    Kind,
    NotNegative,
    Positive,
    Registered,
    Role,
    SettingError,
    Whole,
    build,
    check_fields,
    settings_of,
)
from agents.settings import ARS_REMOVED, NetworkSettings, Precision, SACSettings
from agents.together import check_together
from envs import find_benchmark
from scripts.common.usage import in_flags


@dataclass(frozen=True)
class EnvSettings:
    """The tasks, and how episodes are played."""

    role: ClassVar[Kind] = "protocol"

    suite: str = "MT10"
    """MT1, MT10, MT25, MT50, custom (any list of --tasks), push-goals (goal-conditioned pushing) or toy; or
    module:function or path/to/file.py:function, which returns Gymnasium environments."""
    tasks: Annotated[tuple[str, ...], Bound("every task once", lambda value: len(set(value)) == len(value))] = ()
    """Task names, e.g. reach-v3,push-v3; empty: all tasks of the suite."""
    reward_version: Literal["v1", "v2"] = "v2"
    """Version of Meta-World's reward functions; never compare across versions."""
    horizon: Count = 500
    """Steps of an episode, at most 500; its end is a time limit, values bootstrap through it."""
    train_horizon: Annotated[int, Role("method")] = 0
    """Steps of a training episode, at most --horizon, which evaluations keep; 0: the same."""
    staggered_starts: Annotated[bool, Role("method")] = False
    """Truncate the first training episode of each environment at a different step, so that episodes do not all end
    together."""
    goals: Count = 50
    """Goals per task, of the 50 that metaworld draws for the seed; in push-goals those of evaluations, any number."""
    envs_per_task: Annotated[Count, Role("method", plain_sac=1)] = 1
    """Environments of each task; what happens every N steps happens at the first vector step that reaches them."""


@dataclass(frozen=True)
class MethodSettings:
    """The method, as far as the command line has names of its own."""

    aggregator: Annotated[str, Role(plain_sac="mean")] = "pcgrad"
    """How the task gradients are combined into one update; its options are --aggregator.OPTION."""
    aggregator_options: dict[str, Any] = field(default_factory=dict)
    actor_aggregator: Annotated[str, Role(plain_sac="")] = ""
    """Another aggregator for the actor; empty: the same one."""
    actor_aggregator_options: dict[str, Any] = field(default_factory=dict)
    critic_aggregator: Annotated[str, Role(plain_sac="")] = ""
    """Another aggregator for the critic; empty: the same one."""
    critic_aggregator_options: dict[str, Any] = field(default_factory=dict)
    algorithm: Annotated[str, Registered("agents.algorithms:ALGORITHMS"), Role(added=True)] = "mtsac"
    """Who learns. mtsac: one SAC for all tasks; td3: one TD3 for all tasks, with no entropy and settings of its own,
    --target-noise, --target-noise-clip and --exploration-noise (TD3's own --policy-delay is 2); independent: one plain
    Stable-Baselines3 SAC per task, nothing shared, with neither clipping nor overlap: the baseline. --independent says
    the same."""
    warmup_steps: Whole = 4_000
    """Steps per task with random actions, before the first update."""
    adam_eps: Positive = 1e-5
    """Epsilon of Adam."""


@dataclass(frozen=True)
class RunSettings:
    """One run of it: how long, where, and how often it looks at itself."""

    role: ClassVar[Kind] = "machine"

    preset: Annotated[str, Role("method", in_presets=False)] = ""
    trial: Annotated[bool, Role(added=True, in_presets=False)] = False  # made with STEPS set: no result
    seed: Annotated[Whole, SEED, Role("protocol")] = 0
    """Random seed for goals, network initialisation, exploration and batch sampling."""
    steps_per_task: Annotated[Count, Role("protocol", resume="Extend the run to this many steps per task.")] = 2_000_000
    """Environment steps of each task."""
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Role(resume="Continue on another device; by default on that of the run.")
    ] = "auto"
    """Device of the networks; auto: cuda if there is one."""
    capture: Annotated[
        Literal["auto"] | bool,
        Role(
            resume="Whether to capture updates as CUDA graphs; by default as the run does, auto on another device.",
            plain_sac=False,
        ),
    ] = "auto"
    """Replay updates as CUDA graphs; auto: on CUDA."""
    compile: Annotated[Literal["auto"] | bool, Role(plain_sac=False, added=True)] = False
    """Compile updates, with a C++ compiler, and on CUDA with Triton; auto: where they are there and the run is long
    enough to gain from it. Chosen once and kept at resume, as it changes rounding."""
    run_dir: Annotated[str, Role(in_presets=False)] = ""
    """Folder of the run, new or empty; empty: runs/PRESET[-TASKS]-AGGREGATOR-seedSEED."""
    workers: Annotated[
        Literal["auto"] | int,
        Bound("auto, 0 or more", lambda value: value == "auto" or value >= 0),
        Role(resume="Continue with another number of workers; the numbers stay the same."),
    ] = "auto"
    """Worker processes that step the environments; 0: step in this process."""
    threads: Annotated[
        Literal["auto"] | int, Bound("auto, or 1 to 1024", lambda value: value == "auto" or 1 <= value <= 1024)
    ] = "auto"
    """Torch threads; chosen once and kept at resume, as they change the order of sums."""
    progress: bool = True
    """Show the progress bar."""
    eval_every: Annotated[Whole, Role("monitoring")] = 20_000
    """Steps per task between evaluations; 0: only at the end."""
    eval_goals: Annotated[Count, Role("monitoring")] = 50
    """Goals (= episodes) per task in an evaluation during training."""
    final_goals: Annotated[Count, Role("monitoring")] = 50
    """Goals (= episodes) per task in the evaluation at the end."""
    eval_envs_per_task: Annotated[
        Count, Role(resume="Continue with more or fewer environments in evaluations.", added=True)
    ] = 1
    """Environments of each task in evaluations, which share the goals out; on a CPU the numbers stay the same. More
    take fewer vector steps, more memory (23 MB each), and a quarter of a second each to build."""
    checkpoint_every: Annotated[Whole, Role("monitoring")] = 20_000
    """Steps per task between checkpoints; 0: only at the end."""
    checkpoint_minutes: Annotated[NotNegative, Role("monitoring", added=True)] = 0.0
    """Minutes between checkpoints, besides those by steps; 0: by steps only."""
    keep_checkpoints: Annotated[Count, Role("monitoring")] = 2
    """How many of the newest checkpoints to keep."""
    loggers: Annotated[
        tuple[str, ...], Role(resume="Continue with other loggers; by default those of the run.", added=True)
    ] = ("csv", "tensorboard")
    """Where metrics and evaluations are written; csv must be among them. --track wandb,mlflow,trackio adds trackers."""


@dataclass(frozen=True)
class TrainConfig(NetworkSettings, SACSettings, RunSettings, MethodSettings, EnvSettings):
    """All settings of one run; in --help and files in the opposite order of the classes."""

    precision: Annotated[Literal["auto"] | Precision, Role(plain_sac="float32")] = "float32"  # type: ignore[assignment]
    """Matrix-product precision of the hidden layers during training. auto: bfloat16 on CPUs that support it, else
    float32. tf32: CUDA only, heads included. Weights, optimizers and acting stay in float32."""

    def aggregators(self) -> dict[str, dict[str, Any]]:
        """Names of the methods and their options: one, or the actor's and the critic's."""
        found = {
            self.aggregator: self.aggregator_options,
            self.actor_aggregator: self.actor_aggregator_options,
            self.critic_aggregator: self.critic_aggregator_options,
        }
        return {name: options for name, options in found.items() if name}

    @property
    def method(self) -> str:
        """What the run is called after: the aggregator, or the algorithm where that has no choice of one."""
        fixed = "aggregator" in ALGORITHMS[self.algorithm].fixed(TrainConfig)
        named = self.algorithm if self.algorithm != "mtsac" else ""
        return "-".join(filter(None, [named, "" if fixed else self.aggregator]))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainConfig:
        """Return the config that `to_json` wrote.

        :raises ValueError: if a field is missing, unknown or of another type.
        """
        known = settings_of(cls)
        values = {name: setting.default for name, setting in known.items() if setting.role.added} | renamed(values)
        if type(values.get("capture")) is int:  # until version 0.2: so many updates in one graph
            values["capture"] = True
        if values.get("return_scale") == "ars":
            raise ValueError(ARS_REMOVED)
        if values.keys() != known.keys():
            raise ValueError(f"fields {sorted(known.keys() ^ values.keys())} are missing or unknown")
        if type(values["ent_coef"]) in (int, float):  # as a flag it is text
            values["ent_coef"] = str(values["ent_coef"])
        return build(cls, values)


def shorten(config: TrainConfig, limit: int) -> TrainConfig:
    """Return a trial of at most `limit` steps per task.

    If that is less than one episode, episodes and all else shrink, too: no result, but every part has run, in seconds.
    """
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


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in a file, by the names of today."""
    values = dict(values)
    if type(values.get("independent")) is bool:  # until version 0.2
        values["algorithm"] = "independent" if values.pop("independent") else "mtsac"
    if values.get("collect_ahead") == 0:  # likewise: off
        del values["collect_ahead"]
    return values


def fitted(config: TrainConfig, algorithm: str) -> TrainConfig:
    """Return the config as far as the algorithm can follow it, with plain layers in place of other torsos."""
    if algorithm not in ALGORITHMS or algorithm == config.algorithm:
        return config
    fixed, before = (ALGORITHMS[name].fixed(TrainConfig) for name in (algorithm, config.algorithm))
    back = {name: setting.default for name, setting in settings_of(TrainConfig).items() if name in before}
    layers: dict[str, Any] = {}
    for network in ("actor", "critic") if "actor_torso" in fixed else ():
        from agents.networks.torsos import TORSOS  # torch comes with it, and importing this brings none

        torso, depth = (getattr(config, f"{network}_{name}") for name in ("torso", "depth"))
        layers |= {f"{network}_{name}": value for name, value in TORSOS[torso].as_mlp(depth).items()}
    return TrainConfig.from_json({**config.to_json(), **back, **fixed, **layers, "algorithm": algorithm})


def check(config: TrainConfig) -> None:
    """Raise ValueError for settings that make no sense, alone or together: flag, expected, found."""
    try:
        check_settings(config)
        benchmark = find_benchmark(config.suite)
        if (number := benchmark.num_tasks) and len(config.tasks) != number:
            names = "one task name" if number == 1 else f"{number} task names"
            expected = f"{names} for {benchmark.name}, e.g. --tasks reach-v3"
            raise SettingError("tasks", expected, config.tasks)
    except SettingError as error:
        raise ValueError(in_flags(error)) from None


def check_settings(config: TrainConfig) -> None:
    """Raise ValueError for settings that make no sense, alone or together; which tasks there are is left open."""
    check_fields(TrainConfig, vars(config))
    check_together(config, config)
    benchmark = find_benchmark(config.suite)
    most = benchmark.max_horizon or math.inf
    if config.horizon > most:
        raise SettingError("horizon", f"at most {most}, the limit of {benchmark.family}", config.horizon)
    if not 0 <= config.train_horizon <= most:
        raise SettingError("train_horizon", f"0 (as --horizon) to {most}", config.train_horizon)
    for name in ("eval_goals", "final_goals"):
        if getattr(config, name) > config.goals:
            raise SettingError(name, f"at most --goals ({config.goals}), each goal once", getattr(config, name))
    ALGORITHMS[config.algorithm].check(config, f" with --algorithm {config.algorithm}")
