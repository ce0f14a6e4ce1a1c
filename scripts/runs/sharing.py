"""A run to give away: what it takes to act, evaluate and film, and a card that says what it is."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from agents import save_actor
from agents.algorithms import ALGORITHMS
from agents.mtsac import MTSAC
from agents.saving.atomic import whole_file
from agents.saving.checkpoint import SUMS, sums
from envs import find_benchmark
from scripts.common.usage import UsageError, usage_errors
from scripts.runs.files import as_usage_error, read_json
from scripts.runs.folder import Run
from scripts.runs.hub import SHARED
from scripts.setup.trust import code_of, suite_code


def share(run: Run, to: Path) -> Path:
    """Write the run's actor, its small files and a card into the new folder `to`: it opens as a run, and cannot go on.

    :raises UsageError: if something is at `to`, the run has no agent of its own, or it is not finished.
    """
    if to.exists():
        raise UsageError(f"--to: expected a new folder; there is something at {to}. Choose another.")
    if run.status != "finished":
        raise UsageError(f"expected a finished run; {run.path} is {run.status}. Train it to its end first.")
    run.success_curves()  # the table goes along
    _, agent = run.load_agent()
    partial = to.with_name(to.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name in SHARED:
            with as_usage_error(run.path / name):
                content = (run.path / name).read_bytes()
            (partial / name).write_bytes(content)
        with usage_errors():
            if isinstance(agent, MTSAC):
                save_actor(agent, partial / run.actor.name)
            else:
                shutil.copyfile(run.actor, partial / run.actor.name)
        with whole_file(partial / SUMS) as file:
            file.write(sums([partial / run.actor.name]))
        (partial / "README.md").write_text(card(run, to.name))
        partial.rename(to)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return to


def card(run: Run, name: str) -> str:
    """Markdown: what was trained how, what it reaches, and how to use it."""
    with as_usage_error(run.path / "result.json"):
        result = read_json(run.path / "result.json")
        command, tasks = result["command"], result["evaluation"]["tasks"]
        rows = [f"| {task} | {_rate(row['success'])} |" for task, row in tasks.items()]
        mean = _rate(result["evaluation"]["mean"]["success"], 3)
    with as_usage_error(run.path / "versions.json"):
        versions = read_json(run.path / "versions.json")
        commit, torch = versions["revision"][:7], versions["torch"]
    protocol, config = run.protocol, run.config
    methods = " and ".join(dict.fromkeys(config.aggregators()))
    folder = shlex.quote(name)
    if not code_of(config):  # the one that was typed may have gone on with the run, or with a preset that changed since
        command = f"python -m scripts.train {folder}/config.json --seed {config.seed}"
    trust = " --run-code" if suite_code(config) else ""
    films = f"\npython -m scripts.record {folder}{trust}" if find_benchmark(config.suite).camera != "none" else ""
    rewards = f", rewards {protocol.reward_version}" if protocol.reward_version else ""
    return f"""# {name}

The actor of a {ALGORITHMS[config.algorithm].title} agent on {config.suite}, gradients reconciled by {methods}:
{config.steps_per_task:,} steps per task, mean success {mean}.

| task | success |
|---|---|
{chr(10).join(rows)}
| **mean** | **{mean}** |

Protocol {protocol.id}: {protocol.episodes_final} goals per task, deterministic policy, success at any of
{protocol.horizon} steps{rewards}. Seed {config.seed}, commit
{commit}, torch {torch}.

```text
{command}
python -m scripts.evaluate {folder}{trust}{films}
```

```python
from scripts.runs import Run

agent = Run("{name}").agent()
actions, _ = agent.predict(observations, deterministic=True)  # (rows, observation and one-hot of the task)
```

It acts and cannot be trained further: critics and optimizers are not here.
"""


def _rate(success: float | None, digits: int = 2) -> str:
    return "-" if success is None else f"{success:.{digits}f}"
