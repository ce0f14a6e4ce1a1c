"""Each method by its theorem or by hand: what makes it that method and no other."""

import re

import pytest
import torch
from torch import Tensor

from mtrl import make_aggregator
from mtrl.aggregators import (
    FAMO,
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    ConFIG,
    FairGrad,
    GradDrop,
    GradNorm,
    GradVac,
    MoCoGrad,
    NashMTL,
    PCGrad,
    PCGradDirection,
    PCGradFixed,
    PCGradMagnitude,
    UPGrad,
)
from mtrl.solvers import dual_cone_weights
from mtrl.testing import matrix
from tests.answers import answer, close, every_family, rows, samples

torch.set_num_threads(1)


# ---- PCGrad's family


def test_pcgrad_is_the_mean_on_orthogonal_rows() -> None:
    for jacobian in samples("orthogonal"):
        if len(jacobian) <= jacobian.shape[1]:
            for kind in (PCGrad, PCGradFixed, PCGradDirection, PCGradMagnitude, MoCoGrad):
                close(answer(kind(), jacobian), jacobian.mean(0))


@every_family
def test_direction_and_magnitude_share_what_they_claim(family) -> None:
    for jacobian in samples(family):
        full, plain = answer(PCGrad(seed=3), jacobian), jacobian.mean(0)
        direction, magnitude = (answer(kind(seed=3), jacobian) for kind in (PCGradDirection, PCGradMagnitude))
        if min(full.norm(), plain.norm()) <= 1e-6 * jacobian.norm(dim=1).amax():
            continue  # one of them has no direction
        close(direction, full * plain.norm() / full.norm(), 1e-6)
        close(magnitude, plain * full.norm() / plain.norm(), 1e-6)


def test_the_fixed_order_is_ascending() -> None:
    jacobian = matrix("conflicting", 5, 12, seed=2)
    expected = torch.zeros(12, dtype=torch.float64)
    for i, projected in enumerate(jacobian.clone()):
        for j in range(5):
            if j != i:
                unit = jacobian[j] / jacobian[j].norm()
                projected = projected - torch.clamp(projected @ unit, max=0) * unit
        expected += projected
    close(answer(PCGradFixed("sum"), jacobian), expected)
    assert torch.equal(answer(PCGradFixed(), jacobian), answer(PCGradFixed(), jacobian))


@every_family
def test_gradvac_with_target_0_is_pcgrad(family) -> None:
    for jacobian in samples(family):
        vac, pc = GradVac(target=0.0, beta=0.0, seed=5), PCGrad(seed=5)
        for _ in range(2):
            close(answer(vac, jacobian), answer(pc, jacobian), 1e-7)


def test_gradvac_reaches_its_target_and_learns_it() -> None:
    jacobian = rows([1, 0], [-1, 1])
    vac = GradVac("sum", target=0.5, beta=0.25)
    update = answer(vac, jacobian)
    # g1' = g1 + a g2 with cosine 1/2 to g2, and g2' likewise to g1
    c = -(0.5**0.5)
    amount = (0.5 * (1 - c * c) ** 0.5 - c * 0.75**0.5) / 0.75**0.5
    close(update, jacobian[0] + amount / 2**0.5 * jacobian[1] + jacobian[1] + amount * 2**0.5 * jacobian[0])
    close(vac.targets, rows([0.5, 0.75 * 0.5 + 0.25 * c], [0.75 * 0.5 + 0.25 * c, 0.5]))


def calibrated_sums(jacobians: list[Tensor], strength: float, momentum: float, seed: int) -> list[Tensor]:
    """MoCoGrad step by step, pair by pair on the vectors themselves."""
    drawn, momenta, sums = PCGrad(seed=seed), torch.zeros_like(jacobians[0]), []
    for jacobian in jacobians:
        momenta = momentum * momenta + (1 - momentum) * jacobian
        total = torch.zeros_like(jacobian[0])
        for i, order in enumerate(drawn.draw_orders(len(jacobian)).tolist()):
            steered = jacobian[i].clone()
            for j in order:
                if float(steered @ jacobian[j]) < 0 and float(momenta[j].norm()) > 0:
                    steered += strength * jacobian[j].norm() / momenta[j].norm() * momenta[j]
            total += steered
        sums.append(total)
    return sums


