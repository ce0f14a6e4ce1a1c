"""Figure 1 of the PCGrad paper: closed forms are the real thing, PCGrad arrives when it should, bad input ends well."""

import math

import numpy as np
import pytest
import torch

import mtrl
from mtrl import AGGREGATORS
from scripts.common.usage import UsageError
from scripts.studies import toy2d
from scripts.studies.toy2d import (
    FLOOR,
    SHORTCUTS,
    START,
    gradients,
    late_median,
    losses,
    main,
    real_class,
    shortcut,
    walk,
)

POINTS = [(0.5, -3.0), (1.8, -1.5), (-2.0, 6.3), (0.0, 0.0), (-1.9, 2.0), (-2.0, 9.0), (4.0, 0.3)]


def torch_losses(point):
    """The two losses as torch would have them."""
    first, second = 0.5 * point[0] + point[1].tanh(), 0.5 * point[0] - point[1].tanh() + 2
    return [scale * value.abs().clamp(min=FLOOR).log() for scale, value in ((20, first), (25, second))]


@pytest.mark.parametrize("at", POINTS)
def test_losses_and_gradients_are_those_of_autograd(at):
    point = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    expected = torch_losses(point)
    rows = [torch.autograd.grad(loss, point, retain_graph=True)[0] for loss in expected]
    torch.testing.assert_close(torch.from_numpy(losses(*map(np.asarray, at))), torch.stack(expected).detach())
    torch.testing.assert_close(torch.tensor(gradients(*at), dtype=torch.float64), torch.stack(rows))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", SHORTCUTS)
def test_a_shortcut_is_the_real_class_step_by_step(name, reduction):
    fast, real = shortcut(name, reduction), real_class(name, reduction, seed=0)
    places = walk(fast, 600, 0.01)  # down to the valley, and along it
    conflicts = 0
    for point in places[::2]:
        (g, h) = gradients(*point)
        conflicts += np.dot(g, h) < 0
        assert fast(g, h, *point) == pytest.approx(real(g, h, *point), rel=1e-12, abs=1e-12)
    assert 10 < conflicts < 290  # both branches were taken


@pytest.mark.parametrize("rows", [((0.0, 0.0), (1.0, 2.0)), ((0.0, 0.0), (0.0, 0.0)), ((1.0, 0.0), (-1.0, 0.0))])
def test_a_shortcut_is_the_real_class_where_a_gradient_vanishes_or_is_opposed(rows):
    for name in SHORTCUTS:
        real = real_class(name, "mean", seed=0)
        assert shortcut(name, "mean")(*rows, *START) == pytest.approx(real(*rows, *START), abs=1e-15)


def test_the_walk_is_torch_s_adam():
    point = torch.tensor(START, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([point], lr=1e-2)
    expected = [START]
    for _ in range(130):  # later it bounces, and rounding grows
        optimizer.zero_grad()
        (sum(torch_losses(point)) / 2).backward()
        optimizer.step()
        expected.append(tuple(point.tolist()))
    np.testing.assert_allclose(walk(shortcut("mean", "mean"), 130, 1e-2), expected, atol=1e-9)


def test_pcgrad_arrives_between_100k_and_300k_updates_and_the_mean_does_not():
    mean, pcgrad = (walk(shortcut(name, "mean"), 300_000, 1e-3) for name in ("mean", "pcgrad"))
    assert mean[:, 1].max() < 0
    assert pcgrad[:100_000, 1].max() < 0
    assert pcgrad[-1] == pytest.approx((-2.0, 6.0), abs=1.0)
    assert late_median(losses(*pcgrad.T).sum(0)) < -200 < -120 < late_median(losses(*mean.T).sum(0))


def test_long_walks_are_thinned_and_end_at_the_end(monkeypatch):
    whole = walk(shortcut("pcgrad", "mean"), 100, 1e-3)
    monkeypatch.setattr(toy2d, "KEPT", 30)
    told = []
    thinned = walk(shortcut("pcgrad", "mean"), 100, 1e-3, told.append)
    np.testing.assert_array_equal(thinned, whole[::4])
    assert told[-1] == 100


def test_every_aggregator_takes_steps():
    for name in AGGREGATORS:
        assert np.isfinite(walk(real_class(name, "mean", seed=0), 3, 1e-3)).all(), name


def test_an_aggregator_sees_the_losses_at_and_after_each_step(monkeypatch):
    at, after = [], []

    class Watching(mtrl.PCGrad):
        def weights(self, gramian, losses):
            at.append(losses.tolist())
            return super().weights(gramian, losses)

        def after_step(self, losses):
            after.append(losses.tolist())

    monkeypatch.setitem(AGGREGATORS, "watching", Watching)
    points = walk(real_class("watching", "mean", seed=0), 4, 1e-3)
    np.testing.assert_array_equal(at, losses(*points[:-1].T).T)
    np.testing.assert_array_equal(after, losses(*points[1:-1].T).T)


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_picture_and_table(tmp_path, capsys, ending, magic):
    path = tmp_path / f"toy.{ending}"
    assert main(["--aggregators", "mean,famo", "--steps", "40", "--no-shortcuts", "--out", str(path)]) == 0
    assert path.read_bytes().startswith(magic)
    shown = capsys.readouterr().out
    assert "Losses after 40 updates" in shown
    assert "at 8" in shown
    assert "famo" in shown


def test_steps_of_the_environment_limit_the_walk(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("STEPS", "7")
    main(["--out", str(tmp_path / "x.png")])
    assert "after 7 updates" in capsys.readouterr().out


def test_looks_differ():
    names = [*AGGREGATORS, "torchjd:UPGrad", "mine.py:Mine"]
    assert len({toy2d.look(name, names) for name in names}) == len(names)


def test_the_median_is_of_the_last_hundredth():
    assert late_median(np.arange(1000.0)) == 994.5
    assert math.isclose(late_median(np.array([3.0])), 3.0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--aggregators mean,pcgard", "unknown aggregator 'pcgard': did you mean pcgrad"),
        ("--aggregators mean,mean", "expected every name once; found mean more than once"),
        ("--aggregators no_file.py:Mine", "expected a Python file at 'no_file.py'"),
        ("--steps 0", "--steps: expected at least 1, found 0"),
        ("--learning-rate nan", "--learning-rate: expected a finite number above 0"),
        ("--out /no/such/folder/x.png", "--out: .* there is no folder /no/such/folder"),
        ("--out toy.jpeg", "--out: expected a file that ends in .png"),
    ],
)
def test_bad_input(flags, message):
    with pytest.raises(UsageError, match=message):
        main(flags.split())
