"""Divisors per task on streams whose returns are known, and PopArt's promise: no value changes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import envs.toy
from agents.learning.returns import RETURN_SCALES, largest_return
from agents.learning.update import Batch
from tests.helpers import SMALL, tensors, toy_agent
from tests.odd_tasks import Countdown

GAMMA, V_MAX, TARGET_ENTROPY = 0.9, 10.0, -2.0
ALPHA = torch.tensor([0.1, 0.0])


def scale_of(kind, columns=2, tasks=2):
    return RETURN_SCALES[kind](tasks, columns, GAMMA, V_MAX, TARGET_ENTROPY, torch.device("cpu"))


def adapt(scale, target, *critics):
    """As an update does."""
    returns = scale.denormalise(target)
    scale.observe_targets(returns, *critics)
    return scale.normalise(returns).to(target.dtype)


def slow_returns(rewards, gamma, truncated):
    tail = np.mean(rewards) / (1 - gamma) if truncated else 0.0
    length = len(rewards)
    return [
        sum(gamma ** (k - t) * rewards[k] for k in range(t, length)) + gamma ** (length - t) * tail
        for t in range(length)
    ]


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=12), st.booleans())
def test_the_largest_return_of_an_episode(rewards, truncated):
    expected = max(abs(g) for g in slow_returns(rewards, GAMMA, truncated))
    assert largest_return(rewards, GAMMA, truncated) == pytest.approx(expected, abs=1e-9)


def stream(scale, episodes, truncated, seed=0):
    """Play random episodes of lengths 1 to 6 in every column, side by side; returns the rewards of each by column."""
    rng = np.random.default_rng(seed)
    size = scale.columns
    kept, running = [[] for _ in range(size)], [[] for _ in range(size)]
    while min(map(len, kept)) < episodes:
        rewards = rng.normal(size=size) * np.where(np.arange(size) % scale.num_tasks == 0, 1.0, 50.0)
        dones = rng.random(size) < 0.3
        scale.observe(rewards.astype(np.float32), dones, [{"TimeLimit.truncated": truncated}] * size)
        for column in range(size):
            running[column].append(float(np.float32(rewards[column])))
            if dones[column]:
                kept[column].append(running[column])
                running[column] = []
    return kept


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("columns", [2, 6])
def test_brc_divides_by_the_extreme_return_of_each_task(columns, truncated):
    scale = scale_of("brc", columns)
    kept = stream(scale, 4, truncated)
    for task in range(2):
        found = [
            abs(g)
            for column in range(task, columns, 2)
            for episode in kept[column]
            for g in slow_returns(episode, GAMMA, truncated)
        ]
        entropy = -float(ALPHA[task]) / (1 - GAMMA) * TARGET_ENTROPY / 2
        expected = (max(found) + entropy) / V_MAX
        assert float(scale.divisor(ALPHA)[task]) == pytest.approx(expected, rel=1e-5)


def test_until_an_episode_has_ended_brc_takes_the_bound_of_what_it_saw():
    scale = scale_of("brc")
    scale.observe(np.array([1.0, -3.0]), np.zeros(2, bool), [{}, {}])
    torch.testing.assert_close(scale.scale, torch.tensor([10.0, 30.0]))
    scale.observe(np.array([0.5, 0.0]), np.array([True, False]), [{}, {}])
    torch.testing.assert_close(scale.scale, torch.tensor([1.0 + 0.9 * 0.5, 30.0]))  # the episode's own from here on


def test_reward_std_is_that_of_the_stored_rewards():
    rewards = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32) * [1.0, 30.0]
    scale = scale_of("reward-std")
    scale.refresh(torch.as_tensor(rewards))
    np.testing.assert_allclose(scale.divisor(ALPHA), rewards.std(0), rtol=1e-6)
    scale.refresh(torch.ones(5, 2))  # nothing to measure: no division by zero
    np.testing.assert_allclose(scale.divisor(ALPHA), rewards.std(0), rtol=1e-6)


def test_popart_normalises_its_targets_and_changes_no_value():
    agent = toy_agent(return_scale="popart", policy_kwargs={**SMALL, "multi_head": True})
    agent.learn(2 * 60)
    batch = agent.replay_buffer.sample(16)
    scale, critics = agent.return_scale, (agent.critic, agent.critic_target)

    def values():
        by_task = [c.outputs(batch.observations, batch.actions, blocks=True).unflatten(1, (2, -1)) for c in critics]
        return [(q + scale.shift.view(2, 1, 1)) * scale.scale.view(2, 1, 1) for q in by_task]

    with torch.no_grad():
        before, stats = values(), scale.scale.clone()
        raw = torch.randn(2, 16, 1) * torch.tensor([3.0, 70.0]).view(2, 1, 1) + 20
        old = raw / scale.scale.view(2, 1, 1) - scale.shift.view(2, 1, 1)
        new = adapt(scale, old, *critics)
        assert not torch.equal(stats, scale.scale)
        for q, was in zip(values(), before, strict=True):
            torch.testing.assert_close(q, was, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            (new + scale.shift.view(2, 1, 1)) * scale.scale.view(2, 1, 1), raw, rtol=1e-4, atol=1e-3
        )


def test_popart_statistics_are_unbiased_averages():
    scale = scale_of("popart")
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(400, 2, 32, 1, generator=generator) * 5 + torch.tensor([1.0, -40.0]).view(2, 1, 1)
    for y in raw:
        target = adapt(scale, y / scale.scale.view(2, 1, 1) - scale.shift.view(2, 1, 1))
    np.testing.assert_allclose(scale.scale, [5, 5], rtol=0.05)
    np.testing.assert_allclose(scale.shift * scale.scale, [1, -40], atol=0.2)
    torch.testing.assert_close(target.mean((1, 2)), torch.zeros(2), rtol=0, atol=0.6)
    torch.testing.assert_close(target.std((1, 2)), torch.ones(2), rtol=0, atol=0.4)


@pytest.mark.parametrize("kind", RETURN_SCALES)
def test_the_losses_see_rewards_divided_and_the_buffer_raw_ones(kind):
    agent = toy_agent(return_scale=kind, policy_kwargs={**SMALL, "multi_head": True})
    agent.learn(2 * 30)
    assert agent._n_updates > 0
    batch = Batch(*agent.replay_buffer.sample(4))
    batch = batch._replace(dones=torch.ones_like(batch.dones))  # nothing but the reward
    assert (batch.rewards < 0).all()
    assert batch.rewards.min() < -0.5  # as the environment pays: minus the distance
    shift = 0.0 if agent.return_scale.shift is None else agent.return_scale.shift.unsqueeze(1)
    divisor = agent.return_scale.divisor(ALPHA)
    target = agent.update.target(batch, ALPHA).squeeze(-1)
    torch.testing.assert_close((target + shift) * divisor.unsqueeze(1), batch.rewards.view(2, 4), rtol=1e-4, atol=1e-4)
    assert torch.equal(divisor, torch.ones(2)) == (kind == "none")
    assert ("train/return_scale" in agent.metrics()) == (kind != "none")


@pytest.mark.parametrize("kind", RETURN_SCALES)
def test_a_saved_scale_goes_on_exactly(kind):
    def live(scale, seed):
        stream(scale, 2, True, seed)
        generator = torch.Generator().manual_seed(seed)
        scale.refresh(torch.randn(20, 2, generator=generator) * torch.tensor([1.0, 50.0]))
        return adapt(scale, torch.randn(2, 8, 1, generator=generator) + 3)

    first, second = scale_of(kind), scale_of(kind)
    live(first, 0)
    assert torch.equal(first.divisor(ALPHA), torch.ones(2)) == (kind == "none")
    second.load_state_dict(first.state_dict())
    assert torch.equal(live(first, 1), live(second, 1))
    pairs = zip(tensors(first.state_dict()), tensors(second.state_dict()), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_an_episode_that_a_reset_cut_off_is_in_nobodys_return():
    """Countdown pays 1, 2, 3: no return is larger than 5.23, however often `learn` begins in mid-episode."""
    env = envs.from_gymnasium([lambda: Countdown("terminated")] * 2, ["a", "b"])
    agent = toy_agent(env, gamma=0.9, return_scale="brc", n_steps=3, learning_starts=10_000)
    agent.learn(2 * 5)
    agent.learn(2 * 7)
    assert agent.return_scale.scale.max() == pytest.approx(5.23)
    returns = agent.replay_buffer._get_samples(np.arange(12)).rewards[:12, 0]
    whole, halves = [5.23, 4.7, 3.0], [1 + 0.9 * 2, 2.0]  # steps 3 and 4 were cut off
    assert returns.tolist() == pytest.approx([*whole, *halves, *whole, *whole, 1.0])


def test_returns_far_apart_become_losses_of_one_size():
    """Two tasks, rewards 1 : 100: without a scale the critics' losses differ by thousands, with one by little."""

    class Loud(envs.toy.PointReach):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation, 100 * reward, *rest

    def spread(kind, **policy):
        env = envs.from_gymnasium([lambda: envs.toy.PointReach(0, 2), lambda: Loud(1, 2)], ["quiet", "loud"], seed=0)
        settings = {"gamma": 0.9, "learning_starts": 200, "buffer_size": 1000, "batch_size": 32}
        agent = toy_agent(env, "mean", return_scale=kind, policy_kwargs={**SMALL, **policy}, **settings)
        agent.learn(2 * 200)
        losses = agent.task_metrics.latest["critic_loss"]
        return float(losses.max() / losses.min())

    assert spread("none") > 1000
    for kind, policy in (("brc", {}), ("reward-std", {}), ("brc", {"critic_head": "c51"})):
        assert spread(kind, **policy) < 100, kind
