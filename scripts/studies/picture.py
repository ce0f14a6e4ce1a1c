"""Draw docs/conflict.png: two gradients that conflict, their mean, and what PCGrad makes of them.

python -m scripts.picture docs/conflict.png
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from mtrl import Mean, PCGrad
from mtrl.aggregators.projection import project_conflicts

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"


def main(argv: Sequence[str]) -> int:
    """Draw the picture to the path in `argv`; return the exit code."""
    path = Path(argv[0] if argv else "docs/conflict.png")
    matplotlib.use("Agg")
    jacobian = torch.tensor([[3.0, 0.6], [-1.4, 0.9]])  # (2, 2): two tasks, two parameters
    orders = torch.tensor([[1], [0]])  # each task visits the other one
    projected = project_conflicts(jacobian @ jacobian.T, orders) @ jacobian
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True, sharey=True, layout="constrained")
    left.set_title("the mean works against task 2")
    right.set_title("PCGrad works for both")
    for axes in (left, right):
        arrow(axes, jacobian[0], BLUE, "$g_1$", faint=axes is right)
        arrow(axes, jacobian[1], ORANGE, "$g_2$", faint=axes is right)
    arrow(left, Mean()(jacobian, torch.zeros(2)), GREEN, "mean")
    for vector, original, color, label in zip(projected, jacobian, (BLUE, ORANGE), ("$g_1'$", "$g_2'$"), strict=True):
        right.plot(*torch.stack([original, vector]).T, ":", color=color, linewidth=1.2)
        arrow(right, vector, color, label)
    arrow(right, PCGrad()(jacobian, torch.zeros(2)), GREEN, "PCGrad")
    for axes in (left, right):
        axes.set(xlim=(-1.9, 3.6), ylim=(-0.1, 2.1), aspect="equal")
        axes.axis("off")
        axes.title.set_size(12)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    print(f"wrote {path}")
    return 0


def arrow(axes: Axes, tip: Tensor, color: str, label: str, faint: bool = False) -> None:
    """Draw an arrow from the origin to `tip`, with its name at the end."""
    x, y = tip.tolist()
    style = {"arrowstyle": "-|>", "mutation_scale": 16, "linewidth": 2.2, "color": color, "shrinkA": 0, "shrinkB": 0}
    alpha = 0.3 if faint else 1.0
    axes.annotate("", (x, y), (0, 0), arrowprops=style | {"alpha": alpha})
    reach = 1 + 0.16 / max(float(tip.norm()), 0.1)
    axes.text(x * reach, y * reach, label, color=color, alpha=alpha, fontsize=12, ha="center", va="center")
