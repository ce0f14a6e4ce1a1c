"""The networks that are offered: both routes of per-task gradients agree, and heads belong to their tasks."""

import itertools

import pytest
import torch
from gymnasium import spaces

import mtrl
from agents.policies import MultiTaskPolicy

T, B, OBS, ACTIONS = 3, 4, 5, 2
FORMS = [
    {"layer_norm": layer_norm, "multi_head": multi_head, "n_critics": n_critics}
    for layer_norm, multi_head, n_critics in itertools.product([False, True], [False, True], [1, 2])
]


def make_policy(**form):
    torch.manual_seed(0)
    return MultiTaskPolicy(
        spaces.Box(-torch.inf, torch.inf, (OBS + T,)),
        spaces.Box(-1, 1, (ACTIONS,)),
        lambda _: 1e-3,
        num_tasks=T,
        actor_width=8,
        actor_depth=2,
        critic_width=6,
        critic_depth=3,
        **form,
    ).double()


def batch():
    generator = torch.Generator().manual_seed(1)
    one_hot = torch.eye(T).repeat_interleave(B, 0)
    observations = torch.cat([torch.randn(T * B, OBS, generator=generator), one_hot], 1).double()
    return observations, torch.randn(T * B, ACTIONS, generator=generator).double()


def critic_losses(policy):
    return policy.critic(*batch(), blocks=True).square().unflatten(-1, (T, B)).mean((0, 2))


def actor_losses(policy):
    torch.manual_seed(2)  # the noise of the reparametrised action
    actions, log_prob = policy.actor.action_log_prob(batch()[0], blocks=True)
    q_values = policy.critic(batch()[0], actions, blocks=True).amin(0)
    return (0.3 * log_prob - q_values).unflatten(0, (T, B)).mean(1)


@pytest.mark.parametrize("aggregator", ["mean", "pcgrad"])
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(("name", "losses_of"), [("actor", actor_losses), ("critic", critic_losses)])
def test_blocks_equal_separate_backward_passes(name, losses_of, form, aggregator):
    policy = make_policy(**form)
    network = getattr(policy, name)
    heads = network.task_parameters()
    with mtrl.record(network, T, heads) as tape:
        losses = losses_of(policy)
    mtrl.backward(losses, mtrl.make_aggregator(aggregator), tape=tape)
    by_blocks = [p.grad for p in network.parameters()]
    mtrl.backward(
        losses_of(policy),
        mtrl.make_aggregator(aggregator),
        parameters=network.shared_parameters(),
        task_parameters=heads,
    )
    for parameter, blocks in zip(network.parameters(), by_blocks, strict=True):
        torch.testing.assert_close(blocks, parameter.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "losses_of"), [("actor", actor_losses), ("critic", critic_losses)])
def test_heads_get_the_plain_gradient_bit_for_bit(name, losses_of):
    policy = make_policy(multi_head=True)
    network = getattr(policy, name)
    losses_of(policy).mean().backward()
    plain = [p.grad.clone() for p in network.task_parameters()]
    with mtrl.record(network, T, network.task_parameters()) as tape:
        losses = losses_of(policy)
    mtrl.backward(losses, mtrl.PCGrad(), tape=tape)
    assert len(plain) == 2
    assert all(torch.equal(p.grad, expected) for p, expected in zip(network.task_parameters(), plain, strict=True))


def test_the_actor_step_leaves_the_critic_alone():
    policy = make_policy()
    with mtrl.record(policy.actor, T) as tape:
        losses = actor_losses(policy)
    mtrl.backward(losses, mtrl.PCGrad(), tape=tape)
    assert all(p.grad is None for p in policy.critic.parameters())
    assert all(p.grad is not None for p in policy.actor.parameters())


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_rows_in_any_order_give_what_blocks_give(form):
    policy, (observations, actions) = make_policy(**form), batch()
    shuffled = torch.randperm(T * B)
    expected = policy.critic(observations, actions, blocks=True)[:, shuffled]
    torch.testing.assert_close(policy.critic(observations[shuffled], actions[shuffled]), expected)
    mean = policy.actor(observations, deterministic=True)
    torch.testing.assert_close(policy.actor(observations[shuffled], deterministic=True), mean[shuffled])


def test_every_parameter_is_shared_or_a_tasks_own():
    for form in FORMS:
        for network in (make_policy(**form).actor, make_policy(**form).critic):
            shared, own = network.shared_parameters(), network.task_parameters()
            assert {*map(id, shared), *map(id, own)} == set(map(id, network.parameters()))
            assert len(own) == (2 if form["multi_head"] else 0)


def test_a_head_gets_no_gradient_from_other_tasks():
    policy = make_policy(multi_head=True)
    critic_losses(policy)[1].backward()
    moved = policy.critic.head.weight.grad.abs().sum((0, 2, 3))
    assert moved[1] > 0
    assert moved[0] == moved[2] == 0


def test_actor_and_critic_are_sized_apart():
    policy = make_policy()
    assert policy.actor.torso[0].out_features == 8
    assert policy.critic.torso[0].weight.shape[2] == 6
    assert len(policy.critic.torso) == 2 * 3
