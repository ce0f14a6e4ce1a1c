"""A page about runs: tables by jinja2, which escapes every word of a run, and figures that the page draws itself."""

from __future__ import annotations

import base64
import importlib
import importlib.util
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from scripts.analysis import intervals
from scripts.analysis.comparison import episodes_at, summarise
from scripts.analysis.methods import Method
from scripts.analysis.page import numbers
from scripts.analysis.published import published
from scripts.analysis.tables import spelled
from scripts.common.text import plain
from scripts.common.usage import UsageError
from scripts.runs import Run
from scripts.runs.files import as_usage_error, read_json
from scripts.runs.results import wilson
from scripts.setup.overview import by_flag
from scripts.setup.presets import PRESETS

_PACKAGES = ("plotly", "jinja2")  # of the extra `report`
_LARGEST_FILM = 2_000_000  # bytes of one that goes into the page
_FILMS = {".mp4": "video/mp4", ".gif": "image/gif"}


@dataclass(frozen=True)
class Film:
    """A film of a run: in the page itself if it is small, else only its place."""

    run: str
    kind: str
    source: str
    path: str


def require_packages() -> None:
    """Raise UsageError without the packages that a page needs."""
    if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        raise UsageError(
            f"expected the packages of a report; {' and '.join(missing)} not installed here. Install them: "
            "pip install -c constraints.txt -e '.[report]'"
        )


def page(methods: Sequence[Method], title: str) -> str:
    """Return the HTML of a page about these methods, which opens without a network."""
    offline, jinja2 = (importlib.import_module(name) for name in ("plotly.offline", "jinja2"))
    folder = resources.files("scripts.analysis.page")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["plain"] = plain
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}  # and keys in their order
    template = environment.from_string((folder / "page.html").read_text())
    runs = [run for method in methods for run in method.runs]
    protocol = runs[0].protocol
    presets = {name: by_flag(preset.config) for name, preset in PRESETS.items()}
    text: str = template.render(
        title=title,
        nonce=secrets.token_urlsafe(16),
        protocol=protocol.to_json() | {"id": protocol.id},
        runs=[(run, _facts(run)) for run in runs],
        methods=[method.label for method in methods],
        summary=[_summary(method) for method in methods],
        tasks=_tasks(methods),
        settings=numbers.settings(methods, presets),
        published=[(p, p.differences(protocol, protocol.env_steps_per_task)) for p in published(protocol.benchmark)],
        films=list(_films(runs)),
        numbers=numbers.numbers(methods),
        script=(folder / "page.js").read_text(),
        style=(folder / "page.css").read_text(),
        plotly=offline.get_plotlyjs(),
    )
    return text


def _facts(run: Run) -> dict[str, Any]:
    """How a run was made: command, software, machine, and where its time went."""
    found: dict[str, Any] = {"status": run.status, "seconds": {}, "instabilities": {}}
    for name in ("versions", "result", "postmortem"):
        path = run.path / f"{name}.json"
        if path.exists():
            with as_usage_error(path):
                found[name] = dict(read_json(path))
    if result := found.get("result"):
        with as_usage_error(run.path / "result.json"):
            found |= {"command": str(result["command"]), "seconds": {k: float(v) for k, v in result["seconds"].items()}}
            found["instabilities"] = {task: count for task, count in result["unstable_episodes"].items() if count}
    return found


def _summary(method: Method) -> dict[str, str]:
    """Return what a method comes to at its newest common evaluation; dashes where a task reports no success."""
    step = int(method.curves[0][-1])
    cells = {"method": method.label, "seeds": str(len(method.seeds)), "failed": str(len(method.failed))}
    cells["steps"] = f"{step:,}"
    on_the_way = any(run.status == "unfinished" for run in method.runs)  # then all their hours are of other steps
    try:
        row = summarise(method, step if on_the_way else None)
    except UsageError:
        return cells | dict.fromkeys(("success", "iqm", "best", "hours"), "-")
    mean, iqm = intervals.mean(row.scores), intervals.iqm(row.scores)
    return cells | {
        "success": f"{mean:.3f} {spelled(intervals.mean_interval(row.scores))}",
        "iqm": f"{iqm:.3f} {spelled(intervals.iqm_interval(row.scores))}",
        "best": f"{row.best.mean():.3f}",
        "hours": "-" if row.hours is None else f"{row.hours:.2f}",
    }


def _tasks(methods: Sequence[Method]) -> list[tuple[str, list[tuple[str, float]]]]:
    """Return per task each method's newest success: as text with Wilson's interval, and as a number for its bar."""
    columns = [[_rate(method, i) for i in range(len(method.runs[0].protocol.tasks))] for method in methods]
    return list(zip(methods[0].runs[0].protocol.tasks, map(list, zip(*columns, strict=True)), strict=True))


def _rate(method: Method, task: int) -> tuple[str, float]:
    rate = float(method.curves[1][:, task, -1].mean())
    if np.isnan(rate):
        return "-", 0.0
    episodes = sum(episodes_at(run, int(method.curves[0][-1])) for run in method.runs)
    low, high = wilson(rate * episodes, episodes)
    return f"{rate:.2f} [{low:.2f}, {high:.2f}]", rate


def _films(runs: Sequence[Run]) -> Iterator[Film]:
    for run in runs:
        for path in sorted([*run.path.glob("*"), *run.path.glob("videos/*")]):
            if (kind := _FILMS.get(path.suffix)) and ".partial" not in path.name:
                small = path.stat().st_size <= _LARGEST_FILM
                data = base64.b64encode(path.read_bytes()).decode() if small else ""
                yield Film(run.path.name, kind, f"data:{kind};base64,{data}" if small else "", str(path))


def default_title(runs: Sequence[Run]) -> str:
    """Return the name of the only run, or of the benchmark and how many there are."""
    return runs[0].path.name if len(runs) == 1 else f"{runs[0].protocol.benchmark}: {len(runs)} runs"


def out_path(out: Path) -> Path:
    """Where the page goes: `out`, as .html if it has no ending.

    :raises UsageError: for another ending.
    """
    if out.suffix.lower() not in ("", ".html", ".htm"):
        raise UsageError(f"--out: expected a file that ends in .html; found the ending {out.suffix!r}: {out}.")
    return out if out.suffix else out.with_suffix(".html")
