"""Weightings of the losses: each against its formula written again or TorchJD's, and surgery on top of one."""

import math
from inspect import signature

import pytest
import torch

import mtrl
from agents.learning.aggregation import refuse_for_actor
from mtrl import AGGREGATORS, WEIGHTINGS, make_aggregator
from mtrl.testing import matrix
from scripts.common import methods
from scripts.common.usage import UsageError

torch.set_num_threads(1)
LOSSES = torch.tensor([0.5, 4.0, 1.5], dtype=torch.float64)


def falling(count):
    return [LOSSES / torch.tensor([1.0 + step, 1.0, 1.0 + step / 4], dtype=torch.float64) for step in range(count)]


def walked(name, losses, **options):
    method = make_aggregator(name, **options)
    return [method.weights(values) for values in losses]


def test_uncertainty_is_the_gradient_of_kendall_s_objective():
    """Weights are its slopes in the losses, made to sum 1; each step goes down its slope in s, over the terms' sum."""
    s = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for values, found in zip(falling(5), walked("uncertainty", falling(5), rate=0.5), strict=True):
        values = values.clone().requires_grad_()
        fit, price = (-s).exp() * values / 2, s / 2
        by_loss, by_s = torch.autograd.grad((fit + price).sum(), [values, s])
        torch.testing.assert_close(found, by_loss / by_loss.sum())
        with torch.no_grad():
            s -= 0.5 * by_s / (fit + 0.5)
    assert found.argmax() == 0  # the task with the smallest loss


def test_uncertainty_settles_where_every_weighted_loss_is_one_size():
    weights = walked("uncertainty", [LOSSES] * 400, rate=0.05)[-1]
    torch.testing.assert_close(weights, (1 / LOSSES) / (1 / LOSSES).sum(), rtol=1e-4, atol=0)
    torch.testing.assert_close(
        torch.stack(walked("imtl_l", falling(4))), torch.stack(walked("uncertainty", falling(4)))
    )


