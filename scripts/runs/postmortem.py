"""What is known of a training that broke down."""

from __future__ import annotations

import math

from agents import MTSAC, NonFiniteError
from scripts.runs.files import write_json
from scripts.runs.folder import Run


def cause(agent: MTSAC, error: Exception) -> Exception:
    """Return the loss that became non-finite, if one has: what goes wrong after it, in an environment say, follows."""
    try:
        agent.guard.check()
    except NonFiniteError as found:
        return found
    except RuntimeError:  # a broken device cannot be asked
        pass
    return error


def write_postmortem(run: Run, agent: MTSAC, error: Exception) -> None:
    """Write what is known about a run that went wrong, beside its last good checkpoint."""
    write_json(
        run.path / "postmortem.json",
        {
            "error": type(error).__name__,
            "message": "\n".join([str(error), *getattr(error, "__notes__", [])]),
            **{name: getattr(error, name, None) for name in ("task", "quantity", "update", "source")},
            "env_steps_per_task": agent.steps_per_task,
            "metrics": {name: value if math.isfinite(value) else str(value) for name, value in agent.metrics().items()},
        },
    )
