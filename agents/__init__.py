"""Multi-task agents: Stable-Baselines3 algorithms built on `mtrl`."""

from agents.callbacks import CheckpointCallback, EvaluationCallback
from agents.collecting.replay import TaskReplayBuffer
from agents.device.memory import keep_freed_memory
from agents.evaluation import Evaluation, evaluate
from agents.learning.guard import NonFiniteError
from agents.mtsac import MTSAC
from agents.networks.policies import MultiTaskPolicy
from agents.saving.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from agents.saving.state_file import StateFileError

__all__ = [
    "MTSAC",
    "CheckpointCallback",
    "Evaluation",
    "EvaluationCallback",
    "MultiTaskPolicy",
    "NonFiniteError",
    "StateFileError",
    "TaskReplayBuffer",
    "evaluate",
    "keep_freed_memory",
    "latest_checkpoint",
    "load_checkpoint",
    "save_checkpoint",
]
