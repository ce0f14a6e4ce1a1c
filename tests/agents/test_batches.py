"""Aggregators that want two independent batches, and those that take no negative loss, in an agent."""

import copy

import numpy as np
import pytest
import torch

import mtrl
from agents import MTSAC
from agents.learning import batches
from agents.learning.update import Batch, Turn
from tests.helpers import EVERYTHING, SMALL, tensors, toy_agent


def test_rows_are_dealt_out_in_turn_within_their_task():
    sample = Batch(*(torch.arange(12.0).view(12, 1) for _ in range(5)))
    dealt = batches.deal(sample, num_tasks=2, batches=2)
    assert dealt.rewards.flatten().tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    assert dealt.discounts is None
    assert batches.deal(sample, 2, 1) is sample
    rows = torch.rand(3, 2, 6)
    assert torch.equal(batches.mean(rows, 1), rows.mean(-1))
    torch.testing.assert_close(batches.mean(rows, 2), rows.view(3, 4, 3).mean(-1))
    weighted = batches.weighted(torch.ones(4), torch.tensor([1.0, 3.0]))
    assert weighted.tolist() == [1, 1, 3, 3]
    assert batches.of_tasks(torch.tensor([1.0, 3.0, 5.0, 5.0]), 2).tolist() == [2, 5]


class Watching(mtrl.PCGrad):
    """Asks for two batches, and keeps what it sees."""

    wanted_batches = 2

    def weights(self, gramian, losses):
        self.seen = gramian, losses
        return self.reduce(torch.eye(len(gramian), dtype=gramian.dtype))


def test_the_critic_s_two_batches_are_halves_of_its_rows():
    """Their mean is the plain update, and the actor beside it keeps whole batches."""
    agent = toy_agent(aggregator="mean", critic_aggregator=Watching(), log_conflicts=1)
    agent.learn(2 * 22)
    assert (agent.aggregator.batches, agent.critic_aggregator.batches) == (1, 2)
    batch, twin = Batch(*agent.replay_buffer.sample(8)), copy.deepcopy(agent.update)
    twin.aggregators["critic"] = mtrl.Mean()
    updates = []
    for update in (agent.update, twin):
        torch.manual_seed(3)
        report = update.update(batch, Turn(actor=True, target=True), measure=True)
        updates.append(
            [report.numbers["critic_loss"], report.measured["critic_cosines"].float(), *update.critic.parameters()]
        )
    for ours, theirs in zip(*updates, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    gramian, losses = agent.critic_aggregator.seen
    assert gramian.shape == (4, 4)
    torch.testing.assert_close(losses.view(2, 2).mean(1), updates[0][0])
    assert len(set(losses.tolist())) == 4


@pytest.mark.parametrize("name", ["sdmgrad", "modo", "smoothed:modo"])
def test_an_agent_of_two_batches_learns_and_resumes_bit_for_bit(name, tmp_path):
    settings = {**EVERYTHING, "aggregator": "pcgrad", "critic_aggregator": name, "loss_weighting": "temperature"}
    agent = toy_agent(**settings)
    agent.learn(2 * 40)
    agent.save(tmp_path / "agent.zip")
    agent.save_replay_buffer(tmp_path / "buffer")
    restored = MTSAC.load(tmp_path / "agent.zip", env=agent.get_env())
    restored.load_replay_buffer(tmp_path / "buffer")
    assert restored.critic_aggregator.batches == 2
    state = torch.get_rng_state()
    for each in (agent, restored):
        torch.set_rng_state(state)
        for _ in range(4):
            each.update.update(Batch(*each.replay_buffer.sample(8)), Turn(actor=True, target=True))
    ours, theirs = (tensors([a.policy.state_dict(), a.critic_aggregator.state_dict()]) for a in (agent, restored))
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not np.allclose(ours[-1], 0.5)  # its weights moved


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"aggregator": "sdmgrad", "batch_size": 7}, "expected a batch_size that is a multiple of 2; found 7"),
        ({"critic_aggregator": "modo", "batch_size": 1}, "expected a batch_size that is a multiple of 2; found 1"),
        ({"aggregator": "modo", "buffer_size": 6}, "expected a buffer_size of at least as many, .* found 6"),
        ({"aggregator": "db_mtl"}, "expected one for losses of any sign, .* found DBMTL"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_with_the_reason(settings, message):
    with pytest.raises(ValueError, match=message):
        toy_agent(**settings)


@pytest.mark.parametrize("name", ["db_mtl", "conicgrad", "gradvac"])
def test_methods_with_a_memory_learn_and_resume_bit_for_bit(name, tmp_path):
    options = {"per_parameter": True} if name == "gradvac" else {}
    networks = {**SMALL, "n_critics": 3, "multi_head": True, "conditioning": "own-columns"}
    agent = toy_agent(
        aggregator="mean", critic_aggregator=name, critic_aggregator_kwargs=options, policy_kwargs=networks
    )
    agent.learn(2 * 30)
    agent.save(tmp_path / "agent.zip")
    restored = MTSAC.load(tmp_path / "agent.zip")
    found, expected = (a.critic_aggregator.state_dict() for a in (restored, agent))
    assert all(np.array_equal(a, b) for a, b in zip(tensors(found), tensors(expected), strict=True))
    assert any(np.abs(array).max() > 0 for array in tensors(expected))


@pytest.mark.parametrize("name", ["modo", "smoothed:sdmgrad"])
def test_batches_of_one_episode_are_not_independent(name):
    with pytest.raises(ValueError, match="2 independent batches, and with episode_batches they are of one episode"):
        toy_agent(aggregator="mean", critic_aggregator=name, episode_batches=True)


def test_rows_that_come_last_are_dealt_out_evenly_where_they_can_be():
    for high, expected in ((2, [1, 1]), (4, [2, 2]), (3, [1, 2])):
        rows = (torch.arange(12) >= 12 - high).float().repeat(2).unsqueeze(1)
        dealt = batches.deal(Batch(*(rows for _ in range(5))), num_tasks=2, batches=2)
        assert dealt.rewards.view(2, 2, 6).sum(-1).tolist() == [expected] * 2
