"""Multi-task agents: Stable-Baselines3 algorithms built on `mtrl`."""

from agents.callbacks import CheckpointCallback, EvaluationCallback
from agents.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from agents.evaluation import Evaluation, evaluate
from agents.guard import NonFiniteError
from agents.memory import keep_freed_memory
from agents.mtsac import MTSAC
from agents.policies import MultiTaskPolicy
from agents.replay import TaskReplayBuffer
from agents.state_file import StateFileError

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
