"""Rows drawn for their reward: how often each comes, against the distribution of the best of K draws."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.stats import chisquare

from agents import MTSAC, IndependentSAC, TaskReplayBuffer
from envs.toy import make
from scripts.setup.config import TrainConfig, check
from tests.helpers import toy_agent

DRAWS = 20_000


def make_buffer(size, tasks=2, copies=1, **options):
    space = spaces.Box(-np.inf, np.inf, (2 + tasks,))
    buffer = TaskReplayBuffer(
        size, space, spaces.Box(-1, 1, (1,)), device="cpu", n_envs=copies * tasks, num_tasks=tasks, **options
    )
    buffer.rows.fill_(torch.nan)  # as memory may be that was never written
    return buffer


def fill(buffer, rewards):
    """Vector steps with these rewards (times, tasks); an observation tells its time."""
    copies, tasks = buffer.envs_per_task, buffer.num_tasks
    one_hot = np.tile(np.eye(tasks), (copies, 1))
    for start in range(0, len(rewards), copies):
        times = np.repeat(np.arange(start, start + copies), tasks)
        obs = np.column_stack([times, times, one_hot])
        reward = rewards[start : start + copies].reshape(-1)
        nothing = np.zeros(len(obs), bool)
        buffer.add(obs, obs, np.zeros((len(obs), 1)), reward, nothing, [{}] * len(obs))


def best_of(candidates, rewards):
    """The exact probability of each row to be the first best of so many uniform draws, row by row."""
    n = len(rewards)
    found = []
    for reward in rewards:
        at_most, below = int((rewards <= reward).sum()), int((rewards < reward).sum())
        found.append((Fraction(at_most, n) ** candidates - Fraction(below, n) ** candidates) / (at_most - below))
    assert sum(found) == 1
    return np.array([float(share) for share in found])


def drawn(buffer, times, per_draw=1000):
    """How often each of `times` was drawn for its reward and uniformly, per task: two counts (tasks, times)."""
    uniform, chosen = [], []
    for _ in range(DRAWS // per_draw):
        seen = buffer.sample(2 * per_draw).observations[:, 0].view(buffer.num_tasks, 2 * per_draw).long() - times.start
        uniform.append(seen[:, :per_draw])
        chosen.append(seen[:, per_draw:])
    return [
        torch.stack([row.bincount(minlength=len(times)) for row in torch.cat(part, 1)]).numpy()
        for part in (uniform, chosen)
    ]


@pytest.mark.parametrize("candidates", [1, 7, 64])
@pytest.mark.parametrize("kind", ["all different", "ties", "all equal", "one success", "negative"])
@pytest.mark.parametrize(("steps", "copies"), [(5, 1), (12, 1), (30, 1), (12, 2), (28, 2)])
def test_a_row_comes_as_often_as_it_is_the_best_of_its_candidates(candidates, kind, steps, copies):
    """In a growing, a just full and a wrapped buffer of twelve times, with one or two environments per task."""
    rng, size = np.random.default_rng(7), 12
    rewards = {
        "all different": rng.normal(size=(steps, 2)),
        "ties": rng.integers(0, 3, (steps, 2)).astype(float),
        "all equal": np.full((steps, 2), 0.3),
        "one success": (np.arange(steps) == steps - 2)[:, None] * np.ones((1, 2)),
        "negative": -(10.0 ** rng.uniform(-3, 3, (steps, 2))),
    }[kind].astype(np.float32)
    buffer = make_buffer(size, copies=copies, high_reward_fraction=0.5, high_reward_candidates=candidates)
    fill(buffer, rewards)
    times = range(max(0, steps - size), steps)
    uniform, chosen = drawn(buffer, times)
    assert uniform.sum() == chosen.sum() == 2 * DRAWS
    for task in range(2):
        expected = DRAWS * best_of(candidates, rewards[times.start :, task])
        possible = expected > 0.5  # rarer ones together are no more than a few draws
        assert chosen[task][~possible].sum() <= 12
        if possible.sum() > 1:
            scaled = expected[possible] * chosen[task][possible].sum() / expected[possible].sum()
            assert chisquare(chosen[task][possible], scaled).pvalue > 1e-5
        assert chisquare(uniform[task]).pvalue > 1e-5


def test_each_of_fifty_tasks_looks_at_its_own_rewards():
    rewards = np.zeros((20, 50), np.float32)
    best = np.arange(50) % 20
    rewards[best, np.arange(50)] = 1
    buffer = make_buffer(20, tasks=50, high_reward_fraction=0.25, high_reward_candidates=1024)
    fill(buffer, rewards)
    rows = buffer.sample(32).observations[:, 0].view(50, 32)
    assert torch.equal(rows[:, 24:], torch.as_tensor(best)[:, None].expand(50, 8).float())
    assert all(len(row.unique()) > 5 for row in rows[:, :24])


def test_a_row_is_chosen_for_its_own_reward_and_not_for_the_sum_after_it():
    rewards = np.array([[0, 1, 3, 0, 0, 2, 2, 2, 0]], np.float32).T.repeat(2, 1)
    options = {"high_reward_fraction": 1.0, "high_reward_candidates": 256, "n_steps": 3, "gamma": 1.0}
    buffer = make_buffer(9, **options)
    fill(buffer, rewards)
    batch = buffer.sample(16)
    assert (batch.observations[:, 0] == 2).all()
    assert (batch.rewards == 3).all()


def test_without_a_fraction_every_draw_is_what_it_always_was():
    """Times floor(u n) with the buffer's own generator, one for each row."""
    buffer = make_buffer(30, seed=5, high_reward_candidates=3)
    fill(buffer, np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32))
    generator = torch.Generator().manual_seed(5)
    for rows in (1, 32):
        expected = (torch.rand((2, rows), generator=generator, dtype=torch.float64) * 20).long().flatten()
        assert torch.equal(buffer.sample(rows).observations[:, 0].long(), expected)


