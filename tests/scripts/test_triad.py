"""The triad is measured at every update, written, drawn, and bad input is told."""

import csv

import numpy as np
import pytest

from scripts.common.usage import UsageError
from scripts.studies.triad import TriadConfig, check, main, shares, windows

TOY = "--preset toy --tasks point-0,point-1 --warmup-steps 40 --updates 12".split()


@pytest.mark.parametrize("aggregator", ["mean", "pcgrad"])
def test_it_writes_a_picture_numbers_and_a_table(tmp_path, capsys, aggregator):
    out = tmp_path / "triad.pdf"
    assert main([*TOY, "--aggregator", aggregator, "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"%PDF")
    with out.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["update"]) for row in rows] == list(range(12))
    for row in rows:
        assert -1 <= float(row["critic_cosine"]) <= 1
        assert 0 <= float(row["actor_similarity"]) <= 1
        assert float(row["critic_xi"]) >= 0
    assert len({row["critic_curvature"] for row in rows}) == 12
    assert "critic" in capsys.readouterr().out


def test_several_methods_and_seeds_are_on_one_picture(tmp_path, capsys):
    out = tmp_path / "triad.png"
    assert main([*TOY[:-1], "4", "--aggregators", "mean,pcgrad", "--seeds", "0,1", "--out", str(out)]) == 0
    with out.with_suffix(".csv").open() as file:
        rows = {(row["aggregator"], row["seed"], row["update"]): row for row in csv.DictReader(file)}
    assert list(rows) == [(name, seed, update) for name in ("mean", "pcgrad") for seed in "01" for update in "0123"]
    first = rows["mean", "0", "0"]
    assert first["critic_cosine"] == rows["pcgrad", "0", "0"]["critic_cosine"]  # the same warm-up and first batch
    assert first["return_point-0"] == rows["pcgrad", "0", "0"]["return_point-0"]
    assert first["critic_cosine"] != rows["mean", "1", "0"]["critic_cosine"]
    assert rows["mean", "0", "3"]["critic_curvature"] != rows["pcgrad", "0", "3"]["critic_curvature"]
    shown = capsys.readouterr().out
    assert "mean" in shown
    assert "pcgrad" in shown
    assert shown.count(" 8 ") == 4  # updates of both seeds, per network and method


def test_conditions_are_counted_among_conflicts():
    series = {"critic_cosine": [0.5, -0.2, -0.9], "critic_similarity": [0.1, 0.5, 0.5], "critic_xi": [0.1, 0.1, 3.0]}
    (conflict,), (opposed,), (bounded,) = shares({k: np.array(v) for k, v in series.items()}, "critic").values()
    assert conflict.tolist() == [0, 1, 1]
    np.testing.assert_equal(opposed, [np.nan, 0, 1])
    np.testing.assert_equal(bounded, [np.nan, 1, 0])


def test_a_curve_is_cut_into_at_most_thirty_windows():
    assert [len(windows(np.zeros(n))) for n in (1, 12, 100, 3000)] == [1, 1, 10, 30]


@pytest.mark.parametrize(
    ("preset", "suite", "tasks"),
    [
        ("mt10-quick", "custom", ("reach-v3", "button-press-topdown-v3")),
        ("push-goals", "push-goals", ("goal-1", "goal-2")),
    ],
)
def test_tasks_are_of_the_presets_suite_and_an_update_follows_each_step_of_both(preset, suite, tasks):
    (config,) = check(TriadConfig(preset=preset))
    assert (config.suite, config.tasks) == (suite, tasks)
    assert (config.envs_per_task, config.train_freq, config.gradient_steps) == (1, 1, 1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--tasks reach-v3", "expected two task names, found 1"),
        ("--preset toys", "unknown preset 'toys': did you mean toy"),
        ("--aggregator pcgard", "unknown aggregator 'pcgard'"),
        ("--aggregators mean,gls", "gls is for losses from 0 on"),
        ("--updates 0", "--updates: expected at least 1, found 0"),
        ("--seeds 0,-1", "--seeds: expected different seeds of at least 0, found 0, -1"),
        ("--seeds 1,1", "--seeds: expected different seeds"),
        ("--out /no/such/folder/a.png", "there is no folder"),
        ("--out a.gif", "found the ending '.gif'"),
        ("--tasks reach-v3,rech-v3", "rech-v3"),
    ],
)
def test_bad_input(flags, message):
    with pytest.raises(UsageError, match=message):
        main(flags.split())
