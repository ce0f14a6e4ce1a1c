"""What every aggregator promises, and how a user adds one. A new method joins by its row in `AGGREGATORS`."""

import copy
import json
import pickle
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mtrl
from mtrl import AGGREGATORS, Aggregator, make_aggregator
from mtrl.testing import matrix
from tests.jacobians import FAMILIES, jacobians

torch.set_num_threads(1)
every_aggregator = pytest.mark.parametrize("name", AGGREGATORS)
few = settings(max_examples=10)  # the families of matrices are tried in test_promises.py


def fresh(name: str, jacobian: Tensor) -> Aggregator:
    aggregator = make_aggregator(name)
    aggregator.reset(*jacobian.shape)
    return aggregator


@every_aggregator
@few
@given(jacobian=jacobians, exponent=st.integers(-10, 10), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_answers_are_finite_and_keep_shape_and_type(name, jacobian, exponent, dtype) -> None:
    jacobian = (jacobian * 10.0**exponent).to(dtype)
    update = fresh(name, jacobian)(jacobian, torch.ones(len(jacobian), dtype=dtype))
    assert update.shape == jacobian.shape[1:]
    assert update.dtype == dtype
    assert update.isfinite().all()


@every_aggregator
@few
@given(jacobian=jacobians, exponent=st.integers(-10, 10))
def test_answers_scale_with_the_gradients(name, jacobian, exponent) -> None:
    losses, scale = torch.ones(len(jacobian)).double(), 2.0**exponent
    update = fresh(name, jacobian)(jacobian, losses)
    torch.testing.assert_close(fresh(name, jacobian)(scale * jacobian, losses), scale * update)


@every_aggregator
@pytest.mark.parametrize("num_tasks", [1, 2, 5])
def test_one_scale(name, num_tasks) -> None:
    """Where all tasks agree, every method answers with the mean gradient."""
    jacobian = matrix("duplicates", num_tasks, 7, seed=0)
    torch.testing.assert_close(fresh(name, jacobian)(jacobian, torch.ones(num_tasks)), jacobian.mean(0))


@every_aggregator
def test_sum_is_tasks_times_mean(name) -> None:
    """Trap 2: a string tested for truth makes both the same."""
    for family in FAMILIES:
        jacobian = matrix(family, 5, 9, seed=1)
        mean, total = (make_aggregator(name, reduction=r)(jacobian, torch.ones(5)) for r in ("mean", "sum"))
        torch.testing.assert_close(total, 5 * mean, msg=lambda text, family=family: f"{family}: {text}")


@every_aggregator
def test_hyperparameters_rebuild_the_aggregator(name) -> None:
    aggregator = make_aggregator(name, reduction="sum")
    options = json.loads(json.dumps(aggregator.hyperparameters()))
    assert options["reduction"] == "sum"
    assert make_aggregator(name, **options).hyperparameters() == options


@every_aggregator
def test_saved_state_continues_the_run(name) -> None:
    jacobian, losses = matrix("random", 6, 9, seed=2), torch.ones(6)
    original, restored = fresh(name, jacobian), fresh(name, jacobian)
    for _ in range(3):
        original(jacobian, losses)
        original.after_step(losses)
    restored.load_state_dict(original.state_dict())
    for _ in range(3):
        assert torch.equal(original(jacobian, losses), restored(jacobian, losses))


METHODS_WITH_STATE = [*AGGREGATORS, *(f"torchjd:{name}" for name in ("GradVac", "UPGrad") if find_spec("torchjd"))]


def walked(name: str, *seeds: int) -> Aggregator:
    aggregator = make_aggregator(name)
    for seed in seeds:
        aggregator(matrix("random", 6, 9, seed), torch.ones(6) / (1 + seed))
        aggregator.after_step(torch.ones(6) / (2 + seed))
    return aggregator


@pytest.mark.parametrize("name", METHODS_WITH_STATE)
def test_state_is_loaded_whatever_the_object_has_seen(name) -> None:
    """Fresh, reset, used; and a fresh one's state begins anew."""
    original = walked(name, 0, 1, 2)
    fresh, reset, used = make_aggregator(name), make_aggregator(name), walked(name, 7, 8)
    reset.reset(6, 9)
    rows, ones = matrix("conflicting", 6, 9, seed=3), torch.ones(6)
    for restored in (fresh, reset, used):
        restored.load_state_dict(copy.deepcopy(original.state_dict()))
    expected = original(rows, ones)
    assert all(torch.equal(restored(rows, ones), expected) for restored in (fresh, reset, used))
    used.load_state_dict(make_aggregator(name).state_dict())
    assert torch.equal(used(rows, ones), make_aggregator(name)(rows, ones))


@pytest.mark.parametrize("name", [*METHODS_WITH_STATE, "smoothed:pcgrad", "uncertainty:scheduled:nash_mtl"])
def test_a_pickled_object_goes_on(name) -> None:
    """As `torch.save` and other processes have it: classes that were made from a name, too."""
    original = walked(name, 0, 1, 2)
    restored = pickle.loads(pickle.dumps(original))
    rows, ones = matrix("conflicting", 6, 9, seed=3), torch.ones(6)
    assert type(restored) is type(original)
    assert torch.equal(restored(rows, ones), original(rows, ones))


@pytest.mark.parametrize("name", [*AGGREGATORS, "smoothed:pcgrad", "uncertainty:gradvac"])
def test_an_update_has_its_derivative_and_the_state_keeps_no_graph(name) -> None:
    """As of finite differences; a state with a graph would grow from call to call."""
    jacobian, ones = matrix("random", 4, 6, seed=1).requires_grad_(), torch.ones(4)

    def second(rows: Tensor) -> Tensor:
        aggregator = make_aggregator(name)
        aggregator(matrix("conflicting", 4, 6, seed=2), ones)
        return aggregator(rows, ones)

    if name != "mocograd":  # whose momenta are in float32, which has no digits for differences
        assert torch.autograd.gradcheck(second, jacobian, atol=1e-5, fast_mode=True)
    aggregator = make_aggregator(name)
    for _ in range(3):
        aggregator(jacobian, ones).sum().backward()
    assert not any(state.requires_grad for state in aggregator.buffers())


@pytest.mark.parametrize("name", ["gradvac", "mocograd", "nash_mtl", "gradnorm", "famo", "torchjd:GradVac"])
def test_state_of_other_tasks_is_refused(name) -> None:
    if name.startswith("torchjd:"):
        pytest.importorskip("torchjd")
    aggregator = make_aggregator(name)
    aggregator.reset(5, 9)
    with pytest.raises((RuntimeError, ValueError), match=r"size mismatch|was reset for 5 tasks and found 6"):
        aggregator.load_state_dict(walked(name, 0).state_dict())


@pytest.mark.parametrize("name", METHODS_WITH_STATE)
def test_state_keeps_its_precision_when_the_model_around_it_is_cast(name) -> None:
    rows, ones = matrix("conflicting", 6, 9, seed=3), torch.ones(6)
    expected = walked(name, 0, 1)(rows, ones)
    for cast in ("bfloat16", "half", "double", "float"):
        model = torch.nn.ModuleDict({"body": torch.nn.Linear(2, 2), "surgery": walked(name, 0, 1)})
        getattr(model, cast)()
        assert model["body"].weight.dtype == {"half": torch.float16}.get(cast, getattr(torch, cast))
        assert torch.equal(model["surgery"](rows, ones), expected)


def test_state_moves_with_the_model_around_it() -> None:
    state = torch.nn.Sequential(walked("famo", 0)).to("meta", torch.bfloat16).state_dict().values()
    assert {(tensor.device.type, tensor.dtype) for tensor in state} == {("meta", torch.float64)}


@every_aggregator
def test_shapes_are_checked_once_for_all(name) -> None:
    for jacobian, losses in [((3,), (3,)), ((3, 4), (2,)), ((3, 4), (3, 1))]:
        with pytest.raises(ValueError, match="one loss per task; found a Jacobian"):
            make_aggregator(name)(torch.zeros(jacobian), torch.zeros(losses))


def test_unknown_names_and_options_are_explained() -> None:
    with pytest.raises(ValueError, match="unknown aggregator 'pgrad'; expected one of mean, pcgrad"):
        make_aggregator("pgrad")
    with pytest.raises((ValueError, TypeError), match="'avg'"):  # beartype, if it is on, speaks first
        make_aggregator("mean", reduction="avg")
    with pytest.raises(TypeError, match="sed"):
        make_aggregator("pcgrad", sed=0)


# ---- an aggregator of your own: the example of the guide


class Agreement(mtrl.GramianAggregator):
    """Trust a task by how well its gradient agrees with the others."""

    def __init__(self, sharpness: float = 1.0) -> None:
        super().__init__()
        self.sharpness = sharpness

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        norms = gramian.diagonal().sqrt().clamp(min=1e-12)
        cosines = gramian / (norms[:, None] * norms)
        return torch.softmax(self.sharpness * cosines.mean(1), dim=0)


def test_an_aggregator_of_your_own(monkeypatch) -> None:
    monkeypatch.setitem(mtrl.AGGREGATORS, "agreement", Agreement)
    aggregator = mtrl.make_aggregator("agreement", sharpness=200.0)
    theta = torch.nn.Parameter(torch.zeros(3))
    losses = torch.tensor([[1.0, 0, 0], [1, 1, 0], [-1, 0, 0]]) @ theta  # the second agrees best
    mtrl.backward(losses, aggregator, parameters=[theta])
    torch.testing.assert_close(theta.grad, torch.tensor([1.0, 1, 0]))
    assert aggregator.hyperparameters() == {"sharpness": 200.0}
