"""A trained actor by itself: a small safetensors file to share and to act with, without critics and optimizers."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import get_device
from torch import Tensor

from agents.fields import build, check_fields, taken_by
from agents.networks import asked
from agents.networks.actor_critic import Actor, MultiTaskActor
from agents.networks.deterministic import DeterministicActor
from agents.networks.form import REGISTRIES, Form, by_name
from agents.networks.task_vectors import as_task_vectors
from agents.saving.atomic import whole_file
from agents.saving.state_file import StateFileError, damage_told
from agents.settings import NetworkSettings

ACTORS: dict[str, type[Actor]] = {"gaussian": MultiTaskActor, "deterministic": DeterministicActor}
_VECTORS = "task_vectors"
_NAME, _VERSION = "mtrl-surgery-actor", 1  # the key of our metadata, and its version


class TrainedActor(BasePolicy):
    """An actor to act with: Stable-Baselines3's `predict`, and what `agents.evaluate` and Meta-World's own ask for.

    :param task_names: of the T tasks, in the order of the one-hot that ends each observation.
    :param steps_per_task: environment steps per task that it was trained for.
    :param kind: a name in `ACTORS`.
    :param task_vectors: as for `MultiTaskPolicy`.
    :param settings: of `NetworkSettings`; those of the critics have no effect.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        task_names: tuple[str, ...],
        steps_per_task: int,
        kind: str = "gaussian",
        task_vectors: Float[np.ndarray, "tasks numbers"] | None = None,
        **settings: Any,
    ):
        super().__init__(observation_space, action_space, squash_output=True)
        settings = {**settings, "critic_torso": "mlp"}  # it may be a class of a user's own, which is not there
        check_fields(NetworkSettings, settings)
        self.task_names, self.steps_per_task = task_names, steps_per_task
        named = vars(build(NetworkSettings, settings))
        vectors = None if task_vectors is None else as_task_vectors(task_vectors, len(task_names))
        form = Form.of("actor", len(task_names), {**named, "task_vectors": vectors})
        sizes = observation_space.shape[0], action_space.shape[0]
        self.actor = ACTORS[kind](form, *sizes, **taken_by(ACTORS[kind], named))

    _predict = forward = asked.actions_of
    eval_action, reset = asked.eval_action, asked.reset


def save_actor(agent: Any, path: str | Path) -> None:
    """Write the actor of an `MTSAC` or `MTTD3` alone: its weights, and what it takes to build it again.

    :param path: of the .safetensors file, which appears whole or not at all.
    :raises ValueError: for an agent with an actor per task; for an actor, torso or conditioning of a class of the
        user's own, and for one whose parts a policy has replaced, as files hold no code.
    """
    if not isinstance(agent.actor, Actor):
        raise ValueError(f"expected an agent with one actor for all tasks; found {type(agent).__name__}.")
    settings = by_name(vars(agent.policy.settings))
    own = [settings[name] for name in ("actor_torso", "conditioning") if ":" in settings[name]]
    kind = next((name for name, known in ACTORS.items() if type(agent.policy.actor) is known), "")
    own += [] if kind else [type(agent.policy.actor).__name__]
    _refuse(own)
    boxes = (agent.observation_space, agent.action_space)
    described = {
        "version": _VERSION,
        "kind": kind,
        "settings": settings,
        "task_names": list(agent.task_names),
        "steps_per_task": agent.steps_per_task,
        "dtypes": [str(box.dtype) for box in boxes],
    }
    bounds = {
        f"{name}.{end}": torch.as_tensor(getattr(box, end).copy())
        for name, box in zip(("observations", "actions"), boxes, strict=True)
        for end in ("low", "high")
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in agent.policy.actor.state_dict().items()}
    if (vectors := agent.policy.task_vectors) is not None:
        weights[_VECTORS] = torch.as_tensor(vectors)
    tensors = {**weights, **bounds}
    if not _acts_as(described, tensors, agent.policy.actor):
        _refuse([f"parts that {type(agent.policy).__name__} has replaced"])
    with whole_file(path) as file:
        file.write(save(tensors, {_NAME: json.dumps(described)}))


def _refuse(own: Sequence[str]) -> None:
    if own:
        raise ValueError(
            f"expected an actor of this package's parts; found {', '.join(own)}, and files hold no code. "
            "agent.save(path) writes the agent, agent.export_onnx(path) its actor for acting."
        )


@torch.no_grad()
def _acts_as(described: Mapping[str, Any], tensors: Mapping[str, Tensor], actor: Actor) -> bool:
    """Whether the actor that a file of these describes takes the weights, and acts as this one on random rows."""
    actor = copy.deepcopy(actor).cpu().eval()
    with torch.random.fork_rng([]):  # new networks draw their parameters
        try:
            written = _built(described, tensors).actor.eval()
        except RuntimeError:  # other weights
            return False
        rows = 4 * actor.num_tasks
        plain = torch.randn(rows, len(tensors["observations.low"]) - actor.num_tasks)
        noise = torch.randn(rows, len(tensors["actions.low"]))
    kind = next(actor.parameters()).dtype
    observations = torch.cat([plain, torch.eye(actor.num_tasks).repeat(4, 1)], 1).to(kind)
    return all(
        torch.allclose(
            actor(observations, noise=each.to(kind)), written(observations, noise=each.to(kind)), equal_nan=True
        )
        for each in (torch.zeros_like(noise), noise)
    )


def load_actor(path: str | Path, device: torch.device | str = "auto") -> TrainedActor:
    """Load the actor in a file of `save_actor`, to act with. Nothing of the file is run.

    :raises FileNotFoundError: if there is no such file.
    :raises StateFileError: if it is damaged, or none of ours.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    with damage_told(path), safe_open(path, "pt") as file:
        described = (file.metadata() or {}).get(_NAME)
        if described is None:
            raise StateFileError(f"{path}: expected a file that save_actor wrote; it says nothing of an actor.")
        values, tensors = json.loads(described), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if values["version"] != _VERSION:
            raise StateFileError(f"{path}: expected version {_VERSION} of the format; found {values['version']!r}.")
        _check_known(path, values["settings"])
        actor = _built(values, tensors)
    actor.set_training_mode(False)
    return actor.to(get_device(device))


def _built(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TrainedActor:
    """Make the actor that a file's metadata describe, with the file's tensors."""
    weights = dict(tensors)
    observations, actions = (
        spaces.Box(weights.pop(f"{name}.low").numpy(), weights.pop(f"{name}.high").numpy(), dtype=np.dtype(dtype))
        for name, dtype in zip(("observations", "actions"), values["dtypes"], strict=True)
    )
    names, steps = tuple(values["task_names"]), values["steps_per_task"]
    kind = values.get("kind", "gaussian")  # as all were before they said so
    vectors = weights.pop(_VECTORS).numpy() if _VECTORS in weights else None
    actor = TrainedActor(observations, actions, names, steps, kind, vectors, **values["settings"])
    actor.actor.to(next(iter(weights.values())).dtype).load_state_dict(weights)
    return actor


def _check_known(path: str | Path, settings: Mapping[str, Any]) -> None:
    """Refuse an actor with a part that is in no registry here.

    :raises StateFileError: naming it.
    """
    for name in ("actor_torso", "conditioning"):
        if (kind := settings.get(name)) and kind not in REGISTRIES[name]:
            raise StateFileError(
                f"{path} was saved with the {name} {kind}, and files hold no code: add that class to its "
                "registry under this name."
            )
