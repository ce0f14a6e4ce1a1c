"""A policy as one ONNX file: it acts wherever ONNX runs, without torch and without this package."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from agents.saving.atomic import whole_file


class _Deterministic(nn.Module):
    """What `predict(..., deterministic=True)` does: the mean action, squashed, on the scale of the action space."""

    def __init__(self, actor: nn.Module, low: Tensor, high: Tensor):
        super().__init__()
        self.actor, self.low, self.high = actor, low, high

    def forward(self, observations: Float[Tensor, "rows obs"]) -> Tensor:
        return self.low + 0.5 * (self.actor(observations, deterministic=True) + 1.0) * (self.high - self.low)


def export_onnx(agent: Any, path: str | Path) -> Path:
    """Write the deterministic policy: "observations" (rows, D + T), the task's one-hot last, to "actions" (rows, A).

    The file's metadata holds "task_names", as JSON, in the order of the one-hot.

    :return: `path`, with ".onnx" added if it has no ending.
    :raises ImportError: without the packages of the extra `onnx`.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"export_onnx needs packages that are not there ({error}): pip install -c constraints.txt -e '.[onnx]'"
        ) from error
    path = Path(path) if Path(path).suffix else Path(path).with_suffix(".onnx")
    space = agent.policy.action_space
    actor = copy.deepcopy(agent.actor).cpu()  # the agent's own stays where it is
    policy = _Deterministic(actor, torch.as_tensor(space.low), torch.as_tensor(space.high)).eval()
    program = torch.onnx.export(
        policy,
        (torch.zeros(2, *agent.observation_space.shape),),  # two rows: of one, the export takes the number for fixed
        input_names=["observations"],
        output_names=["actions"],
        dynamic_shapes={"observations": {0: torch.export.Dim("rows")}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    model.metadata_props.add(key="task_names", value=json.dumps(list(agent.task_names)))
    with whole_file(path) as file:
        file.write(model.SerializeToString())
    return path
