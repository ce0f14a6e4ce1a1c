"""The networks that are offered: both routes of per-task gradients agree, and heads belong to their tasks."""

import itertools

import pytest
import torch

import mtrl
from tests.small_policies import OBS, B, T, actor_losses, batch, critic_losses, make_policy

FORMS = [
    {"actor_layer_norm": norm, "critic_layer_norm": norm, "multi_head": multi_head, "n_critics": n_critics}
    for norm, multi_head, n_critics in itertools.product([False, True], [False, True], [1, 2])
]
BRONET = {"actor_torso": "bronet", "critic_torso": "bronet"}
FORMS += [
    {**BRONET, "conditioning": conditioning, "multi_head": multi_head, "critic_head": head, "embedding_size": 3}
    for conditioning, multi_head, head in (
        ("one-hot", False, "c51"),
        ("own-columns", False, "scalar"),
        ("own-columns", True, "hl-gauss"),
        ("embedding", False, "c51"),
        ("embedding", True, "scalar"),
    )
]
FORMS.append({"conditioning": "own-columns", "n_critics": 3})
SOFT = {"actor_torso": "soft-modularization", "critic_torso": "soft-modularization"}
FORMS += [
    {**SOFT, "n_critics": 1},
    {**SOFT, "multi_head": True, "critic_head": "c51", "actor_modules": 3, "critic_modules": 1},
    {"critic_torso": "soft-modularization", "conditioning": "embedding", "n_critics": 3},
]


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
        for name in ("actor", "critic"):
            network = getattr(make_policy(**form), name)
            shared, own = network.shared_parameters(), network.task_parameters()
            assert {*map(id, shared), *map(id, own)} == set(map(id, network.parameters()))
            heads = 2 if form.get("multi_head") else 0
            routed = form.get(f"{name}_torso") == "soft-modularization"
            assert len(own) == heads + (routed or form.get("conditioning", "one-hot") != "one-hot")


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


@pytest.mark.parametrize("conditioning", ["own-columns", "embedding"])
def test_what_conditions_on_a_task_gets_no_gradient_from_other_tasks(conditioning):
    policy = make_policy(conditioning=conditioning, n_critics=2)
    critic_losses(policy)[1].backward()
    (own,) = policy.critic.task_parameters()
    moved = own.grad.abs().sum((0, 2))  # (critics, T, numbers)
    assert moved[1] > 0
    assert moved[0] == moved[2] == 0


def test_own_columns_are_the_columns_of_a_one_hot():
    """The same map: with the parameters laid out as one matrix, the plain network gives the same outputs."""
    plain, own = make_policy(), make_policy(conditioning="own-columns")
    observations, actions = batch()
    with torch.no_grad():
        theirs, ours = (policy.critic.state_dict() for policy in (plain, own))
        first = ours["torso.0.layer.weight"]  # inputs: observation, action; the one-hot's columns are apart
        laid_out = torch.cat([first[:, :OBS], ours["torso.0.columns"], first[:, OBS:]], 1)
        renamed = {"torso.0.weight": laid_out, "torso.0.bias": ours["torso.0.layer.bias"]}
        plain.critic.load_state_dict({**{n: ours[n] for n in theirs if n in ours}, **renamed})
    torch.testing.assert_close(plain.critic(observations, actions), own.critic(observations, actions))


def test_embeddings_have_unit_length():
    policy = make_policy(conditioning="embedding", embedding_size=7)
    vectors = policy.critic.embedding.vectors(torch.eye(T).double())
    assert vectors.shape == (2, T, 7)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2, T).double())


def test_a_bronet_is_what_its_paper_writes():
    """x0 = ReLU(LN(W0 in)); x + LN(W2 ReLU(LN(W1 x))); each critic by itself, from orthogonal matrices."""
    policy = make_policy(critic_torso="bronet", n_critics=2)
    torso, (observations, actions) = policy.critic.torso, batch()
    inputs = torch.cat([observations, actions], 1)
    for member in range(2):

        def linear(layer, x, member=member):
            return x @ layer.weight[member] + layer.bias[member]

        def norm(x):
            return torch.nn.functional.layer_norm(x, x.shape[-1:])

        x = norm(linear(torso[0], inputs)).relu()
        for block in list(torso)[3:]:
            x = x + norm(linear(block.inner[3], norm(linear(block.inner[0], x)).relu()))
        torch.testing.assert_close(torso(inputs.expand(2, -1, -1))[member], x)
        weight = torso[3].inner[0].weight[member]
        torch.testing.assert_close(weight.mT @ weight, 2 * torch.eye(6).double(), rtol=1e-5, atol=1e-6)
    assert len(torso) == 3 + 3


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (
            {"critic_torso": "resnet"},
            "critic_torso: expected one of mlp, bronet, soft-modularization; found 'resnet'",
        ),
        ({"conditioning": "none"}, "conditioning: expected one of one-hot, own-columns, embedding"),
        ({"critic_head": "quantile"}, "critic_head: expected one of scalar, c51, hl-gauss; found 'quantile'"),
        ({"critic_head": "c51", "bins": 1}, "bins: expected at least 2"),
        ({"critic_head": "c51", "v_max": 0.0}, "v_max: expected more than 0"),
        ({"embedding_size": 0}, "embedding_size: expected at least 1"),
        ({"n_critics": 0}, "n_critics: expected at least 1"),
        ({"actor_modules": 0}, "actor_modules: expected at least 1"),
        ({**SOFT, "conditioning": "embedding"}, "has no effect on soft-modularization"),
        ({"weight_decay": -1.0}, "weight_decay: expected 0 or more"),
    ],
    ids=str,
)
def test_forms_that_do_not_exist_are_refused(form, message):
    with pytest.raises(ValueError, match=message):
        make_policy(**form)


def test_weight_decay_is_that_of_adamw():
    assert type(make_policy().critic.optimizer) is torch.optim.Adam
    decayed = make_policy(weight_decay=0.1).critic.optimizer
    assert type(decayed) is torch.optim.AdamW
    assert decayed.defaults["weight_decay"] == 0.1