def test_dwa_is_equation_7_over_averages():
    found = walked("dwa", falling(9), window=2, temperature=0.5)
    averages = torch.stack(falling(8)).view(4, 2, 3).mean(1)
    for number, weights in enumerate(found):
        ratios = averages[number // 2 - 1] / averages[number // 2 - 2] if number >= 4 else torch.ones(3).double()
        torch.testing.assert_close(weights, (ratios / 0.5).softmax(0))


def test_gls_is_the_slope_of_the_geometric_mean():
    values = LOSSES.clone().requires_grad_()
    (slope,) = torch.autograd.grad(values.log().mean().exp(), values)
    torch.testing.assert_close(make_aggregator("gls").weights(LOSSES), slope / slope.sum())


def test_stch_is_the_slope_of_the_smooth_maximum():
    for values, found in zip(falling(3), walked("stch", falling(3), mu=0.3), strict=True):
        values = values.clone().requires_grad_()
        (slope,) = torch.autograd.grad(0.3 * (values / LOSSES / 0.3).logsumexp(0), values)
        torch.testing.assert_close(found, slope / slope.sum())
    assert walked("stch", [LOSSES, LOSSES * torch.tensor([1.0, 2.0, 1.0])], mu=0.01)[-1].argmax() == 1


def test_rlw_draws_anew_and_every_task_alike():
    drawn = torch.stack(walked("rlw", [-LOSSES] * 2000, seed=3))
    torch.testing.assert_close(drawn.sum(1), torch.ones(2000).double())
    assert (drawn.mean(0) - 1 / 3).abs().max() < 0.02
    assert torch.equal(make_aggregator("rlw", seed=3).weights(LOSSES), drawn[0])


@pytest.mark.parametrize(
    ("name", "scalarizer"),
    [
        ("gls", lambda s: s.GeometricMean()),
        ("stch", lambda s: s.STCH(0.1, weights=1 / LOSSES)),
        ("uncertainty", lambda s: s.UW(3)),
        ("imtl_l", lambda s: s.IMTLL(3)),
        ("dwa", lambda s: s.DWA()),
    ],
)
def test_the_first_weights_are_torchjd_s(name, scalarizer):
    values = LOSSES.clone().requires_grad_()
    combined = scalarizer(pytest.importorskip("torchjd.scalarization")).double()(values)
    (slope,) = torch.autograd.grad(combined, values)
    torch.testing.assert_close(make_aggregator(name).weights(LOSSES), slope / slope.sum())


# ---- losses that have no weight
@pytest.mark.parametrize("name", [name for name, kind in WEIGHTINGS.items() if kind.non_negative])
def test_negative_losses_are_refused_by_task(name):
    method = make_aggregator(name)
    method.weights(LOSSES)
    with pytest.raises(ValueError, match=r"expects losses from 0 on; found -4 for task 1.*such as mean or pcgrad"):
        method.weights(LOSSES * torch.tensor([1.0, -1.0, 1.0]))
    assert method.weights(0 * LOSSES).isfinite().all()
    for named in (name, f"{name}:pcgrad"):
        with pytest.raises(ValueError, match="the actor's aggregator: expected one for losses of any sign"):
            refuse_for_actor(mtrl.aggregator_class(named))


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_loss_that_is_not_finite_is_not_remembered(name):
    sound, spoiled = (make_aggregator(name) for _ in range(2))
    for method in (sound, spoiled):
        method.weights(LOSSES)
    spoiled.weights(LOSSES * torch.tensor([1.0, torch.nan, 1.0]))
    if name != "rlw":  # it has drawn once more
        sound.weights(LOSSES) if name in ("uncertainty", "imtl_l") else None
    assert spoiled.weights(LOSSES).isfinite().all()


# ---- surgery on top
@pytest.mark.parametrize("method", ["pcgrad", "cagrad", "upgrad"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_surgery_after_a_weighting_is_surgery_on_the_weighted_losses(method, reduction):
    combined, weighting, plain = (
        make_aggregator(name, reduction=reduction) for name in (f"uncertainty:{method}", "uncertainty", method)
    )
    weighting.reduction = "mean"
    for step, losses in enumerate(falling(4)):
        jacobian = matrix("conflicting", 3, 6, step)
        w = 3 * weighting.weights(losses)
        torch.testing.assert_close(combined(jacobian, losses), plain(w[:, None] * jacobian, losses))


@pytest.mark.parametrize(
    "method", [n for n, kind in AGGREGATORS.items() if "per_parameter" in signature(kind).parameters]
)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_surgery_parameter_by_parameter_after_a_weighting(weighting, method):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)).double()
    weigh, plain = make_aggregator(weighting), make_aggregator(method, per_parameter=True)
    combined = make_aggregator(f"{weighting}:{method}", per_parameter=True)
    for shift in (0.0, 0.3):
        losses, again = (
            torch.stack([(net(torch.full((4,), k + shift).double()) - k).square().mean() for k in range(3)])
            for _ in range(2)
        )
        mtrl.backward(3 * weigh.weights(losses) * losses, plain, parameters=net.parameters())
        expected = [p.grad.clone() for p in net.parameters()]
        mtrl.backward(again, combined, parameters=net.parameters())
        for parameter, gradient in zip(net.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("method", ["pcgrad", "gradvac", "nash_mtl", "smoothed:nash_mtl", "scheduled:nash_mtl"])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_method_that_begins_at_its_first_call_leaves_the_weighting(weighting, method):
    """Both go on as after a `reset` that the caller asked for."""
    begun, reset = (make_aggregator(f"{weighting}:{method}") for _ in range(2))
    reset.reset(3, 6)
    for step, losses in enumerate(falling(4)):
        jacobian = matrix("conflicting", 3, 6, step)
        assert torch.equal(begun(jacobian, losses), reset(jacobian, losses))


def test_through_backward_heads_are_untouched():
    torch.manual_seed(0)
    body, heads = torch.nn.Linear(4, 5), torch.nn.ModuleList(torch.nn.Linear(5, 1) for _ in range(3))
    losses = torch.stack([(head(body(torch.ones(2, 4))) - 3.0 * k).square().mean() for k, head in enumerate(heads)])
    plain = torch.autograd.grad(losses.mean(), list(heads.parameters()), retain_graph=True)
    mtrl.backward(
        losses, make_aggregator("gls:pcgrad"), parameters=body.parameters(), task_parameters=heads.parameters()
    )
    assert all(torch.equal(p.grad, g) for p, g in zip(heads.parameters(), plain, strict=True))


def test_names_and_options_of_both():
    method = make_aggregator("dwa:cagrad", temperature=1.0, c=0.2)
    assert mtrl.name_of(method) == "dwa:cagrad"
    assert method.hyperparameters() == {
        **{"reduction": "mean", "c": 0.2, "rescale": True},
        **{"temperature": 1.0, "window": 100},
    }
    assert method.weighting.temperature == 1.0
    assert not method.looks_back
    assert make_aggregator("rlw:pcgrad", seed=5).weighting.seed == 5
    assert make_aggregator("rlw:mgda", seed=5).weighting.seed == 5
    assert isinstance(make_aggregator("smoothed:uncertainty:pcgrad"), mtrl.PCGrad)
    assert "inverse of a variance" in type(make_aggregator("uncertainty:pcgrad")).__doc__
    for name, message in (("gls:mean", "Mean does not"), ("gls:dwa:pcgrad", "expected one weighting")):
        with pytest.raises(ValueError, match=message):
            make_aggregator(name)


SURGERY = [
    name for name, kind in AGGREGATORS.items() if issubclass(kind, mtrl.GramianAggregator) and kind.wanted_batches == 1
]


@pytest.mark.parametrize("method", SURGERY)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_every_weighting_goes_before_every_method_with_the_options_of_both(weighting, method):
    """Those that both have are two, but for the scale and the seed."""
    theirs = make_aggregator(method).hyperparameters()
    both = make_aggregator(f"{weighting}:{method}").hyperparameters()
    own = set(signature(WEIGHTINGS[weighting]).parameters)
    twice = own & theirs.keys() - {"reduction", "seed"}
    assert both.keys() == theirs.keys() | own - twice | {f"{weighting}_{name}" for name in twice}
    assert theirs.items() <= both.items()


def test_an_option_that_both_have():
    method = make_aggregator("uncertainty:conicgrad", rate=0.2, uncertainty_rate=0.03)
    assert (method.rate, method.weighting.rate) == (0.2, 0.03)
    again = make_aggregator("uncertainty:conicgrad", **method.hyperparameters())
    assert (again.rate, again.weighting.rate) == (0.2, 0.03)


# ---- options behind a name, as the studies take them
def test_options_behind_a_name():
    method = methods.build("mocograd@strength=1@momentum=0.5", seed=7, reduction="sum")
    assert (method.strength, method.momentum, method.seed, method.reduction) == (1.0, 0.5, 7, "sum")
    assert methods.build("dwa@window=7", seed=1, window=3).window == 7
    assert math.isclose(methods.build("dwa:pcgrad", seed=1, window=3).weighting.window, 3)
    methods.check_aggregators(["mocograd", "mocograd@momentum=0", "gls"], options=True, any_sign=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mocograd@strenght=1", "unknown option of MoCoGrad 'strenght': did you mean strength"),
        ("mocograd@strength", "expected options as @OPTION=VALUE"),
        ("mocograd@strength=1@strength=2", "each once"),
        ("mocograd@strength=big", "expected strength as a float; found 'big'"),
        ("mocograd@strength=-1", r"strength must lie in \[0, inf\)"),
        ("dwa@window=1.5", "expected window as a int; found 1.5"),
        ("cagrad@rescale=1", "expected rescale as a bool; found 1"),
        ("pcgard@seed=1", "unknown aggregator 'pcgard'"),
    ],
)
def test_bad_options(name, message):
    with pytest.raises(UsageError, match=message):
        methods.check_aggregators([name], options=True, any_sign=False)
