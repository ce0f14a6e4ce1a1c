"""Soft modularization: what its paper and its authors' code compute, task by task, critic by critic."""

import pytest
import torch
import torch.nn.functional as F

from tests.small_policies import OBS, B, T, batch, make_policy

SOFT = {"actor_torso": "soft-modularization", "critic_torso": "soft-modularization"}
SIZES = {"actor_modules": 3, "actor_module_width": 5, "critic_modules": 2, "critic_module_width": 7}
FORM = {**SOFT, **SIZES}


def reference(state, x, one_hot, depth, modules):
    """The hidden units for one network, written after the authors' code: a matrix per module, one row at a time.

    :param state: the torso's parameters by name, without a dimension for critics: matrices are (in, out).
    """

    def linear(name, inputs):
        return inputs @ state[f"{name}.weight"] + state[f"{name}.bias"].flatten()

    outputs = []
    for row, task in zip(x, one_hot, strict=True):
        features = linear("state.2", F.relu(linear("state.0", row)))
        gate = F.relu(features * (task @ state["vectors.table"]))
        gate = linear("routing.3", F.relu(linear("routing.1", gate)))
        probabilities = []
        for number in range(depth):
            seen = gate
            if number:
                seen = gate * linear(f"up.{number - 1}", torch.cat([p.flatten() for p in probabilities]))
            raw = linear(f"down.{number}", F.relu(seen))
            probabilities.append(F.softmax(raw.view(-1, modules), dim=-1))  # [of the next layer, of this one]
        features = F.relu(features)
        width = state["first.weight"].shape[-1] // modules
        first = slice_of(state, width)
        values = [features @ weight + bias for weight, bias in first]
        for number in range(depth - 1):
            layer = state[f"later.{number}.weight"], state[f"later.{number}.bias"]
            inputs = [F.relu(sum(p * v for p, v in zip(to, values, strict=True))) for to in probabilities[number]]
            values = [v @ layer[0][j] + layer[1][j].flatten() for j, v in enumerate(inputs)]
        outputs.append(F.relu(sum(p * v for p, v in zip(probabilities[-1][0], values, strict=True))))
    return torch.stack(outputs)


def slice_of(state, width):
    """The first layer's modules, (weight, bias) each."""
    weight, bias = state["first.weight"], state["first.bias"].flatten()
    return [(weight[:, j : j + width], bias[j : j + width]) for j in range(0, len(bias), width)]


def parameters_of(torso, member=None, members=1):
    """The torso's parameters with matrices (in, out), of one member."""
    found = {}
    for name, parameter in torso.state_dict().items():
        if member is None:  # torch.nn.Linear has (out, in); the modules of later layers are stacked as they are
            found[name] = parameter.mT if name.endswith("weight") and not name.startswith("later") else parameter
        else:
            found[name] = parameter.unflatten(0, (members, -1))[member]
            if not name.startswith("later"):
                found[name] = found[name].squeeze(0)
    return found


def trained(policy):
    """Routes far from equal, as after training."""
    for torso in (policy.actor.torso, policy.critic.torso):
        for layer in torso.down:
            torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(3))
    return policy


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_hidden_units_are_those_of_a_plain_implementation(depth):
    policy = trained(make_policy(**FORM, depth=depth))
    observations, actions = batch()
    plain, one_hot = observations[:, :-T], observations[:, -T:]
    found = policy.actor.torso(plain, None)
    expected = reference(parameters_of(policy.actor.torso), plain, one_hot, depth, modules=3)
    torch.testing.assert_close(found, expected)
    inputs = torch.cat([plain, actions], 1)
    found = policy.critic.torso(inputs.expand(2, -1, -1), None)
    for member in range(2):
        state = parameters_of(policy.critic.torso, member, members=2)
        torch.testing.assert_close(found[member], reference(state, inputs, one_hot, depth, modules=2))


@pytest.mark.parametrize("blocks", [False, True])
def test_routes_are_probabilities(blocks):
    torso = trained(make_policy(**FORM)).critic.torso
    observations, actions = batch()
    inputs = torch.cat([observations[:, :-T], actions], 1).expand(2, -1, -1)
    routes = torso.routes(torso.state(inputs), None if blocks else observations[:, -T:])
    assert [tuple(weights.shape) for weights in routes] == [(2, T * B, 2, 2), (2, T * B, 2, 2), (2, T * B, 1, 2)]
    assert all((weights > 0).all() for weights in routes)
    for weights in routes:
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


def test_routes_start_nearly_equal_and_differ_between_tasks_and_states():
    fresh, policy = make_policy(**FORM), trained(make_policy(**FORM))
    state = torch.randn(T * B, 8, generator=torch.Generator().manual_seed(1)).double()
    (first, *_) = fresh.actor.torso.routes(state, None)
    torch.testing.assert_close(first, torch.full_like(first, 1 / 3), rtol=0, atol=0.02)
    (first, *_) = policy.actor.torso.routes(state[:1].expand(T * B, -1), None)
    blocks = first.unflatten(0, (T, B))
    torch.testing.assert_close(blocks, blocks[:, :1].expand_as(blocks))  # the same state, row by row
    assert not torch.allclose(blocks[0], blocks[1], atol=1e-3)
    (first, *_) = policy.actor.torso.routes(state, None)
    assert not torch.allclose(first[0], first[1], atol=1e-3)


def test_a_tasks_rows_depend_on_no_others():
    policy = trained(make_policy(**FORM))
    observations, actions = batch()
    observations.requires_grad_()
    policy.critic(observations, actions, blocks=True)[:, B : 2 * B].square().sum().backward()
    reached = observations.grad.abs().sum(1).unflatten(0, (T, B)) > 0
    assert reached.tolist() == [[False] * B, [True] * B, [False] * B]
    vectors = policy.critic.torso.vectors.table.grad.abs().sum((0, 2)) > 0
    assert vectors.tolist() == [False, True, False]


def test_the_one_hot_reaches_the_routing_alone():
    """As in the paper, the state's features do not know the task."""
    policy = make_policy(**FORM)
    assert policy.actor.torso.state[0].in_features == OBS
    assert policy.critic.embedding.task_parameters() == []
