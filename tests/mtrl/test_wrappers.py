"""What goes around a method: averaged weights, and surgery at some updates only."""

import copy

import pytest
import torch

import mtrl
from mtrl import make_aggregator
from mtrl.aggregators.smoothed import Smoothed
from mtrl.testing import matrix

torch.set_num_threads(1)
ONES = torch.ones(3)


def jacobians(count):
    return [matrix("conflicting", 3, 6, seed) for seed in range(count)]


def updates(name, rows, **options):
    method = make_aggregator(name, **options)
    return [method(jacobian, ONES) for jacobian in rows]


def test_weights_are_averaged_over_the_updates():
    weights = [make_aggregator("config").weights(jacobian @ jacobian.T, ONES) for jacobian in jacobians(3)]
    average = weights[0]
    for own in weights[1:]:
        average = 0.75 * average + 0.25 * own
    torch.testing.assert_close(updates("smoothed:config", jacobians(3), smoothing=0.75)[-1], average @ jacobians(3)[-1])


def test_without_smoothing_and_with_every_update_scheduled_nothing_changes():
    plain = updates("pcgrad", jacobians(4), seed=3)
    for name, options in (("smoothed:pcgrad", {"smoothing": 0.0}), ("scheduled:pcgrad", {})):
        assert torch.equal(torch.stack(updates(name, jacobians(4), seed=3, **options)), torch.stack(plain))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_surgery_from_the_third_update_on_at_every_second(reduction):
    rows = jacobians(7)
    plain, own = (updates(name, rows, reduction=reduction) for name in ("mean", "pcgrad"))
    found = updates("scheduled:pcgrad", rows, reduction=reduction, period=2, start=2)
    for number, update in enumerate(found):  # the orders of the updates in between are drawn, too
        torch.testing.assert_close(update, own[number] if number in (2, 4, 6) else plain[number])


@pytest.mark.parametrize("name", ["smoothed:gradvac", "scheduled:pcgrad", "scheduled:smoothed:nash_mtl"])
def test_state_of_wrapper_and_method_is_saved(name):
    """In the middle of a period, with drawn orders, learned targets and counted calls."""
    options = {"period": 3} if "scheduled" in name else {}
    options |= {"every": 2} if "nash" in name else {}
    original, restored = (make_aggregator(name, **options) for _ in range(2))
    rows = jacobians(9)
    for jacobian in rows[:4]:
        original(jacobian, ONES)
    restored.load_state_dict(copy.deepcopy(original.state_dict()))
    for jacobian in rows[4:]:
        assert torch.equal(restored(jacobian, ONES), original(jacobian, ONES))


def test_a_name_says_it_all(tmp_path):
    method = make_aggregator("scheduled:smoothed:cagrad", period=2, smoothing=0.5, c=0.2)
    assert mtrl.name_of(method) == "scheduled:smoothed:cagrad"
    assert method.hyperparameters() == {
        **{"reduction": "mean", "c": 0.2, "rescale": True},
        **{"smoothing": 0.5, "period": 2, "start": 0},
    }
    assert isinstance(method, mtrl.CAGrad)
    assert method.capturable
    assert not make_aggregator("smoothed:nash_mtl").capturable
    file = tmp_path / "mine.py"
    file.write_text("import mtrl\nclass Mine(mtrl.PCGrad):\n    pass\n")
    assert mtrl.name_of(make_aggregator(f"smoothed:{file}:Mine")) == f"smoothed:{file}:Mine"


class Twin(mtrl.PCGrad):
    """A method whose option has the name of a wrapper's."""

    def __init__(self, smoothing: int = 0) -> None:
        super().__init__()
        self.smoothing = smoothing


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smoothed:mean", "expected a method that weighs gradients by their inner products, .* Mean does not"),
        ("scheduled:mocograd", "MoCoGrad does not"),
        ("smoothed:scheduled:smoothed:pcgrad", "expected every wrapper once"),
        ("smoothed:pgrad", "unknown aggregator 'pgrad'"),
        ("smothed:pcgrad", r"unknown aggregator 'smothed:pcgrad'; .* perhaps behind smoothed: or scheduled:"),
        ("smoothed:twin", "both have an option smoothing"),
    ],
)
def test_what_cannot_be_wrapped_is_told(name, message, monkeypatch):
    monkeypatch.setitem(mtrl.AGGREGATORS, "twin", Twin)
    with pytest.raises(ValueError, match=message):
        make_aggregator(name)


def test_the_number_of_tasks_stays():
    method = make_aggregator("smoothed:pcgrad")
    assert isinstance(method, Smoothed)
    method(matrix("random", 3, 6), ONES)
    with pytest.raises(ValueError, match="was reset for 3 tasks and found 4"):
        method(matrix("random", 4, 6), torch.ones(4))
