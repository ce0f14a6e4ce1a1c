"""What a run that goes on needs: where its files begin again, and whether there is anything left to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from agents.saving.checkpoint import checkpoints
from scripts.common.usage import UsageError
from scripts.runs.files import as_usage_error, read_json
from scripts.runs.folder import Run
from scripts.runs.tables import STEP


def rewind(run: Run, env_steps_per_task: int) -> None:
    """Forget what was logged after a checkpoint, so that no step is logged twice.

    An evaluation that lacks a task was cut short, and is forgotten too.

    :raises UsageError: if a file holds something else than its numbers.
    """
    rewound = []
    for table, words in ((run.metrics, ()), (run.evaluations, ("task",)), (run.conflicts, ("network",))):
        with as_usage_error(table.path):
            kept = [
                {STEP: step, **{name: cell for name, cell in row.items() if name not in (STEP, "env_steps")}}
                for row in table.read()
                if (step := run.step_of(_numbers(row, *words))) <= env_steps_per_task
            ]
            if table is run.evaluations:
                tasks = Counter(row[STEP] for row in kept)
                kept = [row for row in kept if tasks[row[STEP]] == len(run.protocol.tasks)]
        rewound.append((table, kept))
    for table, kept in rewound:  # when all of them were read
        columns = [name for name in table.columns if name not in (STEP, "env_steps")]
        table.replace(kept, [STEP, *columns] if table.columns else [])


def never_saved(run: Run) -> bool:
    """Whether the run ended before its first checkpoint, so that it can begin anew without a loss.

    :raises UsageError: if its checkpoints are gone.
    """
    # of single tasks, until version 0.2: `newest_checkpoint` says so
    single = (run.path / "tasks").is_dir()
    if checkpoints(run.checkpoints) or run.actor.is_file() or run.status == "finished" or single:
        return False
    with as_usage_error(run.metrics.path):
        rows = [(run.step_of(row), _seconds(row)) for row in map(_numbers, run.metrics.read())]
    steps = max((step for step, _ in rows), default=0)
    seconds = max((time for _, time in rows[:-1]), default=0.0)  # the checkpoint of the last row may have been to come
    by_clock = 0 < 60 * run.config.checkpoint_minutes < seconds
    if steps > (run.config.checkpoint_every or run.config.steps_per_task) or by_clock or _ended_at(run):
        raise UsageError(
            f"expected a checkpoint in {run.checkpoints}; found none, though the run came further than its first "
            "one. Restore them from a copy, or train anew in another --run-dir."
        )
    return True


def concluded(run: Run, env_steps_per_task: int) -> bool:
    """Whether result.json tells the end of the run at this step: a kill may have come just before."""
    return _ended_at(run, "finished") == env_steps_per_task


def _ended_at(run: Run, status: str = "") -> int | None:
    """Return the step at which result.json says that the run ended, with this status if one is asked for.

    Whatever ends so has saved a checkpoint, unless it had made no step.
    """
    if not (run.path / "result.json").exists():
        return None
    with as_usage_error(run.path / "result.json"):
        result = read_json(run.path / "result.json")
        return int(result["env_steps_per_task"]) if status in ("", result["status"]) else None


def _seconds(row: Mapping[str, float]) -> float:
    """Return how long the run had taken at a row of metrics.csv."""
    return sum(value for name, value in row.items() if name.startswith("time/seconds_"))


def _numbers(row: Mapping[str, str], *words: str) -> dict[str, float]:
    """Return the cells of a row that are not empty; all but `words` are numbers."""
    return {name: float(cell) for name, cell in row.items() if cell and name not in words}
