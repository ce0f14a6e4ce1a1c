"""Networks that a user changes or writes: frozen parameters, buffers, dropout, parts replaced, copies."""

import copy
import pickle
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

import envs.toy
from agents import MTSAC, MTTD3, load_actor, save_actor
from agents.device import compiled
from agents.networks.base import Stack, Torso
from agents.networks.conditionings import CONDITIONINGS
from agents.networks.layers import one_by_one
from agents.networks.policies import DeterministicPolicy, MultiTaskPolicy
from agents.networks.torsos import TORSOS
from tests.helpers import SMALL, toy_agent
from tests.traced_graphs import capture

KINDS = pytest.mark.parametrize("kind", [MTSAC, MTTD3])
SIZES = {"experts": 2, "embedding_size": 3, "goal_size": 2, "actor_module_width": 5, "critic_module_width": 4}


@pytest.fixture(autouse=True)
def mine():
    with mock.patch.dict(TORSOS):  # classes that are given add themselves
        yield


def targets_of(policy):
    return [(getattr(policy, name), getattr(policy, f"{name}_target")) for name in policy.followed]


def same(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class FrozenFirst(MultiTaskPolicy):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        for network in (self.actor, self.critic):
            network.torso[0].requires_grad_(False)


@KINDS
def test_frozen_parameters_stay_and_the_others_learn(kind):
    """While conflict is measured, and where the networks begin anew."""
    agent = toy_agent(kind=kind, log_conflicts=5, reset_at=(25,))
    networks = {name: network for name, network in agent.policy.named_children() if not name.endswith("_target")}
    for network in networks.values():
        network.torso[0].requires_grad_(False)
    before = copy.deepcopy(networks)
    agent.learn(2 * 40)
    assert np.isfinite(agent.metrics()["train/critic_curvature"])
    for name, network in networks.items():
        for ours, was in zip(network.parameters(), before[name].parameters(), strict=True):
            assert torch.equal(ours, was) != ours.requires_grad
        assert same(network.torso[0], getattr(agent.policy, f"{name}_target", network).torso[0])


def compiled_without_a_compiler(agent):
    agent.captured = agent.rounds._replay = compiled.CompiledUpdates(agent.rounds._update)
    return agent


@KINDS
def test_parameters_frozen_on_the_way_stay_and_learn_again(kind, monkeypatch):
    """Though a gradient of before is there, and a graph of updates that moved them."""
    monkeypatch.setattr(compiled, "compiled", lambda graph, inputs: graph)
    found = []
    for made in (lambda agent: agent, capture, compiled_without_a_compiler):
        agent = made(toy_agent(kind=kind, learning_rate=1e-3))
        parts = nn.ModuleList([agent.actor.torso[0], agent.critic.torso[0]])
        agent.learn(2 * 30)
        before = copy.deepcopy(parts)
        parts.requires_grad_(False)
        agent.learn(2 * 10, reset_num_timesteps=False)
        assert same(parts, before)
        parts.requires_grad_(True)
        agent.learn(2 * 10, reset_num_timesteps=False)
        assert not any(map(torch.equal, parts.parameters(), before.parameters()))
        assert agent.captured is None or not agent.captured.replays.refused
        found.append(nn.utils.parameters_to_vector(agent.policy.parameters()))
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], found[2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("aggregator", ["mocograd", "db_mtl"])
def test_a_state_as_long_as_the_gradient_leaves_frozen_parameters_out(aggregator):
    env = envs.toy.make(num_tasks=2, seed=0)
    settings = {"learning_starts": 40, "batch_size": 8, "policy_kwargs": SMALL, "seed": 0, "device": "cpu"}
    both = {"aggregator": "mocograd", "critic_aggregator": aggregator}
    agent = MTSAC(FrozenFirst, env, **both, **settings)
    agent.learn(2 * 25)
    agent.critic.torso[2].requires_grad_(False)
    with pytest.raises(ValueError, match=r"was reset for \d+ parameters and found \d+: .* Call reset"):
        agent.learn(2 * 25)
    agent.update.reset_aggregators()
    agent.learn(2 * 25)


class Centred(Torso):
    """It keeps a mean of what it was trained on."""

    mean: torch.Tensor

    def __init__(self, inputs, width):
        super().__init__()
        self.out_features = width
        self.linear = inputs.linear(inputs.features, width)
        self.register_buffer("mean", torch.zeros(inputs.features))

    def forward(self, features, task):
        if self.training and torch.is_grad_enabled():
            self.mean.lerp_(features.detach().flatten(0, -2).mean(0), 0.1)
        return self.linear(features - self.mean).relu()


@KINDS
def test_target_networks_have_the_buffers_of_their_own(kind):
    agent = toy_agent(kind=kind, policy_kwargs={**SMALL, "actor_torso": Centred, "critic_torso": Centred})
    agent.learn(2 * 40)
    for network, target in targets_of(agent.policy):
        assert network.torso.mean.any()
        assert torch.equal(network.torso.mean, target.torso.mean)


@KINDS
def test_target_networks_stay_in_evaluation_mode(kind):
    """As those of Stable-Baselines3."""
    agent = toy_agent(kind=kind)
    for learned in range(2):
        for network, target in targets_of(agent.policy):
            assert network.training
            assert not any(module.training for module in target.modules()), learned
        agent.learn(2 * 25)


@KINDS
def test_target_networks_begin_as_their_own_also_where_parts_are_replaced(kind):
    class Replaced(kind.policy_aliases["MlpPolicy"]):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            for name in self.followed:
                for network in (getattr(self, name), getattr(self, f"{name}_target")):
                    network.torso = Stack(nn.ReLU(), copy.deepcopy(network.torso))
                    nn.init.normal_(next(network.torso.parameters()))
            self.make_optimizers(args[2])

    env = envs.toy.make(num_tasks=2, seed=0)
    settings = {"learning_starts": 40, "policy_kwargs": SMALL, "seed": 0, "device": "cpu"}
    agent = kind(Replaced, env, "mean", reset_at=(30,), **settings)
    for network, target in targets_of(agent.policy):
        assert same(network, target)
        assert not any(p.requires_grad for p in target.parameters())
    agent.rounds.begin(30, 0, agent._restart_networks)
    assert all(same(*pair) for pair in targets_of(agent.policy))


def test_an_actor_that_its_target_cannot_follow_is_refused():
    class Another(DeterministicPolicy):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.actor.torso = Stack(nn.Linear(4, 16))
            self.make_optimizers(args[2])

    with pytest.raises(ValueError, match=r"same parameters in actor and actor_target of Another; .*torso.* in both"):
        MTTD3(Another, envs.toy.make(num_tasks=2, seed=0), policy_kwargs=SMALL, device="cpu")


class Gain(nn.Module):
    block_gradients = one_by_one

    def __init__(self, inputs):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(*inputs.members, 1, inputs.features))

    def forward(self, x):
        return x * self.gain

    def after_step(self):
        self.gain.clamp_(min=1.0)


