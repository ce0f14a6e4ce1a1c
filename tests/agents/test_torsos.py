"""Torsos of a user's own: what they must say, what they get, and what is refused before training."""

import warnings
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

import mtrl
from agents import MTSAC, StateFileError, load_actor, save_actor
from agents.networks.base import Inputs, Stack, Torso
from agents.networks.layers import TaskVectors, one_by_one
from agents.networks.torsos import TORSOS
from mtrl.testing import check_tape
from tests.helpers import SMALL, toy_agent
from tests.small_policies import B, T, actor_losses, critic_losses, make_policy


class Gated(nn.Module):
    """Nothing of ours is inherited: two methods and the number of units."""

    def __init__(self, inputs: Inputs, width: int, layer_norm: bool):
        super().__init__()
        self.out_features, self.layer_norm = width, layer_norm
        self.hidden = inputs.first(inputs.linear(inputs.features, width))
        self.gates = TaskVectors(inputs.num_tasks, width, inputs.members)

    def forward(self, features, task):
        return (self.hidden(features) * self.gates(task, features.shape[-2])).relu()

    def task_parameters(self):
        return self.gates.task_parameters()


class Scale(nn.Module):
    """A layer without a rule."""

    def __init__(self, width: int):
        super().__init__()
        self.gain, self.offset = nn.Parameter(torch.rand(width)), nn.Parameter(torch.rand(width))

    def forward(self, x):
        return x.square() * self.gain + self.offset


class RuledScale(Scale):
    block_gradients = one_by_one


class Scaled(Torso):
    scale = Scale

    def __init__(self, inputs: Inputs, width: int):
        super().__init__()
        self.out_features = width
        self.layers = nn.Sequential(inputs.linear(inputs.features, width), self.scale(width))

    def forward(self, features, task):
        return self.layers(features)


class RuledScaled(Scaled):
    scale = RuledScale


@pytest.fixture(autouse=True)
def mine():
    with mock.patch.dict(TORSOS, {"mine": Gated}):  # classes that are given add themselves
        yield "mine"


@pytest.mark.parametrize("torso", [Gated, RuledScaled])
@pytest.mark.parametrize("form", [{}, {"multi_head": True, "n_critics": 1, "critic_head": "c51"}], ids=str)
def test_both_routes_agree(torso, form):
    policy = make_policy(actor_torso=torso, critic_torso=torso, **form)
    for network, losses_of in ((policy.actor, actor_losses), (policy.critic, critic_losses)):
        check_tape(network, T, lambda losses_of=losses_of: losses_of(policy), network.task_parameters())


def test_a_torso_gets_the_settings_that_its_constructor_names(mine):
    policy = make_policy(actor_torso=mine, critic_torso=mine, actor_layer_norm=True)
    assert (policy.actor.torso.out_features, policy.critic.torso.out_features) == (8, 6)
    assert (policy.actor.torso.layer_norm, policy.critic.torso.layer_norm) == (True, False)
    assert policy.settings.actor_torso == mine
    assert policy.actor.task_parameters() == [policy.actor.torso.gates.table]


@pytest.mark.parametrize("conditioning", ["one-hot", "own-columns", "embedding"])
def test_a_torso_goes_with_every_conditioning(mine, conditioning):
    agent = toy_agent(policy_kwargs={**SMALL, "actor_torso": mine, "conditioning": conditioning})
    start = [p.clone() for p in agent.actor.parameters()]
    agent.learn(2 * 22)
    assert all((p != before).any() for p, before in zip(agent.actor.parameters(), start, strict=True))