@pytest.mark.parametrize("num_tasks", [1, 2, 5])
@pytest.mark.parametrize("family", ["random", "conflicting", "uneven", "one zero row", "zero"])
def test_mocograd_is_the_loop_over_pairs(family, num_tasks) -> None:
    jacobians = [matrix(family, num_tasks, 9, seed=seed) for seed in range(4)]
    moco = MoCoGrad("sum", strength=0.4, momentum=0.8, seed=3)
    for jacobian, expected in zip(jacobians, calibrated_sums(jacobians, 0.4, 0.8, seed=3), strict=True):
        close(answer(moco, jacobian), expected, 1e-6)  # momenta are kept in float32


def test_mocograd_steers_by_the_present_gradient_too() -> None:
    """So the first update is not the mean: m_j then points along g_j."""
    jacobian, others = rows([1, 0], [-1, 1]), rows([2, 0], [0, 3])
    moco = MoCoGrad("sum", strength=0.5, momentum=0.75)
    close(answer(moco, jacobian), 1.5 * jacobian.sum(0), 1e-6)
    close(moco.momenta.double(), 0.25 * jacobian, 1e-6)
    close(answer(moco, others), others.sum(0), 1e-6)  # no conflict
    close(moco.momenta.double(), 0.75 * 0.25 * jacobian + 0.25 * others, 1e-6)
    moco.reset(2, 2)
    close(answer(moco, jacobian), 1.5 * jacobian.sum(0), 1e-6)


@every_family
def test_mocograd_without_strength_is_the_mean(family) -> None:
    for jacobian in samples(family):
        moco = MoCoGrad(strength=0.0)
        for _ in range(2):
            close(answer(moco, jacobian), jacobian.mean(0))


# ---- solutions of a problem


@every_family
def test_cagrad_with_radius_0_is_the_mean(family) -> None:
    for jacobian in samples(family):
        close(answer(CAGrad(c=0.0), jacobian), jacobian.mean(0))


@every_family
def test_cagrad_stays_in_its_ball_and_helps_the_worst_off(family) -> None:
    for jacobian in samples(family):
        mean = jacobian.mean(0)
        cagrad = CAGrad(c=0.6, rescale=False)
        update = answer(cagrad, jacobian)
        size = jacobian.norm(dim=1).amax()
        assert (update - mean).norm() <= 0.6 * mean.norm() * (1 + 1e-6) + 1e-12 * size
        assert (jacobian @ update).amin() >= (jacobian @ mean).amin() - 1e-7 * size**2
        assert cagrad.fallbacks == 0


@every_family
def test_mgda_is_the_shortest_vector_of_the_hull(family) -> None:
    """KKT: no row has a smaller product with the update than the update itself."""
    for jacobian in samples(family):
        mgda = MGDA()
        update = answer(mgda, jacobian)
        size = jacobian.square().sum(1).amax()
        assert (jacobian @ update).amin() >= update @ update - 1e-8 * size
        assert mgda.fallbacks == 0


def test_imtl_g_has_equal_projections() -> None:
    for family in ("random", "aligned", "conflicting", "uneven", "orthogonal"):
        for jacobian in samples(family):
            if len(jacobian) < jacobian.shape[1]:
                projections = jacobian @ answer(IMTLG(), jacobian) / jacobian.norm(dim=1)
                close(projections, projections.mean().expand_as(projections), 1e-6)


def test_imtl_g_without_a_common_direction_stands_still_and_counts() -> None:
    imtl = IMTLG()
    assert answer(imtl, rows([1, 0], [-1, 0])).abs().max() == 0
    assert imtl.fallbacks == 1
    close(answer(imtl, rows([1, 0], [0, 0])), rows([1, 0])[0])  # a dead task has no direction
    assert imtl.fallbacks == 1


