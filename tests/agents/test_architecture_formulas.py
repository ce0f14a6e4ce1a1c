"""What each architecture computes, against its formula written plainly, one critic and one task at a time."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.helpers import SMALL, toy_agent
from tests.small_policies import OBS, B, T, batch, make_policy


def rows_of(policy):
    """What the critics' torso sees, for each critic; and the one-hots."""
    observations, actions = batch()
    inputs = policy.critic.embedding(observations, actions)
    return inputs, observations[:, -T:]


def torso_of(name, **form):
    policy = make_policy(**{"critic_torso": name, "experts": 2, **form})
    return policy.critic.torso, *rows_of(policy)


def stack(experts, which, x):
    """Expert `which`, counted through all critics."""
    layers = [layer for layer in experts.layers if not isinstance(layer, nn.ReLU)]
    for number, layer in enumerate(layers):
        x = x @ layer.weight[which] + layer.bias[which]
        x = x.relu() if number < len(layers) - 1 else x
    return x


def test_moe_and_mmoe_mix_their_experts():
    torso, x, one_hot = torso_of("moe", experts=3)
    gated, _, _ = torso_of("mmoe", experts=3)
    for member in range(2):
        outputs = [stack(torso.experts, 3 * member + k, x[member]) for k in range(3)]
        weights = one_hot @ torso.weights.table[member]
        expected = sum(weights[:, [k]] * output for k, output in enumerate(outputs)).tanh()
        torch.testing.assert_close(torso(x, None)[member], expected)
        outputs = [stack(gated.experts, 3 * member + k, x[member]).relu() for k in range(3)]
        for task, rows in enumerate(x[member].chunk(T)):
            gate = (rows @ gated.gates.weight[member, task] + gated.gates.bias[member, task]).softmax(-1)
            expected = sum(gate[:, [k]] * output.chunk(T)[task] for k, output in enumerate(outputs))
            torch.testing.assert_close(gated(x, None)[member].chunk(T)[task], expected)


def test_moores_experts_are_orthonormal_and_span_what_they_did():
    """The QR decomposition is Gram-Schmidt, up to signs."""
    torso, x, one_hot = torso_of("moore", experts=4)
    found = torso.representations(x).transpose(1, 2)  # (critics, rows, K, width)
    torch.testing.assert_close(found @ found.mT, torch.eye(4).double().expand(2, T * B, 4, 4))
    q, r = torch.linalg.qr(torso.experts(x).transpose(1, 2).mT)
    torch.testing.assert_close(found, (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).mT)
    weights = one_hot @ torso.weights.table
    torch.testing.assert_close(torso(x, one_hot), (weights.unsqueeze(-2) @ found).squeeze(-2).tanh())


def test_pacos_tasks_have_layers_composed_of_the_sets():
    torso, x, _ = torso_of("paco", experts=3)
    torch.testing.assert_close(torso.mix.table.norm(dim=-1), torch.ones(2, T).double())
    for member in range(2):
        for task, rows in enumerate(x[member].chunk(T)):
            expected = rows
            for layer in torso.sets:
                sets = zip(torso.mix.table[member, task], layer.weight[member], strict=True)
                weight = sum(share * one for share, one in sets)
                expected = F.linear(expected, weight[:-1].T, weight[-1]).relu()
            torch.testing.assert_close(torso(x, None)[member].chunk(T)[task], expected)


def test_a_simba_adds_to_its_stream():
    torso, x, _ = torso_of("simba")

    def norm(x):
        return F.layer_norm(x, x.shape[-1:])

    for member in range(2):

        def linear(layer, x, member=member):
            return x @ layer.weight[member] + layer.bias[member]

        stream = linear(torso[0], x[member])
        for block in list(torso)[1:-1]:
            stream = stream + linear(block.inner[3], linear(block.inner[1], norm(stream)).relu())
        torch.testing.assert_close(torso(x)[member], norm(stream))
    assert torso[1].inner[1].weight.shape == (2, 6, 24)


def test_a_simba_v2_moves_on_the_sphere():
    torso, x, _ = torso_of("simba-v2", depth=2)

    def unit(x):
        return x / x.norm(dim=-1, keepdim=True)

    for member in range(2):
        stream = unit(torch.cat([x[member], torch.full((T * B, 1), 3.0).double()], 1))
        stream = unit((2 / 6) ** 0.5 * stream @ torso.first.weight[member])
        for block in torso.blocks:
            inner = ((2 / 24) ** 0.5 * stream @ block.up.weight[member]).relu()
            stream = unit(stream + (unit(inner @ block.down.weight[member]) - stream) / 3)
        torch.testing.assert_close(torso(x)[member], stream, rtol=1e-6, atol=1e-7)


