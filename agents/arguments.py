"""The arguments of MTSAC, as fields: what its signature shows, to people, editors and type checkers alike."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Concatenate, ParamSpec, Self, get_type_hints

import gymnasium
import torch
from stable_baselines3.common.vec_env import VecEnv

import mtrl
from agents.algorithms import Algorithm
from agents.collecting.replay import TaskReplayBuffer
from agents.environment import check_kind
from agents.fields import build, equal, settings_of, taken_by
from agents.learning.aggregation import check_batches
from agents.networks.form import by_name, idle_norms
from agents.networks.policies import MultiTaskPolicy
from agents.settings import AgentSettings, NetworkSettings
from agents.together import check_together, warn_of_range

Given = ParamSpec("Given")
LIVE = ("batch_size", "gradient_steps", "learning_starts")  # settings that training reads from the agent


@dataclass(frozen=True)
class Basics(AgentSettings):
    """What every algorithm takes: these, and each setting by its name."""

    policy: str | type[MultiTaskPolicy]
    env: gymnasium.Env | VecEnv | None
    _: KW_ONLY
    tensorboard_log: str | None = None
    policy_kwargs: dict[str, Any] | None = None
    verbose: int = 0
    device: torch.device | str = "auto"
    settings: AgentSettings | None = None
    _init_setup_model: bool = True

    @classmethod
    def of_call(cls, function: str, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Self:
        """Return the arguments of a call.

        :raises TypeError: for those that are missing, given twice or unknown.
        """
        refuse_unknown(function, keywords, inspect.signature(cls).parameters)
        return cls(*args, **keywords)

    def check_place(self) -> None:
        """Refuse to set up without an environment, or on what is no device of torch.

        As in Stable-Baselines3, a GPU that is not there is the CPU.

        :raises ValueError: saying what was expected and found.
        """
        check_kind(self.env)
        if self.env is None and self._init_setup_model:
            raise ValueError("Expected an environment, found None. `load` needs none for an agent that only acts.")
        try:
            torch.device("cpu" if self.device == "auto" else self.device)
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"device: expected auto, cpu, cuda or another one of torch's; found {self.device!r}."
            ) from error


@dataclass(frozen=True)
class Arguments(Basics):
    """What `MTSAC` takes, which explains it."""

    aggregator: str | mtrl.Aggregator = "pcgrad"
    aggregator_kwargs: dict[str, Any] | None = None
    critic_aggregator: str | mtrl.Aggregator | None = None
    critic_aggregator_kwargs: dict[str, Any] | None = None
    _: KW_ONLY
    capture: bool = False
    compile: bool = False
    replay_buffer_kwargs: dict[str, Any] | None = None

    @property
    def aggregators(self) -> tuple[tuple[str | mtrl.Aggregator, dict[str, Any] | None], ...]:
        """The actor's and the critic's, each with its options."""
        actor = self.aggregator, self.aggregator_kwargs
        if self.critic_aggregator is None:
            return actor, actor
        return actor, (self.critic_aggregator, self.critic_aggregator_kwargs)

    def checked(self, keywords: Mapping[str, Any], algorithm: Algorithm) -> AgentSettings:
        """Check all arguments and return the agent's settings: those of `settings`, and before them single keywords.

        :param keywords: of the call, as a setting that was left out may still be among `settings`.
        :param algorithm: whose agent it is.
        :raises TypeError: if `settings` are of another kind.
        :raises ValueError: for what does not fit, alone or together, or would have no effect where it stands.
        """
        if not isinstance(self.settings, AgentSettings | None):
            raise TypeError(
                f"settings: expected AgentSettings; found {self.settings!r}. Single ones are keywords: gamma=0.9"
            )
        single = {name: value for name, value in keywords.items() if name in settings_of(AgentSettings)}
        given = algorithm.fixed(AgentSettings) if self.settings is None else vars(self.settings)
        settings = AgentSettings.of({**given, **single})
        self._check(settings, algorithm)
        self.check_place()
        return settings

    def _check(self, settings: AgentSettings, algorithm: Algorithm) -> None:
        for group in ("policy_kwargs", "aggregator_kwargs", "critic_aggregator_kwargs", "replay_buffer_kwargs"):
            if not isinstance(found := getattr(self, group), Mapping | None):
                raise ValueError(f"{group}: expected a dict from names to values; found {found!r}.")
        policy_kwargs, buffer_kwargs = by_name(self.policy_kwargs or {}), self.replay_buffer_kwargs or {}
        of_buffer = taken_by(TaskReplayBuffer, vars(settings)).keys() - {"seed"}
        # settings, or facts about the environment, that MTSAC hands on
        for group, options, handed in (
            ("policy_kwargs", policy_kwargs, ("num_tasks", "use_sde")),
            ("replay_buffer_kwargs", buffer_kwargs, ("num_tasks", *of_buffer)),
        ):
            if given := [name for name in handed if name in options]:
                raise ValueError(
                    f"{group}: MTSAC sets {', '.join(given)} itself, from its arguments and its environment. Leave it "
                    "out."
                )
        if self.critic_aggregator_kwargs and self.critic_aggregator is None:
            raise ValueError(
                f"critic_aggregator_kwargs={self.critic_aggregator_kwargs} are options of a critic_aggregator, and "
                "none is named: name it, or give aggregator_kwargs, for both networks."
            )
        for name in ("capture", "compile"):
            if not isinstance(value := getattr(self, name), bool):
                raise ValueError(f"{name} is True or False, found {value!r}.")
        networks = network_settings(policy_kwargs)
        for chosen in (settings, networks):
            algorithm.check(chosen)
        check_together(settings, networks)
        warn_of_range(settings, networks, stacklevel=5)
        for name, torso in idle_norms(vars(networks)).items():
            warnings.warn(f"{name} has no effect on {torso}, which has no such layers: leave it out.", stacklevel=4)


def network_settings(policy_kwargs: Mapping[str, Any]) -> NetworkSettings:
    """Return the settings of the networks among the options of a policy, which may have others of its own."""
    return build(NetworkSettings, {k: v for k, v in policy_kwargs.items() if k in settings_of(NetworkSettings)})


def set_attribute(agent: Any, name: str, value: Any) -> None:
    """Set an attribute of an agent, unless it is a setting that would not change with it.

    :raises ValueError: for another setting, which stands in the parts that were built of it, so that nothing would
        read the attribute; and for a value that the setting cannot have.
    """
    if name in settings_of(AgentSettings) and "collection" in vars(agent):
        old, kind = getattr(agent.settings, name), type(agent).__name__
        if name in LIVE:
            settings = AgentSettings.of({**vars(agent.settings), name: value})
            check_together(settings, network_settings(agent.policy_kwargs))
            for aggregator in agent.update.aggregators.values():
                check_batches(aggregator, settings)
            value = getattr(settings, name)
        elif not equal(value, old):
            raise ValueError(
                f"{name}: this agent was built with {old!r}, and nothing would read {value!r}. Save the agent, and "
                f"give the new value to {kind}.load(path, env, {name}=...)."
            )
    object.__setattr__(agent, name, value)


def refuse_unknown(function: str, keywords: Collection[str], own: Collection[str]) -> None:
    """Refuse keywords that are neither settings of an agent nor the function's own.

    :raises TypeError: naming one that is meant, perhaps.
    """
    known = {*own, *settings_of(AgentSettings)}
    for name in keywords:
        if name not in known:
            near = "".join(f"; did you mean {word}?" for word in difflib.get_close_matches(name, known, 1))
            raise TypeError(f"{function}() takes the settings of an agent, and {name} is none{near}")


def takes(arguments: Callable[Given, Any]) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, Given], None]]:
    """Let a method that takes anything have the signature of a dataclass, for `help` as for type checkers."""

    def with_signature(method: Any) -> Any:
        types = get_type_hints(arguments)
        of_self, *_ = inspect.signature(method).parameters.values()
        fields = [p.replace(annotation=types[p.name]) for p in inspect.signature(arguments).parameters.values()]
        method.__signature__ = inspect.Signature([of_self, *fields])
        return method

    return with_signature