@pytest.mark.parametrize(("fraction", "rows", "chosen"), [(0.25, 32, 8), (0.1, 32, 3), (1.0, 7, 7), (0.3, 2, 1)])
def test_the_fraction_is_rounded_to_whole_rows(fraction, rows, chosen):
    rewards = (np.arange(200) == 123)[:, None].repeat(2, 1).astype(np.float32)
    buffer = make_buffer(200, high_reward_fraction=fraction, high_reward_candidates=1024)
    fill(buffer, rewards)
    for _ in range(3):
        hits = (buffer.sample(rows).observations[:, 0].view(2, rows) == 123).sum(1)
        assert ((hits >= chosen - 1) & (hits <= chosen + 1)).all()  # 1024 draws miss one row of 200 now and then


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"high_reward_fraction": -0.1}, "high_reward_fraction: expected between 0 and 1; found -0.1"),
        ({"high_reward_fraction": 1.5}, "between 0 and 1; found 1.5"),
        ({"high_reward_fraction": float("nan")}, "between 0 and 1; found nan"),
        ({"high_reward_fraction": "0.25"}, "expected a number; found '0.25'"),
        ({"high_reward_candidates": 0}, "expected 1 to 1024; found 0"),
        ({"high_reward_candidates": 1025}, "expected 1 to 1024; found 1025"),
        ({"high_reward_candidates": 2.5}, "expected a whole number; found 2.5"),
        ({"high_reward_candidates": True}, "expected a whole number; found True"),
        ({"high_reward_fraction": 0.05, "batch_size": 8}, "expected 0, or one row of batch_size=8 or more; found 0.05"),
    ],
    ids=str,
)
def test_what_no_sample_can_be_drawn_with_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        toy_agent(**settings)
    if "batch_size" not in settings:
        with pytest.raises(ValueError, match=message):
            make_buffer(5, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"high_reward_fraction": -0.1},
        {"high_reward_fraction": float("nan")},
        {"high_reward_fraction": 0.01, "batch_size": 32},
        {"high_reward_candidates": 0},
        {"high_reward_candidates": 5000},
    ],
    ids=str,
)
def test_the_command_line_refuses_it_too(settings):
    with pytest.raises(ValueError, match=f"--{next(iter(settings)).replace('_', '-')}: expected"):
        check(TrainConfig(**settings))


def test_a_saved_agent_keeps_the_setting(tmp_path):
    toy_agent(high_reward_fraction=0.5, high_reward_candidates=9).save(tmp_path / "agent")
    agent = MTSAC.load(tmp_path / "agent", env=make(num_tasks=2, seed=0), device="cpu")
    assert (agent.replay_buffer.high_reward_fraction, agent.replay_buffer.high_reward_candidates) == (0.5, 9)
    agent = MTSAC.load(tmp_path / "agent", device="cpu", high_reward_fraction=0.0)
    assert agent.replay_buffer.high_reward_fraction == 0


def test_plain_sac_draws_for_reward_too():
    """Stable-Baselines3's own SAC, with n-step returns: as many high rewards as the fraction asks for."""
    agent = IndependentSAC(
        "MlpPolicy", make(num_tasks=1, seed=0), high_reward_fraction=0.5, high_reward_candidates=256, n_steps=3,
        batch_size=16, learning_starts=20, buffer_size=200, seed=0, device="cpu",
        policy_kwargs={"actor_width": 8, "critic_width": 8},
    )  # fmt: skip
    agent.learn(60)
    (buffer,) = agent.replay_buffer.buffers
    batch = buffer.sample(16)
    assert batch.discounts.min() == pytest.approx(0.99**3)
    rewards = buffer.rewards()[:, 0]
    first = [
        int((buffer.rows[:60, 0, : buffer.obs_dim] == row[: buffer.obs_dim]).all(1).nonzero()[0])
        for row in batch.observations
    ]
    assert rewards[first[8:]].mean() > rewards.quantile(0.9)