def test_nash_gains_are_the_inverse_weights() -> None:
    for family in ("random", "aligned", "conflicting", "uneven", "orthogonal", "one zero row"):
        for jacobian in samples(family):
            if len(jacobian) <= jacobian.shape[1]:
                nash = NashMTL(rescale=False)
                weights = nash.weights(jacobian @ jacobian.T, torch.ones(len(jacobian)))
                alive = weights > 0
                gains = (jacobian @ (weights @ jacobian))[alive]
                close(gains * weights[alive], torch.ones_like(gains))
                assert nash.fallbacks == 0


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_fairgrad_gains_are_the_alpha_fair_ones(alpha) -> None:
    for family in ("random", "aligned", "conflicting", "uneven", "orthogonal", "one zero row"):
        for jacobian in samples(family):
            if len(jacobian) <= jacobian.shape[1]:
                method = FairGrad(alpha=alpha, rescale=False)
                weights = method.weights(jacobian @ jacobian.T, torch.ones(len(jacobian)))
                alive = weights > 0
                gains = (jacobian @ (weights @ jacobian))[alive]
                close(gains * weights[alive] ** (1 / alpha), torch.ones_like(gains))
                assert method.fallbacks == 0
                close(answer(FairGrad(alpha=alpha), jacobian).norm(), jacobian.mean(0).norm())


@every_family
def test_fairgrad_with_alpha_1_is_nash(family) -> None:
    for jacobian in samples(family):
        assert torch.equal(answer(FairGrad(alpha=1.0), jacobian), answer(NashMTL(), jacobian))


def test_fairgrad_on_orthogonal_gradients_by_hand() -> None:
    """G w = w^(-1/alpha) there is w_i = |g_i|^(-2 alpha / (1 + alpha))."""
    jacobian = rows([8, 0], [0, 1])
    close(answer(FairGrad(alpha=2.0, rescale=False), jacobian), rows([8 * 8 ** (-4 / 3), 1])[0])


@every_family
def test_upgrad_is_pcgrad_for_two_tasks(family) -> None:
    jacobian = matrix(family, 2, 6, seed=1)
    close(answer(UPGrad(), jacobian), answer(PCGrad(), jacobian), 1e-6)


@every_family
def test_upgrad_projects_on_the_dual_cone(family) -> None:
    """Moreau: p is the nearest point if J p >= 0, g - p is no positive combination of the rows, and p (g - p) = 0."""
    for jacobian in samples(family):
        projections, residual = dual_cone_weights(jacobian @ jacobian.T)
        points, size = projections @ jacobian, jacobian.norm(dim=1)
        assert residual <= 1e-8
        assert (points @ jacobian.T >= -1e-7 * size[:, None] * size).all()
        added = projections - torch.eye(len(jacobian))  # minus g - p is a combination of the gradients, none negative
        assert (added * size >= -1e-12 * size[:, None]).all()
        assert ((points * (jacobian - points)).sum(1).abs() <= 1e-7 * size.square()).all()


def test_config_has_equal_cosines_and_the_mean_projection() -> None:
    for family in ("random", "aligned", "conflicting", "uneven", "orthogonal"):
        for jacobian in samples(family):
            if len(jacobian) < jacobian.shape[1]:
                update = answer(ConFIG(), jacobian)
                cosines = jacobian @ update / jacobian.norm(dim=1) / update.norm()
                close(cosines, cosines.mean().expand_as(cosines), 1e-6)
                close(update.norm(), (jacobian @ update).mean() / update.norm(), 1e-6)


def test_config_without_a_common_direction_stands_still_and_counts() -> None:
    config = ConFIG()
    assert answer(config, rows([1, 0], [-1, 0])).abs().max() == 0
    assert config.fallbacks == 1
    close(answer(config, rows([2, 0], [0, 0])), rows([1, 0])[0])  # a dead task has no direction, and lowers the mean
    assert config.fallbacks == 1


def test_graddrop_keeps_one_sign_and_is_the_mean_in_expectation() -> None:
    jacobian = rows([3], [-1]).repeat(1, 20_000)
    update = answer(GradDrop("sum", seed=1), jacobian)
    assert update.unique().tolist() == [-1, 3]
    assert (update.mean() - 2).abs() < 0.05  # four standard deviations: 4 * 1.73 / 141
    close(answer(GradDrop(leak=1.0), jacobian), jacobian.mean(0))


