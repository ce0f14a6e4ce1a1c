"""Experiment trackers as loggers: `--track wandb,mlflow,trackio` (the extra `track` installs the first two)."""

from __future__ import annotations

import importlib
import math
import re
import time
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np

from agents.evaluation import Evaluation
from scripts.runs.files import as_usage_error, read_json, write_json
from scripts.runs.folder import Run
from scripts.runs.run_logger import CurveLogger
from scripts.runs.tables import STEP, evaluation_rows

PROJECT = "mtrl-surgery"  # under which they list the runs


class Tracker(CurveLogger):
    """An experiment tracker: config, curves and the table of the newest evaluation. A resumed run goes on in its entry.

    Which entry that is stands in tracking.json of the run folder.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.library: Any = importlib.import_module(self.package)
        self.settings = {**run.config.to_json(), "protocol": run.protocol.id}
        path, entries = run.path / "tracking.json", dict[str, str]()
        if path.exists():
            with as_usage_error(path):
                entries = {str(name): str(entry) for name, entry in read_json(path).items()}
        self.known = entries.get(self.package)
        self.entry = self.known or self.new_entry()
        write_json(path, entries | {self.package: self.entry})

    def new_entry(self) -> str:
        """Return the name of a new entry."""
        return f"{self.run.path.name}-{uuid.uuid4().hex[:8]}"

    def draw(self, step: int, values: Mapping[str, Any]) -> None:
        """Send the finite numbers among them."""
        self.send(step, {name: float(x) for name, x in values.items() if np.ndim(x) == 0 and math.isfinite(x)})

    def send(self, step: int, values: dict[str, float]) -> None:
        """Send numbers."""
        raise NotImplementedError

    def send_table(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Send the rows of an evaluation, one per task."""
        raise NotImplementedError

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Send its numbers, then its table."""
        super().evaluation(step, evaluation)
        self.send_table(step, evaluation_rows(step, evaluation))


class WandbLogger(Tracker):
    """Weights & Biases; WANDB_MODE=offline writes to ./wandb instead. Curves are over steps per task."""

    package = "wandb"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.session = self.library.init(
            project=PROJECT, id=self.entry, name=run.path.name, resume="allow", config=self.settings,
            settings=self.library.Settings(silent=True, console="off"),  # the screen is the training's
        )  # fmt: skip
        self.session.define_metric("*", step_metric=STEP)  # its own count cannot go back, as a resumed run may

    def send(self, step: int, values: dict[str, float]) -> None:
        """Send numbers."""
        self.session.log({**values, STEP: step})

    def send_table(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Send a table."""
        table = self.library.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
        self.session.log({"evaluation": table, STEP: step})

    def close(self) -> None:
        """Send what is left."""
        self.session.finish()


class MLflowLogger(Tracker):
    """MLflow: the server that MLFLOW_TRACKING_URI names, else ./mlflow.db."""

    package = "mlflow"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        if not self.known:
            params = [self.library.entities.Param(name, str(value)) for name, value in self.settings.items()]
            self.client.log_batch(self.entry, params=params)

    def new_entry(self) -> str:
        """Create an entry in the experiment of this project, which is created too if it is not there."""
        experiment = self.library.set_experiment(PROJECT).experiment_id
        return str(self.client.create_run(experiment, run_name=self.run.path.name).info.run_id)

    @property
    def client(self) -> Any:
        """What speaks to it."""
        return self.library.MlflowClient()

    def send(self, step: int, values: dict[str, float]) -> None:
        """Send numbers; names have letters, digits and a few signs there."""
        now = int(1000 * time.time())
        names = {name: re.sub(r"[^\w\-. :/]", "_", name) for name in values}
        metrics = [self.library.entities.Metric(names[name], x, now, step) for name, x in values.items()]
        for begin in range(0, len(metrics), 1000):  # more at once is refused
            self.client.log_batch(self.entry, metrics=metrics[begin : begin + 1000])

    def send_table(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Send a table."""
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        self.client.log_table(self.entry, columns, f"evaluation-{step}.json")

    def close(self) -> None:
        """Say that it ended."""
        self.client.set_terminated(self.entry)


class TrackioLogger(Tracker):
    """Trackio, which keeps its data on this machine (`trackio show`)."""

    package = "trackio"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.session = self.library.init(project=PROJECT, name=self.entry, resume="allow", config=self.settings)

    def send(self, step: int, values: dict[str, float]) -> None:
        """Send numbers."""
        self.session.log(values, step=step)

    def send_table(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Send a table."""
        frame = importlib.import_module("pandas").DataFrame(rows)  # which comes with it
        self.session.log({"evaluation": self.library.Table(dataframe=frame)}, step=step)

    def close(self) -> None:
        """Write what is left."""
        self.session.finish()
