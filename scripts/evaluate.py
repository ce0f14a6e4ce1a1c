"""Evaluate the newest checkpoint of a run: each goal once, deterministic, to the horizon of the run's protocol.

python -m scripts.evaluate runs/mt10-quick-pcgrad-seed0 --episodes 50 --json success.json
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from agents import evaluate
from scripts.common import command
from scripts.common.screen import Screen, strong
from scripts.common.text import plain
from scripts.common.usage import UsageError, check_output
from scripts.runs import Run
from scripts.runs.files import check_not_of_a_run, write_json
from scripts.runs.messages import success_table
from scripts.runs.protocol import describe_env, require_spaces
from scripts.runs.results import group_means, summarize
from scripts.setup.build import make_evaluation_env, resolve
from scripts.setup.trust import require_trust, suite_code


@dataclass(frozen=True)
class EvaluateConfig:
    """Success per task of a run's newest checkpoint, with Wilson 95 % intervals."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run; the name of a trained agent of this package, such as mt10-quick-pcgrad; or hub:USER/NAME."""
    episodes: int | None = None
    """Goals (= episodes) per task, beginning with the first; by default all of the run."""
    best: bool = False
    """Use the agent of the best evaluation during training (optimistic: chosen on these goals), not the newest one."""
    json: Path | None = None
    """Also write the numbers to this file."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Device of the network."""
    workers: Literal["auto"] | int = "auto"
    """Processes beside this one that step the environments; auto: as many as there are other cores."""
    run_code: bool = False
    """Run the function that makes the run's environments; only if you trust it."""


def main(argv: Sequence[str]) -> int:
    """Evaluate as `argv` says; return the exit code."""
    request = tyro.cli(EvaluateConfig, prog="python -m scripts.evaluate", args=argv)
    run = Run(request.run).verified()
    require_trust(suite_code(run.config), request.run_code, "evaluating")
    episodes = run.config.goals if request.episodes is None else request.episodes
    if not 1 <= episodes <= run.config.goals:
        raise UsageError(
            f"--episodes: expected 1 to {run.config.goals}, the number of goals of this run; found {episodes}."
        )
    if request.json:
        check_output("--json", request.json)
        check_not_of_a_run("--json", request.json)
    config = resolve(replace(run.config, device=request.device, capture=False, compile=False, workers=request.workers))
    source, agent = run.load_agent(request.best, config.device)
    with contextlib.closing(make_evaluation_env(config, run.goals, alone=True)) as env:
        run.require_tasks(env.task_names, run.path / "config.json")
        now = describe_env(config, env)
        require_spaces(run.protocol, now.spaces)
        summary = summarize(evaluate(agent, env, episodes))
    console = Screen()
    protocol = replace(now, episodes_final=episodes, collect_ahead=run.protocol.collect_ahead)
    groups = group_means(summary, protocol.benchmark)
    console.print(success_table(summary, f"{run.path.name} after {agent.steps_per_task:,} steps per task", groups))
    console.print(f"Protocol {protocol.id}: deterministic, each goal once, success at any of {config.horizon} steps.")
    if (before := run.protocol.versions) != protocol.versions:
        changes = f"{plain(before)} -> {plain(protocol.versions)}"
        told = f" than the run was trained with, so its numbers may differ: {changes}"
        console.print(strong("Other software", told), soft_wrap=True)
    if request.json:
        write_json(
            request.json,
            {
                "run": str(run.path),
                "checkpoint": source.parent.name if source.name == "agent.zip" else source.stem,
                "env_steps_per_task": agent.steps_per_task,
                "protocol": {"id": protocol.id, **protocol.to_json()},
                **summary,
                "groups": groups,
            },
        )
    return 0


if __name__ == "__main__":
    command.run(main)
