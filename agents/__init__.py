"""Multi-task agents: Stable-Baselines3 algorithms built on `mtrl`.

The names below are imported when they are first asked for: settings and run folders can be read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same for tools that only read
    from agents.callbacks import CheckpointCallback as CheckpointCallback
    from agents.callbacks import EvaluationCallback as EvaluationCallback
    from agents.collecting.replay import TaskReplayBuffer as TaskReplayBuffer
    from agents.device.memory import keep_freed_memory as keep_freed_memory
    from agents.evaluation import Evaluation as Evaluation
    from agents.evaluation import evaluate as evaluate
    from agents.independent import IndependentSAC as IndependentSAC
    from agents.learning.guard import NonFiniteError as NonFiniteError
    from agents.mtsac import MTSAC as MTSAC
    from agents.mttd3 import MTTD3 as MTTD3
    from agents.networks.policies import MultiTaskPolicy as MultiTaskPolicy
    from agents.saving.actor_file import TrainedActor as TrainedActor
    from agents.saving.actor_file import load_actor as load_actor
    from agents.saving.actor_file import save_actor as save_actor
    from agents.saving.checkpoint import latest_checkpoint as latest_checkpoint
    from agents.saving.checkpoint import load_checkpoint as load_checkpoint
    from agents.saving.checkpoint import save_checkpoint as save_checkpoint
    from agents.saving.state_file import StateFileError as StateFileError

_HOMES = {
    "agents.callbacks": ("CheckpointCallback", "EvaluationCallback"),
    "agents.collecting.replay": ("TaskReplayBuffer",),
    "agents.device.memory": ("keep_freed_memory",),
    "agents.evaluation": ("Evaluation", "evaluate"),
    "agents.independent": ("IndependentSAC",),
    "agents.learning.guard": ("NonFiniteError",),
    "agents.mtsac": ("MTSAC",),
    "agents.mttd3": ("MTTD3",),
    "agents.networks.policies": ("MultiTaskPolicy",),
    "agents.saving.actor_file": ("TrainedActor", "load_actor", "save_actor"),
    "agents.saving.checkpoint": ("latest_checkpoint", "load_checkpoint", "save_checkpoint"),
    "agents.saving.state_file": ("StateFileError",),
}
__all__ = sorted(name for names in _HOMES.values() for name in names)


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
