"""Saving and loading an agent without pickle."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import get_device, get_system_info

import mtrl
from agents.collecting.rollout import OverlappedSAC
from agents.environment import envs_per_task
from agents.learning.aggregation import describe_aggregator
from agents.learning.guard import FiniteGuard, NonFiniteError
from agents.learning.metrics import TaskMetrics
from agents.saving.onnx_export import export_onnx
from agents.saving.state_file import StateFileError, damage_told, is_path, read_state, write_state
from agents.settings import ARS_REMOVED

# Constructor arguments that are attributes of the same name and plain JSON.
SETTINGS = (
    "buffer_size learning_starts batch_size tau gamma gradient_steps ent_coef target_entropy target_update_interval "
    "max_grad_norm reward_scale loss_weighting overlap collect_ahead log_every log_conflicts seed "
    "policy_delay noise_hold ent_coef_min critic_reduction reset_at "
    "high_reward_fraction high_reward_candidates"
).split()
# Constructor arguments that no file may choose: where we write, how much we print, on what we run.
NOT_OF_FILES = {"env", "device", "tensorboard_log", "verbose", "capture", "replay_buffer_kwargs", "_init_setup_model"}
COUNTERS = (
    "num_timesteps _total_timesteps _n_updates _episode_num _current_progress_remaining "
    "_rollout_steps _next_actions seconds _resets _refreshed _noise"
).split()
AGGREGATORS = ("aggregator", "critic_aggregator")
MODULES = ("policy", "actor.optimizer", "critic.optimizer", *AGGREGATORS)

Agent = TypeVar("Agent", bound="SafeSaves")


class SafeSaves(OverlappedSAC):
    """`save` and `load` in our own format; Stable-Baselines3's pickles only on request (`export_sb3`, `trust=True`)."""

    aggregator: Any
    critic_aggregator: Any
    guard: FiniteGuard
    learning_rate_name: float | str
    return_scale_name: str
    return_steps: int
    _noise: torch.Tensor | None
    task_metrics: TaskMetrics

    def save(self, path: Any, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """Write networks, optimizers, temperatures, aggregators, counters and settings to `path` (".zip" is added), or
        into a binary file that is open.

        Not in it: the replay buffer (`save_replay_buffer`) and the environment (`agents.save_checkpoint` has all).

        :raises NonFiniteError: if training has broken down: a good file is not overwritten by a bad one.
        :raises ValueError: if `exclude` or `include` is given: this format has no optional parts.
        """
        if exclude or include:
            raise ValueError("MTSAC.save has no optional parts; export_sb3 takes exclude and include.")
        self.guard.check()
        if not all(parameter.isfinite().all() for parameter in self.policy.parameters()):
            raise NonFiniteError(None, "policy's output", self._n_updates)
        write_state(_with_zip(path), "agent", {"settings": self._settings(), "state": self._state()})

    @classmethod
    def load(
        cls: type[Agent],
        path: Any,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        trust: bool = False,
        run_code: bool = False,
        **changes: Any,
    ) -> Agent:
        """An agent from a file of `save`; without an environment it can act, with one it can go on learning.

        :param path: ".zip" may be left out; or a binary file that is open.
        :param env: with the tasks of the file; the number of environments per task may be another one.
        :param custom_objects: Stable-Baselines3's, for its format; ours holds no objects.
        :param print_system_info: print what this machine runs.
        :param force_reset: begin with a reset of `env` at the next `learn`.
        :param trust: also open Stable-Baselines3's format. It holds pickles, which can run any code: only for files
            whose origin you trust.
        :param run_code: allow the aggregator to be a class in a Python file, which is run. Else give another one:
            `aggregator="mean", critic_aggregator="mean"` for acting.
        :param changes: constructor arguments to change, such as `learning_rate=1e-4`. Networks keep their weights, also
            with `policy=`, which an agent with a policy class of its own needs: files hold no code.
        :raises FileNotFoundError: if there is no such file.
        :raises StateFileError: if the file is damaged, foreign or a pickle, or needs a policy class that was not given.
        :raises TypeError: if a change is no argument of the constructor.
        :raises ValueError: if an aggregator is a class in a file, and `run_code` is not set; if a change does not fit.
        """
        arguments = inspect.signature(cls).parameters.keys() - {"env", "device", "_init_setup_model"}
        for name in changes.keys() - arguments:
            near = "".join(f"; did you mean {word}?" for word in difflib.get_close_matches(name, arguments, 1))
            raise TypeError(f"{cls.__name__}.load() takes the arguments of {cls.__name__}(), and {name} is none{near}")
        device = get_device(device)
        path = _existing(path)
        if trust:
            if others := changes.keys() - {*SETTINGS, *NOT_OF_FILES}:
                raise ValueError(
                    f"{', '.join(others)} cannot change with trust=True: load the file as it is, save it, load that."
                )
            return super().load(path, env, device, custom_objects, print_system_info, force_reset, **changes)
        if print_system_info:
            get_system_info()
        if custom_objects:
            raise ValueError(
                "custom_objects replaces what a pickle cannot rebuild, and this format holds none. Give what is to "
                "change as arguments: MTSAC.load(path, learning_rate=1e-4)."
            )
        saved = read_state(path, "agent")
        with damage_told(path):
            settings = dict(saved["settings"])
            spaces_, task_names = settings.pop("spaces"), tuple(settings.pop("task_names"))
            copies = settings.pop("envs_per_task", 1)
            if unknown := settings.keys() - (arguments - NOT_OF_FILES):
                raise ValueError(f"it has settings that no agent has: {', '.join(sorted(unknown))}")
            settings = {**settings, "policy_kwargs": dict(settings["policy_kwargs"])}
            files = {name: str(settings[name]) for name in (*AGGREGATORS, "policy")}
        cls._check_changes(path, settings, files, changes, run_code)
        if "policy_kwargs" in changes:  # some of them: the others stay
            changes["policy_kwargs"] = {**settings["policy_kwargs"], **(changes["policy_kwargs"] or {})}
        for name in AGGREGATORS:
            if name in changes:
                settings.pop(f"{name}_kwargs", None)  # options of the saved method are not options of another
        with damage_told(path, changes):
            agent = cls(**{**settings, **changes}, env=None, device=device, _init_setup_model=False)  # type: ignore[arg-type]
            agent.observation_space, agent.action_space = (
                spaces.Box(box["low"], box["high"], dtype=box["low"].dtype) for box in spaces_
            )
            agent.task_names = task_names
            agent.n_envs = len(task_names) * (copies if env is None else envs_per_task(env))
            agent._setup_model()
            agent._load_state(saved["state"], skip=[name for name in AGGREGATORS if name in changes])
        if env is not None:
            agent.set_env(env, force_reset)
        return agent

    @classmethod
    def _check_changes(
        cls,
        path: Any,
        settings: Mapping[str, Any],
        files: Mapping[str, str],
        changes: Mapping[str, Any],
        run_code: bool,
    ) -> None:
        """Refuse changes that the learned values do not survive, and a file that needs code which was not given."""
        for name in AGGREGATORS:
            if name not in changes and ".py:" in files[name]:
                if not run_code:
                    raise ValueError(
                        f"{path} was saved with the {name} {files[name]}. To open it runs that file: if you trust it, "
                        'load(..., run_code=True); to act, give aggregator="mean" and critic_aggregator="mean".'
                    )
                mtrl.aggregator_class(files[name])  # that file may be gone or wrong, which is no damage of this one
        if "policy" not in changes and files["policy"] not in cls.policy_aliases:
            module, _, name = files["policy"].rpartition(":")
            raise StateFileError(
                f"{path} was saved with the policy {name} of {module or '?'}, and files hold no code: import that "
                f"class and give it, load(..., policy={name.rpartition('.')[2]}). It gets the weights of the file."
            )
        if settings["return_scale"] == "ars":
            raise StateFileError(f"{path}: {ARS_REMOVED}")
        scale, new = settings["return_scale"], changes.get("return_scale", settings["return_scale"])
        if new != scale:
            raise ValueError(
                f"{path}: critics and temperatures learned with return_scale={scale!r}; found {new!r}. Leave it, or "
                "train a new agent."
            )
        if isinstance(changes.get("ent_coef"), str) and not isinstance(settings["ent_coef"], str):
            raise ValueError(
                f"{path}: expected a number for ent_coef, as the file has a fixed temperature ({settings['ent_coef']}) "
                f"and nothing learned to go on with; found {changes['ent_coef']!r}. Leave it, or train a new agent."
            )

    def set_parameters(
        self, load_path_or_dict: Any, exact_match: bool = True, device: torch.device | str = "auto"
    ) -> None:
        """As Stable-Baselines3's; a file is one of `save`, whose networks, optimizers and aggregators are taken.

        :raises StateFileError: if the file is damaged, foreign or a pickle.
        """
        if not isinstance(load_path_or_dict, dict):
            path = _existing(load_path_or_dict)
            saved = read_state(path, "agent")
            with damage_told(path):
                modules = saved["state"]["modules"]
                load_path_or_dict = {
                    name: modules[name] for name in self._get_torch_save_params()[0] if name in modules
                }
        super().set_parameters(load_path_or_dict, exact_match, device)

    def export_sb3(self, path: Any, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """Write Stable-Baselines3's own format (pickles); `MTSAC.load(path, trust=True)` reads it."""
        super().save(path, exclude, include)

    def export_onnx(self, path: Any) -> Path:
        """Write the deterministic policy as an ONNX file; see `agents.saving.onnx_export`."""
        return export_onnx(self, path)

    def save_replay_buffer(self, path: Any) -> None:
        """Write the replay buffer, filled part only, to a file of its own: `path` as in `save`."""
        assert self.replay_buffer is not None
        write_state(_with_zip(path), "buffer", self.replay_buffer.state_dict())  # type: ignore[attr-defined]

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """Read what `save_replay_buffer` wrote.

        :param truncate_last_traj: let no sum of rewards go on from the newest rows, as in any loop but the one that
            was saved with the buffer (`agents.load_checkpoint`) other episodes follow.
        :raises StateFileError: if the file is damaged, foreign or a pickle, or of other tasks.
        """
        assert self.replay_buffer is not None
        path = _existing(path)
        state = read_state(path, "buffer")
        with damage_told(path):
            self.replay_buffer.load_state_dict(state)  # type: ignore[attr-defined]
        if truncate_last_traj:
            self.replay_buffer.cut()  # type: ignore[attr-defined]

    def _settings(self) -> dict[str, Any]:
        name, options = describe_aggregator(self.aggregator)
        critic_name, critic_options = describe_aggregator(self.critic_aggregator)
        boxes = [{"low": space.low, "high": space.high} for space in (self.observation_space, self.action_space)]  # type: ignore[attr-defined]
        return {
            **{setting: getattr(self, setting) for setting in SETTINGS},
            "policy": self._policy_name(),
            "policy_kwargs": {k: v for k, v in self.policy_kwargs.items() if k != "num_tasks"},
            "aggregator": name,
            "aggregator_kwargs": options,
            "critic_aggregator": critic_name,
            "critic_aggregator_kwargs": critic_options,
            "learning_rate": self.learning_rate_name,
            "return_scale": self.return_scale_name,
            "n_steps": self.return_steps,
            "train_freq": self.train_freq.frequency,  # type: ignore[union-attr]
            "stats_window_size": self._stats_window_size,
            "task_names": list(self.task_names),
            "envs_per_task": self.envs_per_task,
            "spaces": boxes,
        }

    def _policy_name(self) -> str:
        """The alias of the policy's class; without one, "module:Class", for the reader only: nothing is imported."""
        kind = self.policy_class
        aliases = [name for name, known in self.policy_aliases.items() if known is kind]
        return aliases[0] if aliases else f"{kind.__module__}:{kind.__qualname__}"

    def _modules(self) -> dict[str, Any]:
        """Everything with a `state_dict`, by dotted name."""
        names = (
            [*MODULES, "return_scale", "ent_coef_optimizer"]
            if self.ent_coef_optimizer is not None
            else [*MODULES, "return_scale"]
        )
        return {name: _dotted(self, name) for name in names}

    def _state(self) -> dict[str, Any]:
        return {
            "modules": {name: module.state_dict() for name, module in self._modules().items()},
            "log_ent_coef": self.log_ent_coef,
            "counters": {name: getattr(self, name) for name in COUNTERS},
            "episodes": [list(episodes) for episodes in self.task_metrics.episodes],
            "latest": self.task_metrics.latest,
            "measured": self.task_metrics.measured,
        }

    def _load_state(self, state: dict[str, Any], skip: Sequence[str] = ()) -> None:
        for name, module in self._modules().items():
            if name not in skip:
                module.load_state_dict(state["modules"][name])
        if self.log_ent_coef is not None:
            with torch.no_grad():
                self.log_ent_coef.copy_(state["log_ent_coef"])
        for name in COUNTERS:
            setattr(self, name, state["counters"][name])
        if self._noise is not None:  # of other columns it would be of no use
            self._noise = self._noise.to(self.device) if len(self._noise) == self.n_envs else None
        for kept, saved in zip(self.task_metrics.episodes, state["episodes"], strict=True):
            kept.extend(saved)
        for group in ("latest", "measured"):
            setattr(self.task_metrics, group, {name: value.to(self.device) for name, value in state[group].items()})

    def _excluded_save_params(self) -> list[str]:
        of_the_device = ["capture", "_captured", "_acting"]  # not of the agent
        return [*super()._excluded_save_params(), *of_the_device, "_collector"]  # of the environment

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        return [*state_dicts, "aggregator", "critic_aggregator"], variables

    def rng_state(self) -> dict[str, Any]:
        """State of the generators that training draws from outside of the agent's own parts."""
        state = {"torch": torch.get_rng_state(), "action_space": self.action_space.np_random.bit_generator.state}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def set_rng_state(self, state: dict[str, Any]) -> None:
        """Continue the random streams of `rng_state`."""
        torch.set_rng_state(state["torch"])
        self.action_space.np_random.bit_generator.state = state["action_space"]
        if self.device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self.device)


def _with_zip(path: Any) -> Any:
    """The path to write to; an open file stays."""
    if not is_path(path):
        return path
    path = Path(path)
    return path if path.suffix == ".zip" else path.with_name(path.name + ".zip")


def _existing(path: Any) -> Any:
    """The path to read from: as it is, or with ".zip"; an open file stays.

    :raises FileNotFoundError: if there is neither, saying what is there.
    """
    if not is_path(path) or Path(path).is_file():
        return path
    found = _with_zip(path)
    if not found.is_file():
        inside = ", ".join(sorted(file.name for file in Path(path).glob("*.zip"))) or "no zip"
        folder = f" {path} is a folder, with {inside} in it: give a file." if Path(path).is_dir() else ""
        raise FileNotFoundError(f"There is no file {found}.{folder}")
    return found


def _dotted(root: Any, name: str) -> Any:
    for part in name.split("."):
        root = getattr(root, part)
    return root
