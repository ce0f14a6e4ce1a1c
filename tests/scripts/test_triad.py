"""The triad is measured at every update, written, drawn, and bad input is told."""

import csv

import pytest

from scripts.common.usage import UsageError
from scripts.studies.triad import main

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


def test_several_methods_are_on_one_picture(tmp_path, capsys):
    out = tmp_path / "triad.png"
    assert main([*TOY[:-1], "4", "--aggregators", "mean,pcgrad", "--out", str(out)]) == 0
    with out.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert rows[0]["mean_critic_cosine"] == rows[0]["pcgrad_critic_cosine"]  # the same warm-up and first batch
    assert rows[3]["mean_critic_curvature"] != rows[3]["pcgrad_critic_curvature"]
    shown = capsys.readouterr().out
    assert "mean" in shown
    assert "pcgrad" in shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--tasks reach-v3", "expected two task names, found 1"),
        ("--preset toys", "unknown preset 'toys': did you mean toy"),
        ("--aggregator pcgard", "unknown aggregator 'pcgard'"),
        ("--aggregators mean,gls", "gls is for losses from 0 on"),
        ("--updates 0", "--updates: expected at least 1, found 0"),
        ("--out /no/such/folder/a.png", "there is no folder"),
        ("--out a.gif", "found the ending '.gif'"),
        ("--tasks reach-v3,rech-v3", "rech-v3"),
    ],
)
def test_bad_input(flags, message):
    with pytest.raises(UsageError, match=message):
        main(flags.split())
