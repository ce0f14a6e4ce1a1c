"""The command: numbers that mean what their names say, files that are whole, errors that teach."""

import csv
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from agents import NonFiniteError
from scripts.common.usage import UsageError
from scripts.studies.supervised import command
from scripts.studies.supervised.architectures import ARCHITECTURES
from scripts.studies.supervised.command import SupervisedConfig, main, plan_of, train_all
from scripts.studies.supervised.datasets import DATASETS
from scripts.studies.supervised.metrics import (
    ACCURACY,
    ERROR_RATE,
    AreaUnderCurve,
    mean_absolute,
    root_mean_square,
)
from scripts.studies.supervised.results import ALONE, Estimate, Run, delta_m, summarise
from scripts.studies.supervised.training import Exam, Outcome
from tests.scripts.supervised.toy import Broken, Toy, ToyOwn


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    for name, kind in {"toy": Toy, "toy-own": ToyOwn, "broken": Broken}.items():
        monkeypatch.setitem(DATASETS, name, kind)


# ---------------------------------------------------------------------------------------------------- metrics
@pytest.mark.parametrize(
    ("metric", "prediction", "target", "expected"),
    [
        (ACCURACY, [[2.0, 1], [0, 1], [3, 1], [0, 9]], [0, 0, 0, -1], 2 / 3),
        (ERROR_RATE, [[2.0], [-1], [0.5]], [1.0, 1, 0], 2 / 3),
        (root_mean_square(2.0), [[1.0], [2], [3]], [1.0, 2, 6], 2 * math.sqrt(3)),
        (mean_absolute(10.0), [[1.0], [2], [3]], [1.0, 3, 1], 10.0),
        (AreaUnderCurve(), [[0.1], [0.4], [0.35], [0.8]], [0.0, 0, 1, 1], 0.75),
        (AreaUnderCurve(), [[0.5], [0.5]], [0.0, 1], 0.5),
    ],
)
def test_metrics_by_hand_in_uneven_batches(metric, prediction, target, expected):
    prediction, target = torch.tensor(prediction), torch.tensor(target)
    parts = [metric.measure(prediction[:1], target[:1]), metric.measure(prediction[1:], target[1:])]
    assert metric.result(metric.join(parts)) == pytest.approx(expected)


def test_auc_is_that_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    scores, target = random.integers(20, size=300) / 7, random.integers(2, size=300)
    metric = AreaUnderCurve()
    found = metric.result(metric.measure(torch.tensor(scores)[:, None], torch.tensor(target)))
    assert found == pytest.approx(sklearn.roc_auc_score(target, scores))
    assert "only no" in metric.why_undefined(torch.zeros(3))


# ---------------------------------------------------------------------------------------------------- results
def outcome(metrics, gcd=1.0):
    exam = Exam([1.0] * len(metrics), metrics)
    degrees = torch.full((len(metrics), len(metrics)), gcd).fill_diagonal_(math.nan)
    return Outcome(exam, [([1.0] * len(metrics), exam)], degrees, 0.5, 2.0, 3.0, 1.0)


def test_delta_m_and_tci_by_hand():
    """Accuracy from 0.8 to 0.9: +12.5 %; RMSE from 2 to 3: -50 %."""
    alone, joint = outcome([[0.8], [2.0]]), outcome([[0.9], [3.0]])
    assert delta_m(joint.exam, alone.exam, Toy.tasks) == pytest.approx((12.5 - 50) / 2)
    run = Run.against(alone, "hps", "mean", 0, joint, Toy.tasks)
    assert run.tci == pytest.approx([0.1, -1.0])  # negative: joint training hurts
    assert math.isnan(Run.against(alone, "hps", ALONE, 0, alone, Toy.tasks).tci[0])