@pytest.mark.parametrize("scale", [1e-20, 1e19])
@pytest.mark.parametrize("name", ["fairgrad", "upgrad", "config", "graddrop"])
def test_gradients_at_the_ends_of_float32(name, scale) -> None:
    """At the ends of float32, and with 50 tasks."""
    jacobian = matrix("random", 50, 200, seed=1).float()
    expected = answer(make_aggregator(name), jacobian)
    close(answer(make_aggregator(name), scale * jacobian) / scale, expected, 1e-4)


def test_nash_solves_every_so_many_calls() -> None:
    first, second = matrix("random", 3, 9, seed=1), matrix("random", 3, 9, seed=2)
    nash, ones = NashMTL(every=2, rescale=False), torch.ones(3)
    weights = [nash.weights(j @ j.T, ones) for j in (first, second, second)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    resumed = NashMTL(every=2, rescale=False)
    resumed.reset(3, 9)
    resumed.load_state_dict(nash.state_dict())
    assert torch.equal(resumed.weights(first @ first.T, ones), weights[2])  # the fourth call keeps, too


def test_nash_counts_where_there_is_nothing_to_agree_on() -> None:
    nash = NashMTL()
    assert answer(nash, rows([1, 2], [-1, -2])).abs().max() <= 1e-6
    assert nash.fallbacks == 1


def test_aligned_gradients_are_orthogonal_and_as_long_as_the_shortest_component() -> None:
    jacobian = matrix("conflicting", 4, 9, seed=1)
    values = torch.linalg.eigvalsh(jacobian @ jacobian.T)
    for scale, expected in (("min", values[0]), ("rmse", values.mean()), ("median", values[1])):
        update = answer(AlignedMTL(scale=scale), jacobian)
        close((4 * update).square().sum(), 4 * expected)  # sum of four orthogonal vectors of that length


@pytest.mark.parametrize("factor", [1.0, 3.0, -10 / 3, 1e-2])
@pytest.mark.parametrize("num_tasks", [2, 3])
def test_aligned_mtl_takes_float32_rounding_for_no_direction(num_tasks, factor) -> None:
    """Gradients that are multiples of one another, to rounding: what is left of them is that one direction."""
    gradient = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    powers = torch.arange(num_tasks)
    jacobian = (torch.tensor(factor) ** powers)[:, None].double() * (gradient * (1 + 1e-8 * powers[:, None]).double())
    found = answer(AlignedMTL(), jacobian.float())
    _, vectors = torch.linalg.eigh(jacobian @ jacobian.T)  # of rank one: d = (v' 1) v'J / T
    close(found.double(), vectors[:, -1].mean() * vectors[:, -1] @ jacobian, 1e-4)


@pytest.mark.parametrize(("share", "kept"), [(1.3e-7, False), (0.9e-7, False), (5e-7, True)])
def test_aligned_mtl_drops_what_the_authors_drop(share, kept) -> None:
    """Eigenvalues below 2 x 1.19e-7 of the largest, for two tasks."""
    update = answer(AlignedMTL(), rows([1, 0], [0, share**0.5]))
    close(update, rows([share**0.5, share**0.5])[0] / 2 if kept else rows([0.5, 0])[0])


@pytest.mark.parametrize("name", ["pcgrad", "cagrad", "mgda", "imtl_g", "nash_mtl", "aligned_mtl", "mocograd"])
def test_identical_rows_give_their_direction(name) -> None:
    for jacobian in samples("duplicates"):
        update = answer(make_aggregator(name), jacobian)
        close(update / update.norm(), jacobian[0] / jacobian[0].norm())


# ---- learned weights


def test_gradnorm_makes_lengths_equal() -> None:
    gradnorm, jacobian = GradNorm(alpha=0.0, rate=0.1), rows([10, 0], [0, 0.1])
    for _ in range(150):
        update = answer(gradnorm, jacobian)
    weights = update / jacobian.sum(0)
    torch.testing.assert_close(float(weights.sum()), 1.0)
    assert 0.8 < float(update[0] / update[1]) < 1.25


def test_gradnorm_favours_the_task_that_lags() -> None:
    gradnorm, jacobian = GradNorm("sum", alpha=1.0), rows([1, 0], [0, 1])
    for step in range(400):
        update = answer(gradnorm, jacobian, torch.tensor([1.0, 1.0 if step == 0 else 0.5]))
    # rates 1 / 0.75 and 0.5 / 0.75: lengths in that ratio
    torch.testing.assert_close(float(update[0] / update[1]), 2.0, atol=0.15, rtol=0)
    torch.testing.assert_close(float(update.sum()), 2.0)
    assert gradnorm.fallbacks == 0


def test_gradnorm_without_a_training_rate_balances_lengths_and_counts() -> None:
    """SAC's actor loss is negative: its size says nothing of progress."""
    gradnorm, jacobian = GradNorm(alpha=3.0), rows([4, 0], [0, 1])
    for step in range(400):
        update = answer(gradnorm, jacobian, torch.tensor([-1.0 - step, -50.0 + step]))
    assert 0.9 < float(update[0] / update[1]) < 1.1
    assert gradnorm.fallbacks >= 400


def test_famo_starts_with_relative_losses_and_favours_the_slow_task() -> None:
    famo, losses = FAMO(rate=0.5, decay=0.0), torch.tensor([4.0, 1.0], dtype=torch.float64)
    close(famo.weights(losses), rows([0.2, 0.8])[0])  # 1/4 : 1
    famo.after_step(torch.tensor([2.0, 1.0], dtype=torch.float64))  # the first fell by half, the second not at all
    # slope_i = z_i (fall_i - mean fall) with falls log 2 and 0: logits -+ rate * log(2) / 4
    logit = 0.5 * 0.5 * 0.5 * torch.tensor(2.0, dtype=torch.float64).log()
    close(famo.logits, torch.stack([-logit, logit]))
    weights = famo.weights(losses)
    assert weights[1] > 0.8
    torch.testing.assert_close(float(weights.sum()), 1.0)


def test_famo_reads_negative_losses_from_twice_their_lowest() -> None:
    famo = FAMO(decay=0.0)
    weights = famo.weights(torch.tensor([-10.0, 5.0], dtype=torch.float64))
    close(weights, rows([1 / 3, 2 / 3])[0])  # read as -10 + 20 = 10, and 5
    famo.after_step(torch.tensor([-20.0, 5.0], dtype=torch.float64))  # before: -10 + 40; after: -20 + 40
    assert famo.logits[0] < 0 < famo.logits[1]
    for loss in (-1e6, -20.0, 3.0, 0.0):
        weights = famo.weights(torch.tensor([loss, 5.0], dtype=torch.float64))
        assert weights.isfinite().all()
        assert (weights > 0).all()
        famo.after_step(torch.tensor([loss, 4.0], dtype=torch.float64))
    assert famo.logits.isfinite().all()


def test_famo_does_not_depend_on_the_scale_of_losses() -> None:
    walks = []
    for scale in (1.0, 1e3):
        famo = FAMO()
        for step in range(5):
            losses = scale * torch.tensor([3.0 - step, 1 + 0.5**step], dtype=torch.float64)  # crosses zero
            weights = famo.weights(losses)
            famo.after_step(losses - 0.1 * scale)
        walks.append(weights)
    close(*walks, 1e-6)


# ---- PCGrad's Theorem 1 for its ablation with two tasks: the fixed order is the same method


def test_theorem_1_holds_for_the_fixed_order() -> None:
    hessians = [torch.diag(torch.tensor([1.0, 4.0]).double()), torch.diag(torch.tensor([3.0, 0.5]).double())]
    centres, theta, pcgrad = rows([1, 0], [-1, 2]), rows([5, 5])[0], PCGradFixed("sum")
    step = 1 / 4.5  # the sum's Lipschitz constant

    def total(point: Tensor) -> Tensor:
        return sum(0.5 * (point - c) @ h @ (point - c) for h, c in zip(hessians, centres, strict=True))

    before = total(theta)
    for _ in range(500):
        jacobian = torch.stack([h @ (theta - c) for h, c in zip(hessians, centres, strict=True)])
        theta = theta - step * answer(pcgrad, jacobian)
        assert total(theta) <= before + 1e-12
        before = total(theta)
    optimum = torch.linalg.solve(sum(hessians), sum(h @ c for h, c in zip(hessians, centres, strict=True)))
    assert total(theta) - total(optimum) < 1e-9 or jacobian[0] @ jacobian[1] < -0.999 * jacobian.norm(dim=1).prod()


# ---- bad input: expected, found, what to do


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cagrad", {"c": -0.1}, "c must lie in [0, inf); found -0.1"),
        ("cagrad", {"c": float("nan")}, "c must lie in [0, inf); found nan"),
        ("gradvac", {"beta": 1.5}, "beta must lie in [0, 1]; found 1.5"),
        ("gradvac", {"target": 1.0}, "target must lie in (-1, 1); found 1.0"),
        ("mocograd", {"momentum": 1.0}, "momentum must lie in [0, 1); found 1.0"),
        ("mocograd", {"strength": -1.0}, "strength must lie in [0, inf); found -1.0"),
        ("conicgrad", {"c": 0.0}, "c must lie in (0, 1]; found 0.0"),
        ("db_mtl", {"beta": 1.0}, "beta must lie in [0, 1); found 1.0"),
        ("sdmgrad", {"steps": 0}, "steps must lie in [1, inf); found 0"),
        ("modo", {"rate": 0.0}, "rate must lie in (0, inf); found 0.0"),
        ("fairgrad", {"alpha": 0.0}, "alpha must lie in (0, inf); found 0.0"),
        ("graddrop", {"leak": 1.5}, "leak must lie in [0, 1]; found 1.5"),
        ("smoothed:pcgrad", {"smoothing": 1.0}, "smoothing must lie in [0, 1); found 1.0"),
        ("scheduled:pcgrad", {"period": 0}, "period must lie in [1, inf); found 0"),
        ("nash_mtl", {"every": 0}, "every must lie in [1, inf); found 0"),
        ("gradnorm", {"rate": 0.0}, "rate must lie in (0, inf); found 0.0"),
        ("gradnorm", {"alpha": -1.0}, "alpha must lie in [0, inf); found -1.0"),
        ("famo", {"decay": -1.0}, "decay must lie in [0, inf); found -1.0"),
        ("fairgrad", {"rescale": "false"}, "rescale must be True or False; found 'false'"),
        ("cagrad", {"rescale": 0}, "rescale must be True or False; found 0"),
        ("gradvac", {"per_parameter": "no"}, "per_parameter must be True or False; found 'no'"),
        ("pcgrad", {"seed": 2**64}, "seed must lie in [0, 1.84467e+19]; found 18446744073709551616"),
    ],
)
def test_options_out_of_range(name, options, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_aggregator(name, **options)


def test_large_seeds_that_no_float_tells_apart_draw_other_numbers() -> None:
    one, other = (make_aggregator("rlw", seed=seed)(torch.eye(9), torch.ones(9)) for seed in (2**53, 2**53 + 1))
    assert not torch.equal(one, other)


def test_an_unknown_choice_and_an_unknown_option() -> None:
    with pytest.raises((ValueError, TypeError), match="'max'"):
        make_aggregator("aligned_mtl", scale="max")
    with pytest.raises(TypeError, match=r"aggregator 'mgda' has no option 'c'; its options: reduction"):
        make_aggregator("mgda", c=0.5)


@pytest.mark.parametrize(
    "name", ["gradvac", "mocograd", "nash_mtl", "gradnorm", "famo", "conicgrad", "db_mtl", "sdmgrad", "modo"]
)
def test_another_number_of_tasks_than_that_of_the_state(name) -> None:
    aggregator = make_aggregator(name)
    answer(aggregator, matrix("random", 3, 5))
    with pytest.raises(ValueError, match=r"was reset for 3 tasks and found 4: .* Call reset"):
        answer(aggregator, matrix("random", 4, 5))


def test_nash_forgets_a_gradient_that_is_not_finite() -> None:
    method = make_aggregator("nash_mtl", every=3)
    jacobian = torch.randn(3, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    method.reset(3, 20)
    broken = jacobian.clone()
    broken[1, 2] = torch.nan
    assert not method(broken, torch.ones(3)).isfinite().all()
    assert method(jacobian, torch.ones(3)).isfinite().all()  # keeps equal weights
    for _ in range(2):
        solved = method(jacobian, torch.ones(3))
    fresh = make_aggregator("nash_mtl")
    torch.testing.assert_close(solved, fresh(jacobian, torch.ones(3)))