class Plain(nn.Module):
    """Nothing of ours is inherited."""

    def __init__(self, inputs, width):
        super().__init__()
        self.out_features = width
        self.gain, self.linear = Gain(inputs), inputs.linear(inputs.features, width)

    def forward(self, features, task):
        return self.linear(self.gain(features)).relu()

    def task_parameters(self):
        return []


def test_a_layer_brings_its_parameters_back_in_place_after_a_step():
    agent = toy_agent(policy_kwargs={**SMALL, "actor_torso": Plain})
    agent.learn(2 * 40)
    gain = agent.actor.torso.gain.gain
    assert (gain >= 1).all()
    assert (gain > 1).any()


def test_a_torso_with_nothing_inherited_goes_with_a_limit_of_the_loss():
    form = {**SMALL, "actor_torso": "paco", "critic_torso": Plain, "experts": 2}
    toy_agent(policy_kwargs=form, loss_limit=0.1).learn(2 * 25)
    with pytest.raises(ValueError, match="loss_limit: expected 0, as no task can begin anew in Mlp and Plain"):
        toy_agent(policy_kwargs={**SMALL, "critic_torso": Plain}, loss_limit=1.0)


@pytest.mark.parametrize(
    "form",
    [*({"actor_torso": name, "critic_torso": name} for name in TORSOS), *({"conditioning": c} for c in CONDITIONINGS)],
    ids=lambda form: "-".join(dict.fromkeys(form.values())),
)
def test_copies_of_a_policy_act_as_it_does(form):
    agent = toy_agent(policy_kwargs={**SMALL, **SIZES, **form})
    rows = np.concatenate([np.random.default_rng(0).normal(size=(2, 2)), np.eye(2)], 1).astype(np.float32)
    expected = agent.policy.predict(rows, deterministic=True)[0]
    for other in (copy.deepcopy(agent.policy), pickle.loads(pickle.dumps(agent.policy))):
        assert np.array_equal(other.predict(rows, deterministic=True)[0], expected)
        (group,) = other.actor.optimizer.param_groups
        assert all(a is b for a, b in zip(group["params"], other.actor.parameters(), strict=True))


def replaced(change, kind=MTSAC):
    """An agent whose policy changes its actor after it is made."""

    class Changed(kind.policy_aliases["MlpPolicy"]):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            change(self.actor)
            if "actor" in self.followed:
                change(self.actor_target)
            self.make_optimizers(args[2])

    settings = {"learning_starts": 40, "policy_kwargs": SMALL, "seed": 0, "device": "cpu"}
    return kind(Changed, envs.toy.make(num_tasks=2, seed=0), "mean", **settings)


def tanh(actor):
    actor.torso[1] = nn.Tanh()


def longer_head(actor):
    actor.head = nn.Sequential(nn.Linear(16, 16), actor.head)


def narrower_spread(actor):
    if hasattr(actor, "_log_std_limits"):
        actor._log_std_limits = -5.0, -4.0
    else:
        actor._exploration_noise = 0.7


@KINDS
@pytest.mark.parametrize("change", [tanh, longer_head, narrower_spread])
def test_no_actor_is_shared_that_a_file_would_not_tell(kind, change, tmp_path):
    with pytest.raises(
        ValueError, match=r"this package's parts; found parts that Changed has replaced, and files hold"
    ):
        save_actor(replaced(change, kind), tmp_path / "actor")
    assert not list(tmp_path.iterdir())


@KINDS
@pytest.mark.parametrize("change", [lambda actor: nn.init.normal_(actor.head.weight), lambda actor: actor.double()])
def test_an_actor_is_shared_where_a_policy_changes_numbers_alone(kind, change, tmp_path):
    agent = replaced(change, kind)
    before = torch.get_rng_state()
    save_actor(agent, tmp_path / "actor")
    assert torch.equal(torch.get_rng_state(), before)
    rows = np.random.default_rng(0).normal(size=(2, 2))
    rows = np.concatenate([rows, np.eye(2)], 1).astype(np.float32)
    acted = load_actor(tmp_path / "actor", "cpu").predict(rows, deterministic=True)[0]
    assert np.array_equal(acted, agent.predict(rows, deterministic=True)[0])