def test_a_simba_v2s_weights_have_unit_length_after_every_step():
    agent = toy_agent(policy_kwargs={**SMALL, "actor_torso": "simba-v2", "critic_torso": "simba-v2"}, learning_rate=0.1)
    start = agent.actor.torso.first.weight.clone()
    agent.learn(2 * 23)
    assert (agent.actor.torso.first.weight != start).any()
    for torso in (agent.actor.torso, agent.critic.torso):
        for layer in (torso.first, torso.blocks[0].up, torso.blocks[1].down):
            lengths = layer.weight.norm(dim=-2)
            torch.testing.assert_close(lengths, torch.ones_like(lengths))


@pytest.mark.parametrize("name", ["film", "film-scalar"])
def test_film_scales_and_shifts_an_encoding(name):
    policy = make_policy(conditioning=name, embedding_size=7)
    film, (observations, _) = policy.actor.embedding, batch()
    assert film.inputs.features == 50 + 7
    x = observations[:, :OBS]
    for layer in film.layers:
        x = layer(x).relu()
    torch.testing.assert_close(film(observations)[:, :50], x)  # at first it does nothing
    numbers = nn.init.normal_(film.modulation.table).unflatten(-1, (3, 2, -1))
    assert numbers.shape == (T, 3, 2, 50 if name == "film" else 1)
    for task, rows in enumerate(observations[:, :OBS].chunk(T)):
        x = rows
        for layer, (gamma, beta) in zip(film.layers, numbers[task], strict=True):
            x = ((1 + gamma) * layer(x) + beta).relu()
        torch.testing.assert_close(film(observations).chunk(T)[task][:, :50], x)


def test_care_mixes_encoders_by_what_it_knows_of_the_task():
    policy = make_policy(conditioning="care", experts=3)
    care, (x, one_hot) = policy.critic.embedding, rows_of(make_policy())
    found = rows_of(policy)[0]
    plain = torch.cat([x[..., :OBS], x[..., OBS + T :]], -1)
    for member in range(2):

        def mlp(layers, x, member=member):
            for layer in layers:
                x = layer(x) if isinstance(layer, nn.ReLU) else x @ layer.weight[member] + layer.bias[member]
            return x

        context = mlp(care.context, care.table[member])
        weights = one_hot @ mlp(care.attention, context).softmax(-1)
        encoded = sum(weights[:, [k]] * stack(care.encoders, 3 * member + k, plain[member]) for k in range(3))
        torch.testing.assert_close(found[member], torch.cat([encoded, one_hot @ context], 1))


def test_cares_attention_does_not_move_what_it_looks_at():
    policy = make_policy(conditioning="care")
    encoded = rows_of(policy)[0][..., :50].square().sum()  # the mixture alone
    encoded.backward()
    care = policy.critic.embedding
    assert not care.table.grad.any()
    assert all((p.grad != 0).any() for p in care.attention.parameters())


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"actor_torso": "moore", "experts": 9}, "experts: expected at most 8, the width, .* found 9"),
        ({"critic_torso": "paco", "experts": 4}, "experts: expected at most 3, the number of tasks, .* found 4"),
        ({"conditioning": "care", "experts": 65}, "experts: expected 1 to 64; found 65"),
        ({"actor_torso": "mmoe", "critic_torso": "moe", "conditioning": "care"}, "has no effect on mmoe and moe"),
        ({"actor_torso": "moore", "conditioning": "care"}, "'care' is an architecture .* enters moore: take one"),
        ({"critic_torso": "ple", "conditioning": "film"}, "'film' is an architecture .* enters ple: take one"),
        ({"actor_torso": "simba-v2", "conditioning": "own-columns"}, "own-columns' needs a torso .* SimbaV2 has none"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(form, message):
    with pytest.raises(ValueError, match=message):
        make_policy(**form)


@pytest.mark.parametrize("form", [{"critic_torso": "paco"}, {"conditioning": "care"}], ids=str)
def test_two_gradients_of_a_task_need_layers_without_a_row_per_task(form):
    """SDMGrad and MoDo take them; these layers see a task once, and not in each of its batches."""
    with pytest.raises(
        ValueError, match=r"^(actor|critic)'s aggregator: expected .* sees each task once, .* Found: layer"
    ):
        toy_agent(aggregator="sdmgrad", policy_kwargs={**SMALL, "experts": 2, **form})
