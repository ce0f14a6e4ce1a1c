"""A run as a notebook opens it: tables, status, success, and nothing imported that only commands need."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from agents import Evaluation
from scripts.common.usage import UsageError
from scripts.runs import Run, loggers
from scripts.runs.loggers import Loggers, RunLogger, check_loggers
from tests.run_folders import HALF, TASKS, make_run


def test_tables_are_read_by_column(tmp_path):
    make_run(tmp_path / "run", logs=True)
    run = Run(str(tmp_path / "run"))
    assert len(run.evaluations) == len(HALF) * len(TASKS)
    assert run.evaluations["task"].tolist() == [*TASKS, *TASKS]
    assert run.evaluations["success"].tolist() == [0.2, 0.4, 0.5, 0.7]
    assert set(dict(run.metrics)) == set(run.metrics.columns)
    with pytest.raises(KeyError, match="expected one of env_steps_per_task"):
        run.evaluations["sucess"]
    assert run.success == dict(zip(TASKS, HALF[200], strict=True))
    assert run.status == "finished"


def test_an_empty_cell_is_no_number(tmp_path):
    run = make_run(tmp_path / "run")
    run.metrics.append([{"a": 1}])
    run.metrics.append([{"b": 2}])
    np.testing.assert_array_equal(run.metrics["a"], [1, np.nan])


@pytest.mark.parametrize("damage", [b"\xff\xfe\n", b"1," * 2**20 + b"\n", None])
def test_a_table_that_is_damaged_after_its_header_is_told_by_its_name(damage, tmp_path):
    run = Run(make_run(tmp_path / "run").path)
    assert run.evaluations.columns
    if damage is None:
        run.evaluations.path.unlink()
    else:
        run.evaluations.path.write_bytes(run.evaluations.path.read_bytes() + damage)
    for ask in (len, dict, lambda table: table["success"]):
        with pytest.raises(UsageError, match=r"evaluations\.csv is (damaged|missing)"):
            ask(run.evaluations)


def test_a_file_that_may_not_be_read_is_no_damage(tmp_path, monkeypatch):
    make_run(tmp_path / "run")

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_text", refused)
    with pytest.raises(UsageError, match=r"config\.json may not be read: Permission denied\. Ask its owner"):
        Run(tmp_path / "run")


HEAVY = ["tyro", "matplotlib", "tensorboard", "stable_baselines3", "torch"]


@pytest.mark.parametrize(("module", "without"), [("scripts.runs", HEAVY), ("scripts.analysis.methods", HEAVY[:3])])
def test_the_library_is_imported_without_torch_and_needs_neither_the_command_line_nor_pictures(module, without):
    code = f"import sys, {module}; print(*set({without}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.split() == []


def test_a_run_is_read_and_its_agent_loaded_without_the_command_line_and_pictures():
    code = "import sys; from scripts.runs import Run; run = Run('mt10-quick-pcgrad'); run.success; run.agent()\n"
    code += f"print(len(run.evaluations) > 0, *set({HEAVY[:2]}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.split() == ["True"]


# --------------------------------------------------------------------------------------------------------- loggers
KINDS, OF = ("success", "success_last", "return"), ("", "/reach-v3", "/push-v3")


class Recorder(RunLogger):
    def __init__(self, run):
        super().__init__(run)
        self.seen = []

    def metrics(self, step, values):
        self.seen.append((step, dict(values)))


class Failing(RunLogger):
    def metrics(self, step, values):
        raise ConnectionError("the server is gone")


def evaluation(success):
    success = np.array(success)[:, None]
    return Evaluation(TASKS, success, success, success, success, success)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setitem(loggers.LOGGERS, "recorder", Recorder)
    monkeypatch.setitem(loggers.LOGGERS, "failing", Failing)
    run = make_run(tmp_path / "run", success={})
    return Run.new(run.path, replace(run.config, loggers=("failing", "csv", "recorder")), run.protocol, run.goals)


def test_every_logger_gets_metrics_and_evaluations_and_one_that_fails_is_left_out(run):
    said = []
    found = Loggers(run, said.append)
    cosines = np.array([[1.0, -0.5], [-0.5, 1.0]])
    exclude = {"loss": None, "secret": ("recorder",), "cosines/actor": ("csv",)}
    found.write({"loss": 0.5, "secret": 1, "cosines/actor": cosines}, exclude, step=10)
    found.evaluation(20, evaluation([0.0, 1.0]))
    assert found.loggers["recorder"].seen == [
        (10, {"loss": 0.5}),
        (20, {f"eval/{name}{of}": rate for name in KINDS for of, rate in zip(OF, (0.5, 0.0, 1.0), strict=True)}),
    ]
    assert said == ["The logger failing failed and is left out from here on: ConnectionError: the server is gone"]
    assert run.metrics["secret"].tolist() == [1]
    assert run.conflicts["reach-v3|push-v3"].tolist() == [-0.5]
    assert run.success == {"reach-v3": 0.0, "push-v3": 1.0}


def test_the_tables_of_the_run_are_essential(run, monkeypatch):
    def full(self, rows):
        raise OSError("no space left")

    monkeypatch.setattr(type(run.metrics), "append", full)
    with pytest.raises(OSError, match="no space left"):
        Loggers(run, print).write({"loss": 0.5}, {"loss": None}, step=10)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("csv", "wandbx"), "unknown logger 'wandbx': did you mean wandb?"),
        (("csv", "CSV"), "unknown logger 'CSV'"),
        (("csv", ""), "unknown logger ''"),
        (("csv", "tensorboard", "csv"), "--loggers: expected each once; found csv, tensorboard, csv"),
        (("tensorboard",), "expected csv among them"),
        ((), "expected csv among them"),
    ],
)
def test_bad_loggers_are_told(names, message):
    with pytest.raises(UsageError, match=message):
        check_loggers(names)
