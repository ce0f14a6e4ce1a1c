"""An update by itself, of plain networks and with no agent around it: one step against one written by hand."""

import copy
from types import SimpleNamespace

import pytest
import torch

import mtrl
from agents.learning.returns import ReturnScale
from agents.learning.sac import SACUpdate
from agents.learning.temperatures import LearnedTemperatures
from agents.learning.update import Batch, Turn
from agents.networks.actor_critic import MultiTaskActor, MultiTaskCritic
from agents.networks.form import Form
from agents.networks.values import ScalarValue

TASKS, ROWS, OBS, ACTIONS = 2, 6, 3, 2
GAMMA, TAU, RATE, TARGET_ENTROPY = 0.9, 0.1, 1e-2, -2.0
EPS = 1e-8  # Adam's


def networks():
    torch.manual_seed(3)
    form = Form(TASKS, torso_options={"width": 8, "depth": 2, "layer_norm": False})
    actor = MultiTaskActor(form, OBS + TASKS, ACTIONS).double()
    critic, target = (MultiTaskCritic(form, OBS + TASKS, ACTIONS, 2, ScalarValue()).double() for _ in range(2))
    return SimpleNamespace(actor=actor, critic=critic, critic_target=target.requires_grad_(False))


def batch():
    generator = torch.Generator().manual_seed(5)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    one_hot = torch.eye(TASKS, dtype=torch.float64).repeat_interleave(ROWS, 0)
    observations, following = (torch.cat([normal(TASKS * ROWS, OBS), one_hot], 1) for _ in range(2))
    dones = (normal(TASKS * ROWS, 1) > 1).double()
    return Batch(observations, normal(TASKS * ROWS, ACTIONS).tanh(), following, dones, normal(TASKS * ROWS, 1))


def an_update(kind, nets, aggregator, log_alpha, **options):
    optimizers = {name: torch.optim.Adam(getattr(nets, name).parameters(), lr=RATE) for name in ("actor", "critic")}
    aggregators = {"actor": aggregator(), "critic": aggregator()}
    scale = ReturnScale(TASKS, TASKS, GAMMA, 10.0, TARGET_ENTROPY, torch.device("cpu"))
    temperatures = LearnedTemperatures(log_alpha, torch.optim.Adam([log_alpha], lr=RATE), TARGET_ENTROPY)
    return kind(nets, optimizers, aggregators, scale, temperatures, gamma=GAMMA, tau=TAU, **options)


def combined(losses, parameters, aggregator):
    """The update's direction, from T backward passes: the mean, or that of two gradients cleared of their conflict."""
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(x, parameters, retain_graph=True)]) for x in losses]
    first, second = rows
    if aggregator is mtrl.PCGrad and first @ second < 0:
        rows = [
            first - (first @ second) / (second @ second) * second,
            second - (first @ second) / (first @ first) * first,
        ]
    return sum(rows) / 2


@torch.no_grad()
def first_adam_step(parameters, direction):
    """m / sqrt(v) is g / |g| at the first step."""
    for parameter, gradient in zip(parameters, direction.split([p.numel() for p in parameters]), strict=True):
        gradient = gradient.view_as(parameter)
        parameter -= RATE * gradient / (gradient.abs() + EPS)


def by_hand(nets, given, aggregator, log_alpha):
    """Haarnoja et al. 2018, Algorithm 1, with a loss per task."""
    by_task = lambda rows: rows.view(TASKS, ROWS)  # noqa: E731
    alpha = log_alpha.detach().exp()
    noise = torch.randn_like(given.actions)
    actions, log_prob = nets.actor.action_log_prob(given.observations, noise=noise)
    gradient = -(by_task(log_prob.detach()).mean(1) + TARGET_ENTROPY)
    with torch.no_grad():
        following, following_log_prob = nets.actor.action_log_prob(given.next_observations)
        value = nets.critic_target(given.next_observations, following).min(0).values
        value = by_task(value) - alpha[:, None] * by_task(following_log_prob)
        y = by_task(given.rewards) + GAMMA * (1 - by_task(given.dones)) * value
        log_alpha -= RATE * gradient / (gradient.abs() + EPS)
    q = nets.critic(given.observations, given.actions)
    losses = [sum(0.5 * (by_task(q[n])[t] - y[t]).square().mean() for n in range(2)) for t in range(TASKS)]
    parameters = list(nets.critic.parameters())
    first_adam_step(parameters, combined(losses, parameters, aggregator))
    q_pi = by_task(nets.critic(given.observations, actions).min(0).values)
    losses = [(alpha[t] * by_task(log_prob)[t] - q_pi[t]).mean() for t in range(TASKS)]
    parameters = list(nets.actor.parameters())
    first_adam_step(parameters, combined(losses, parameters, aggregator))
    with torch.no_grad():
        for target, source in zip(nets.critic_target.parameters(), nets.critic.parameters(), strict=True):
            target += TAU * (source - target)


@pytest.mark.parametrize("aggregator", [mtrl.Mean, mtrl.PCGrad])
def test_one_step_is_the_one_by_hand(aggregator):
    ours, theirs = networks(), networks()
    alphas = [torch.tensor([-1.0, 0.5], dtype=torch.float64, requires_grad=True) for _ in range(2)]
    update = an_update(SACUpdate, ours, aggregator, alphas[0])
    update.reset_aggregators()
    start = copy.deepcopy(ours)
    torch.manual_seed(7)
    update.update(batch(), Turn(actor=True, target=True))
    torch.manual_seed(7)
    by_hand(theirs, batch(), aggregator, alphas[1])
    torch.testing.assert_close(*alphas, rtol=0, atol=1e-12)
    for name in ("actor", "critic", "critic_target"):
        trios = zip(*(getattr(each, name).parameters() for each in (ours, theirs, start)), strict=True)
        for found, expected, before in trios:
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
            assert not torch.equal(found, before)


def test_what_is_not_its_turn_stays():
    nets, log_alpha = networks(), torch.zeros(TASKS, dtype=torch.float64, requires_grad=True)
    update = an_update(SACUpdate, nets, mtrl.Mean, log_alpha)
    before = copy.deepcopy(nets)
    report = update.update(batch(), Turn(actor=False, target=False))
    for name in ("actor", "critic_target"):
        pairs = zip(getattr(nets, name).parameters(), getattr(before, name).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(log_alpha, torch.zeros_like(log_alpha))
    assert report.numbers.keys() == {"critic_loss", "ent_coef", "q_value"}


def test_losses_computed_again_are_those_after_the_step():
    """Of the same batch, target and noise: nothing is drawn, and nothing moves."""
    nets, log_alpha = networks(), torch.zeros(TASKS, dtype=torch.float64, requires_grad=True)
    seen = {}

    class Watching(SACUpdate):
        def recompute_losses(self, name, given):
            state = torch.get_rng_state()
            losses = super().recompute_losses(name, given)
            assert torch.equal(state, torch.get_rng_state())
            assert torch.equal(losses, super().recompute_losses(name, given))
            seen[name] = losses
            return losses

    update = an_update(Watching, nets, mtrl.FAMO, log_alpha)
    update.reset_aggregators()
    report = update.update(batch(), Turn(actor=True, target=False))
    assert seen.keys() == {"critic", "actor"}
    for name, after in seen.items():
        assert after.sum() < report.numbers[f"{name}_loss"].sum()