def test_a_saved_agent_names_its_torso_and_asks_for_it(mine, tmp_path):
    agent = toy_agent(policy_kwargs={**SMALL, "actor_torso": mine, "critic_torso": RuledScaled})
    agent.learn(2 * 22)
    agent.save(tmp_path / "agent")
    observations = np.concatenate([np.ones((2, 2)), np.eye(2)], 1)
    actions = agent.predict(observations, deterministic=True)[0]
    assert np.array_equal(MTSAC.load(tmp_path / "agent").predict(observations, deterministic=True)[0], actions)
    del TORSOS[mine]
    with pytest.raises(StateFileError, match="saved with the actor_torso mine, and files hold no code"):
        MTSAC.load(tmp_path / "agent")
    loaded = MTSAC.load(tmp_path / "agent", policy_kwargs={"actor_torso": Gated})
    assert np.array_equal(loaded.predict(observations, deterministic=True)[0], actions)
    assert TORSOS.keys() >= {f"{__name__}:Gated", f"{__name__}:RuledScaled"}


def test_an_actors_file_asks_for_the_actors_torso_and_for_no_other(mine, tmp_path):
    agent = toy_agent(policy_kwargs={**SMALL, "critic_torso": RuledScaled})
    other = toy_agent(policy_kwargs={**SMALL, "actor_torso": mine})
    for name, each in (("agent", agent), ("other", other)):
        save_actor(each, tmp_path / name)
    for name in (mine, f"{__name__}:RuledScaled"):
        del TORSOS[name]
    rows = np.concatenate([np.ones((2, 2)), np.eye(2)], 1)
    acted = load_actor(tmp_path / "agent", "cpu").predict(rows, deterministic=True)[0]
    assert np.array_equal(acted, agent.predict(rows, deterministic=True)[0])
    with pytest.raises(StateFileError, match="saved with the actor_torso mine, and files hold no code: add that class"):
        load_actor(tmp_path / "other")


def test_a_layer_without_a_rule_is_refused_before_training():
    with pytest.raises(ValueError, match=r"Scaled as critic's torso: layer 'torso\.layers\.1' \(Scale\).*one_by_one"):
        toy_agent(policy_kwargs={**SMALL, "critic_torso": Scaled})


def test_a_torso_that_knows_no_task_is_refused():
    class Blind(Stack):
        def __init__(self, inputs: Inputs, width: int):
            super().__init__(inputs.linear(inputs.features, width))
            self.out_features = width

        def forward(self, features):
            return super().forward(features)

    with pytest.raises(ValueError, match=r"Blind as actor's torso:.*forward\(features, task\)"):
        toy_agent(policy_kwargs={**SMALL, "actor_torso": Blind})


def test_own_columns_need_a_first_layer_that_has_them():
    with pytest.raises(ValueError, match=r"conditioning='own-columns' needs a torso whose first layer .* Scaled has"):
        make_policy(actor_torso=Scaled, conditioning="own-columns")


def test_one_by_one_follows_autocast():
    layer = RuledScale(5)
    x, dy = torch.randn(T * B, 5), torch.randn(T * B, 5)
    exact = one_by_one(layer, x, dy, T)
    rounded = one_by_one(layer, x.bfloat16(), dy.bfloat16(), T)
    for name, gradients in exact.items():
        assert gradients.shape == (T, 5)
        torch.testing.assert_close(rounded[name], gradients, rtol=0.05, atol=0.05)
    with mtrl.record(layer, T) as tape:
        losses = (layer(x) * dy).sum(1).unflatten(0, (T, B)).sum(1)
    mtrl.backward(losses, mtrl.Mean(reduction="sum"), tape=tape)
    torch.testing.assert_close(layer.gain.grad, exact["gain"].sum(0))


@pytest.mark.parametrize("name", sorted(TORSOS))
def test_layer_norm_is_there_or_a_warning_says_that_it_is_not(name):
    form = {"actor_torso": name, "critic_torso": name, "actor_layer_norm": True, "experts": 2}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        agent = toy_agent(policy_kwargs={**SMALL, **form})
    normed = name == "simba-v2" or any(isinstance(layer, nn.LayerNorm) for layer in agent.actor.modules())
    expected = [] if normed else [f"actor_layer_norm has no effect on {name}, which has no such layers: leave it out."]
    assert [str(each.message) for each in told if issubclass(each.category, UserWarning)] == expected
