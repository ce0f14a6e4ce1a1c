"""The networks that are offered: what they compute, what belongs to a task, and what is refused."""

import pytest
import torch

import mtrl
from tests.small_policies import OBS, T, actor_losses, batch, critic_losses, make_policy

SOFT = {"actor_torso": "soft-modularization", "critic_torso": "soft-modularization"}


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
            "critic_torso: expected one of mlp, bronet, .*, paco; found 'resnet'",
        ),
        (
            {"conditioning": "none"},
            "conditioning: expected one of one-hot, own-columns, embedding, film, film-scalar, care, goal",
        ),
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
