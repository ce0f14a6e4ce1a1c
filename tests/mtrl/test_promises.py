"""The table of promises: what each method claims, checked on every family of matrices."""

import pytest
import torch

from mtrl import AGGREGATORS, WEIGHTINGS, GramianAggregator, make_aggregator, solvers
from mtrl.aggregators import WRAPPERS, aligned_mtl
from mtrl.testing import CHECKS, Promises, _NoWaiting, check_aggregator, matrix
from tests.mtrl.promises import PROMISES

torch.set_num_threads(1)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", PROMISES)
def test_promise(name, check) -> None:
    CHECKS[check](lambda: make_aggregator(name), PROMISES[name])


def test_no_method_is_left_out() -> None:
    assert {name for name in PROMISES if ":" not in name} == AGGREGATORS.keys() | WEIGHTINGS.keys()
    assert all(any(f"{wrapper}:" in name for name in PROMISES) for wrapper in WRAPPERS)


def test_who_may_be_captured_and_who_looks_back() -> None:
    """What a class declares holds for that class alone: a subclass may ask the host, or count in Python."""
    asks = [name for name, kind in AGGREGATORS.items() if not kind.capturable]  # docs/aggregators.md names the others
    assert "nash_mtl" in asks
    assert "pcgrad" not in asks
    assert make_aggregator("famo").looks_back
    assert not make_aggregator("pcgrad").looks_back
    assert all(kind.capturable for kind in WEIGHTINGS.values())
    assert all(PROMISES[name].never_waits for name, kind in AGGREGATORS.items() if kind.capturable)

    class OfMyOwn(AGGREGATORS["pcgrad"]):
        pass

    assert not OfMyOwn.capturable


@pytest.mark.parametrize("name", ["imtl_g", "config", "aligned_mtl"])
def test_the_path_of_devices_waits_for_nothing(name, monkeypatch) -> None:
    """On the CPU these call LAPACK; elsewhere Jacobi's method, with the same answers."""
    monkeypatch.setattr(_NoWaiting, "WAITING", _NoWaiting.WAITING | {"linalg_eigh", "_linalg_eigh"})
    jacobian = matrix("conflicting", 5, 12)
    expected = make_aggregator(name)(jacobian, torch.ones(5))
    with pytest.raises(AssertionError, match="found _linalg_eigh"):
        CHECKS["no waiting"](lambda: make_aggregator(name), Promises())
    for module in (solvers, aligned_mtl):
        monkeypatch.setattr(module, "eigh", solvers.jacobi_eigh)
    CHECKS["no waiting"](lambda: make_aggregator(name), Promises())
    torch.testing.assert_close(make_aggregator(name)(jacobian, torch.ones(5)), expected)


class Breaks(GramianAggregator):
    """A method with one fault at a time."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.calls = fault, 0

    def weights(self, gramian, losses):
        num_tasks, self.calls = len(gramian), self.calls + 1
        plain = torch.full_like(gramian[0], 1 / num_tasks)
        if self.fault == "divides by zero":
            return plain * gramian[0, 0] / gramian[0, 0]
        if self.fault == "first task only":
            return torch.eye(num_tasks, dtype=gramian.dtype)[0]
        if self.fault == "remembers":
            return plain * self.calls
        if self.fault == "own scale":
            return plain / gramian.trace().clamp(min=1e-30)
        if self.fault == "sums":
            return plain * num_tasks
        return plain * (1.0 if gramian[0, 0].item() >= 0 else 0.5)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("divides by zero", "expected finite numbers"),
        ("first task only", "tasks renumbered"),
        ("remembers", "after reset"),
        ("own scale", "gradients times"),
        ("sums", "duplicates"),
        ("reads a number", "nothing that waits for a device; found _local_scalar_dense"),
    ],
)
def test_the_suite_finds_faults(fault, message) -> None:
    with pytest.raises(AssertionError, match=message):
        check_aggregator(lambda: Breaks(fault))


def test_the_suite_finds_conflict() -> None:
    with pytest.raises(AssertionError, match="expected no negative product"):
        check_aggregator(lambda: make_aggregator("mean"), Promises(non_conflicting="always"))


def test_unknown_family() -> None:
    with pytest.raises(ValueError, match=r"expected a family of random, .*; found 'easy'"):
        matrix("easy", 2, 3)