def test_intervals_are_student_s():
    found = Estimate.of([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.mean == 3
    assert found.half == pytest.approx(2.776445 * math.sqrt(2.5 / 5), rel=1e-6)  # t with 4 degrees, 0.975
    assert math.isnan(Estimate.of([2.0]).half)


def test_gains_are_taken_seed_by_seed():
    run = Run("hps", "mean", 0, outcome([[0.8], [2.0]], gcd=1.25), [0.0, 0.0], 0.0)
    runs = [
        replace(run, seed=seed, aggregator=name, delta_m=base + gain)
        for name, gain in (("mean", 0.0), ("pcgrad", 2.0))
        for seed, base in enumerate((-10.0, 30.0, 5.0))  # seeds differ far more than aggregators
    ]
    mean, pcgrad = summarise(runs)
    assert math.isnan(mean.whole["vs mean"].mean)
    assert pcgrad.whole["vs mean"] == pytest.approx(Estimate(2.0, 0.0))
    assert pcgrad.whole["gcd"].mean == pytest.approx(1.25)
    assert pcgrad.whole["conflicts"].mean == 50


def test_tasks_whose_gradients_disagree_and_that_suffer_correlate():
    degrees = torch.tensor([[math.nan, 1.0, 1.0, 1.4], [1.0, math.nan, 1.0, 1.3], [1.0, 1.0, math.nan, 1.2]])
    degrees = torch.cat([degrees, torch.tensor([[1.4, 1.3, 1.2, math.nan]])])
    found = outcome([[1.0]] * 4)._replace(gcd=degrees)
    (line,) = summarise([Run("hps", "mean", 0, found, [-0.3, -0.2, -0.1, -0.4], 0.0)])
    assert line.whole["correlation"].mean == pytest.approx(-1.0)


# ---------------------------------------------------------------------------------------------------- command
def test_the_command_prints_and_writes(tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "runs.csv").write_text("of an earlier time\n")
    flags = f"toy --architectures mtan --aggregators mean,famo --seeds 2 --epochs 3 --out {out}"
    assert main(flags.split()) == 0
    shown = capsys.readouterr().out
    assert "mtan" in shown
    assert "delta_m" in shown
    tables = {}
    for name in ("runs", "tasks", "curves", "summary"):
        with (out / f"{name}.csv").open(newline="") as file:
            tables[name] = list(csv.DictReader(file))
    assert [run["aggregator"] for run in tables["runs"]] == [ALONE, "mean", "famo"] * 2
    assert len(tables["tasks"]) == 2 * 3 * 2
    assert len(tables["curves"]) == 3 * len(tables["tasks"])
    assert {row["task"] for row in tables["summary"]} == {"", "sign", "sum"}
    page = (out / "README.md").read_text()
    assert (
        "`python -m scripts.supervised toy --architectures mtan --aggregators mean,famo --seeds 2 --epochs 3`" in page
    )
    assert "9 updates (3 epochs)" in page
    assert page.count("\n| famo |") == 1
    assert str(tmp_path) not in page
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.suffix for path in out.iterdir()) == [".csv"] * 4 + [".md", ".png"]


def test_some_tasks_of_rows_of_their_own(capsys):
    assert main("toy-own --tasks other --seeds 1 --aggregators mean --architectures hps".split()) == 0
    assert "other" in capsys.readouterr().out


def test_one_task_jointly_is_that_task_alone():
    """Same rows, first weights and steps: the comparison with `alone` is of one thing."""
    dataset, numbers = ToyOwn(None), [1]
    splits = tuple(split.only(numbers) for split in dataset.splits(0))
    config = SupervisedConfig("toy-own", architectures=tuple(ARCHITECTURES), aggregators=("pcgrad",))
    plan = plan_of(config, dataset, splits[0], 0)
    runs = list(train_all(config, dataset, [dataset.tasks[1]], splits, plan, numbers))
    for alone, joint in zip(runs[::2], runs[1::2], strict=True):
        assert joint.outcome.exam.metrics[0] == pytest.approx(alone.outcome.exam.metrics[0], rel=1e-4)


def test_steps_makes_a_trial(monkeypatch, capsys):
    monkeypatch.setenv("STEPS", "2")
    assert main("toy --seeds 1 --aggregators mean --architectures hps".split()) == 0
    assert "STEPS=2 is set" in capsys.readouterr().out
    plan = plan_of(SupervisedConfig("toy"), Toy(None), Toy(None).splits(0)[0], 0)
    assert plan.epochs * plan.updates == 2


def test_a_loss_that_is_nan_writes_nothing(tmp_path):
    with pytest.raises(NonFiniteError, match="task sum"):
        main(f"broken --seeds 1 --out {tmp_path / 'out'}".split())
    assert list((tmp_path / "out").iterdir()) == []


def test_without_scikit_learn_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UsageError, match=r"pip install -c constraints.txt -e '\.\[digits\]'"):
        main(["digits"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("multimnits", "unknown data set 'multimnits': did you mean multimnist"),
        ("toy --tasks sine", "unknown task 'sine': did you mean sign"),
        ("toy --tasks sum,sum", "expected every name once; found sum more than once"),
        ("toy --aggregators mean,pcgard", "unknown aggregator 'pcgard': did you mean pcgrad"),
        ("toy --architectures mmoo", "unknown architecture 'mmoo': did you mean mmoe"),
        ("toy --architectures hps,hps", "expected every name once; found hps more than once"),
        ("toy --seeds 0", "--seeds: expected at least 1, found 0"),
        ("toy --epochs 0", "--epochs: expected at least 1, found 0"),
        ("toy --batch-size 0", "--batch-size: expected at least 1, found 0"),
        ("toy --learning-rate inf", "--learning-rate: expected a finite number above 0, found inf"),
        ("toy --fetch", "--fetch: no package holds this data"),
        ("toy --out pyproject.toml", "--out: expected a folder"),
        ("toy --out /proc/digits", "--out: expected a folder, or a place for one"),
        ("movielens --data no/such/folder", "expected ml-100k.inter and ml-100k.item .* found no such folder"),
    ],
)
def test_bad_input(flags, message, monkeypatch):
    monkeypatch.setattr(command, "train", lambda *_: pytest.fail("bad input goes unnoticed"))
    with pytest.raises(UsageError, match=message):
        main(flags.split())


def test_a_task_that_cannot_be_judged_is_named(monkeypatch):
    one_class = Toy.tasks[0].__class__("rare", 1, Toy.tasks[1].loss, (AreaUnderCurve(),))
    monkeypatch.setattr(Toy, "tasks", (one_class, Toy.tasks[1]))
    monkeypatch.setattr(Toy, "split", lambda self, x, targets: ToyOwn.split(self, x, targets)._replace(
        targets=(torch.zeros(len(x)), targets[1])))  # fmt: skip
    with pytest.raises(UsageError, match="task rare cannot be judged: AUC needs rows of both classes, found only no"):
        main("toy --seeds 1".split())
