"""PaCo's limit of the loss: who is masked, what begins anew, and that runs with it are saved, resumed and captured."""

import pytest
import torch

import envs.toy
from agents import MTSAC, MTTD3, load_checkpoint, save_checkpoint
from agents.learning.explosions import kept, set_back
from agents.learning.update import Batch, Turn
from agents.networks.paco import PaCo
from agents.saving.agent_file import training_state
from tests.helpers import SMALL, assert_same_tensors, toy_agent
from tests.small_policies import T, make_policy
from tests.traced_graphs import assert_captured_as_eager

PACO = {**SMALL, "actor_torso": "paco", "critic_torso": "paco", "experts": 2}
OFTEN = 0.6  # of toy losses: now and then a task's is beyond it


def agent_with(env=None, limit=OFTEN, **settings):
    return toy_agent(env, **{"policy_kwargs": PACO, "loss_limit": limit, **settings})


def test_a_task_beyond_the_limit_counts_nothing():
    losses = torch.tensor([1.0, 3000.0, 3001.0, torch.inf, torch.nan])
    assert kept(losses, 3000.0).tolist() == [1, 1, 0, 0, 0]
    assert kept(losses, 0.0) == 1.0


@pytest.mark.parametrize("beyond", [(1,), (0, 2), (0, 1, 2)], ids=str)
def test_its_vectors_become_a_mean_of_the_others(beyond):
    """Within their span, with shares from 0 to 1, and alike in all networks; where all are beyond it, nothing moves."""
    policy = make_policy(actor_torso="paco", critic_torso="paco", experts=2)
    networks = [policy.actor, policy.critic, policy.critic_target]
    before = [network.torso.mix.table.clone() for network in networks]
    losses = torch.ones(T)
    losses[[*beyond]] = 10.0
    set_back(networks, losses, 5.0)
    stay = [task for task in range(T) if task not in beyond] or list(range(T))
    shares = []
    for network, was in zip(networks, before, strict=True):
        table = network.torso.mix.table
        assert torch.equal(table[..., stay, :], was[..., stay, :])
        for task in set(beyond) - set(stay):
            others = was[..., stay, :].reshape(-1, len(stay), 2)
            found = table[..., task, :].reshape(-1, 2, 1)
            shares.append(torch.linalg.lstsq(others[0].T, found[0]).solution.flatten())
            torch.testing.assert_close(shares[0] @ others, found.squeeze(-1))
    if shares:
        assert (shares[0] > 0).all()
        torch.testing.assert_close(shares[0].sum(), torch.ones(()).double())


def update_of(agent, rewards):
    """One update with such rewards in the rows of each of two tasks."""
    torch.manual_seed(0)
    rows = torch.cat([torch.randn(16, 2), torch.eye(2).repeat_interleave(8, 0)], 1)
    rewards = torch.tensor(rewards).repeat_interleave(8).unsqueeze(1)
    batch = Batch(rows, torch.zeros(16, 2), rows, torch.zeros(16, 1), rewards)
    return agent.update.update(batch, Turn(actor=True, target=True)).numbers["critic_loss"]


@pytest.mark.parametrize("kind", [MTSAC, MTTD3])
def test_an_exploded_task_moves_nothing_and_begins_anew_as_the_other(kind):
    agent = agent_with(limit=1e5, aggregator="mean", kind=kind)
    first, second = update_of(agent, [0.0, 1e4])
    assert first < 1e5 < second
    for network in (agent.actor, agent.critic):
        table = network.torso.mix.table
        assert torch.equal(table[..., 0, :], table[..., 1, :])
        assert not table.grad[..., 1, :].any()
        assert table.grad[..., 0, :].any()
    alone = agent_with(limit=0.0, aggregator="mean", kind=kind)
    alone.update.loss_weights = lambda _: torch.tensor([1.0, 0.0])  # SAC's
    if kind is MTSAC:
        update_of(alone, [0.0, 1e4])
        for ours, expected in zip(agent.critic.shared_parameters(), alone.critic.shared_parameters(), strict=True):
            assert torch.equal(ours, expected)


@pytest.mark.parametrize("kind", [MTSAC, MTTD3])
def test_a_limit_that_is_not_reached_changes_nothing(kind):
    with_it, without = (agent_with(limit=limit, kind=kind) for limit in (1e5, 0.0))
    for agent in (with_it, without):
        update_of(agent, [0.0, 1.0])
    assert all(torch.equal(a, b) for a, b in zip(with_it.policy.parameters(), without.policy.parameters(), strict=True))


def test_a_resumed_agent_goes_on_bit_for_bit(tmp_path, monkeypatch):
    whole, plain, happened = agent_with(), PaCo.set_back, []
    with monkeypatch.context() as patched:
        patched.setattr(PaCo, "set_back", lambda *given: (happened.append(bool(given[1].any())), plain(*given)))
        whole.learn(2 * 30)
    assert {*happened} == {True, False}
    env = envs.toy.make(num_tasks=2, seed=0)
    agent = agent_with(env)
    agent.learn(2 * 25)
    path = save_checkpoint(tmp_path, agent, env)
    env = envs.toy.make(num_tasks=2, seed=0)
    resumed = load_checkpoint(path, env, device="cpu")
    assert resumed.settings.loss_limit == OFTEN
    resumed.learn(2 * 5, reset_num_timesteps=False)
    assert_same_tensors(training_state(whole), training_state(resumed))


def test_a_captured_update_is_the_eager_one():
    settings = {"aggregator": "pcgrad", "policy_kwargs": PACO, "loss_limit": OFTEN}
    assert_captured_as_eager(steps=26, **settings)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (SMALL, "loss_limit: expected 0, as no task can begin anew in Mlp; a limit is for paco; found 5.0"),
        ({**SMALL, "actor_torso": "moe"}, "in MixtureOfExperts and Mlp; a limit"),
    ],
    ids=["plain", "moe"],
)
def test_a_limit_is_for_networks_with_something_of_a_single_task(form, message):
    with pytest.raises(ValueError, match=message):
        agent_with(limit=5.0, policy_kwargs=form)


@pytest.mark.parametrize("name", ["mgda", "famo", "smoothed:mgda", "uncertainty:mgda"])
def test_no_method_that_a_masked_task_stops_goes_with_a_limit(name):
    toy_agent(policy_kwargs=PACO, aggregator="mean", critic_aggregator=name)
    with pytest.raises(ValueError, match=r"loss_limit: expected 0 .*(MGDA|FAMO) stops all tasks; found a limit"):
        agent_with(aggregator="mean", critic_aggregator=name)


def test_the_actors_method_goes_with_the_limit_too():
    with pytest.raises(ValueError, match="MGDA stops all tasks"):
        agent_with(aggregator="mgda", critic_aggregator="mean")
    agent_with(aggregator="pcgrad")
