"""Figure 1 of the PCGrad paper: every method is its class, PCGrad arrives, bad input ends well."""

import math

import numpy as np
import pytest
import torch

import mtrl
from mtrl import AGGREGATORS
from scripts.common import methods
from scripts.common.usage import UsageError
from scripts.studies import toy2d
from scripts.studies.toy2d import FLOOR, START, gradients, late_median, losses, main, method, walk

POINTS = [(0.5, -3.0), (1.8, -1.5), (-2.0, 6.3), (0.0, 0.0), (-1.9, 2.0), (-2.0, 9.0), (4.0, 0.3)]


def torch_losses(point):
    """The two losses as torch would have them."""
    first, second = 0.5 * point[0] + point[1].tanh(), 0.5 * point[0] - point[1].tanh() + 2
    return [scale * value.abs().clamp(min=FLOOR).log() for scale, value in ((20, first), (25, second))]


ANY_SIGN = [name for name, kind in AGGREGATORS.items() if not kind.non_negative]  # these losses can be negative


@pytest.mark.parametrize("at", POINTS)
def test_losses_and_gradients_are_those_of_autograd(at):
    point = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    expected = torch_losses(point)
    rows = [torch.autograd.grad(loss, point, retain_graph=True)[0] for loss in expected]
    torch.testing.assert_close(torch.from_numpy(losses(*map(np.asarray, at))), torch.stack(expected).detach())
    torch.testing.assert_close(torch.tensor(gradients(*at), dtype=torch.float64), torch.stack(rows))


@pytest.mark.parametrize(
    "name", [name for name in ANY_SIGN if name not in ("mocograd", "graddrop")]
)  # they take the Jacobian in any case
def test_a_method_asked_for_its_weights_answers_as_when_it_is_called(name):
    update, whole = method(name, "sum", seed=0), methods.build(name, reduction="sum", seed=0)
    whole.reset(2, 2)
    for number, point in enumerate(POINTS):
        values = torch.from_numpy(losses(*map(np.asarray, point)))
        if number:
            whole.after_step(values)
        expected = whole(torch.tensor(gradients(*point), dtype=torch.float64), values).tolist()
        assert update(*gradients(*point), *point) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_walk_is_torch_s_adam():
    point = torch.tensor(START, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([point], lr=1e-2)
    expected = [START]
    for _ in range(130):  # later it bounces, and rounding grows
        optimizer.zero_grad()
        (sum(torch_losses(point)) / 2).backward()
        optimizer.step()
        expected.append(tuple(point.tolist()))
    np.testing.assert_allclose(walk(method("mean", "mean", seed=0), 130, 1e-2), expected, atol=1e-9)


def test_pcgrad_finds_the_valley_of_the_optimum_and_the_mean_does_not():
    mean, pcgrad = (walk(method(name, "mean", seed=0), 6_000, 2e-2) for name in ("mean", "pcgrad"))
    assert mean[:, 1].max() < 0 < pcgrad[:, 1].max()
    assert pcgrad[:2_000, 1].max() < 0


def test_long_walks_are_thinned_and_end_at_the_end(monkeypatch):
    whole = walk(method("pcgrad", "mean", seed=0), 100, 1e-3)
    monkeypatch.setattr(toy2d, "KEPT", 30)
    told = []
    thinned = walk(method("pcgrad", "mean", seed=0), 100, 1e-3, told.append)
    np.testing.assert_array_equal(thinned, whole[::4])
    assert told[-1] == 100


def test_every_aggregator_takes_steps():
    for name in ANY_SIGN:
        assert np.isfinite(walk(method(name, "mean", seed=0), 3, 1e-3)).all(), name


def test_an_aggregator_sees_the_losses_at_and_after_each_step(monkeypatch):
    at, after = [], []

    class Watching(mtrl.PCGrad):
        def weights(self, gramian, losses):
            at.append(losses.tolist())
            return super().weights(gramian, losses)

        def after_step(self, losses):
            after.append(losses.tolist())

    monkeypatch.setitem(AGGREGATORS, "watching", Watching)
    points = walk(method("watching", "mean", seed=0), 4, 1e-3)
    np.testing.assert_array_equal(at, losses(*points[:-1].T).T)
    np.testing.assert_array_equal(after, losses(*points[1:-1].T).T)


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_picture_and_table(tmp_path, capsys, ending, magic):
    path = tmp_path / f"toy.{ending}"
    assert main(["--aggregators", "mean,famo", "--steps", "40", "--out", str(path)]) == 0
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
        ("--aggregators mean,gls", "expected methods for losses of any sign, .* gls is for losses from 0 on"),
        ("--aggregators cagrad@c=-2", r"c must lie in .*; found -2"),
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
