"""The replay buffer, told apart by numbered transitions."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents import MTSAC, TaskReplayBuffer
from agents.learning.update import Batch
from envs import from_gymnasium
from tests.odd_tasks import Countdown

T, OBS, SIZE = 3, 2, 5


def make_buffer(size=SIZE, copies=1, **options):
    space = spaces.Box(-np.inf, np.inf, (OBS + T,))
    options |= {"n_envs": copies * T, "num_tasks": T}
    return TaskReplayBuffer(size, space, spaces.Box(-1, 1, (1,)), device="cpu", **options)


def add(buffer, time, done=False, truncated=False):
    """Transition `time` of each task, and the next E - 1; every number in it tells time and task."""
    rows = np.arange(T * buffer.envs_per_task)
    number = (rows % T + 10 * (time + rows // T)).astype(np.float32)[:, None]
    one_hot = np.tile(np.eye(T, dtype=np.float32), (buffer.envs_per_task, 1))
    obs = np.concatenate([number, number, one_hot], 1)
    next_obs = np.concatenate([number + 0.5, number + 0.5, one_hot], 1)
    infos = [{"TimeLimit.truncated": truncated}] * len(rows)
    buffer.add(obs, next_obs, number / 1000, number[:, 0], np.full(len(rows), done), infos)


def test_blocks_hold_their_tasks_own_transitions_through_the_wrap():
    buffer = make_buffer()
    for time in range(SIZE + 2):
        add(buffer, time)
    assert buffer.full
    assert buffer.pos == 2
    batch = buffer.sample(400)
    number = batch.observations[:, 0]
    assert torch.equal(number % 10, torch.arange(T).repeat_interleave(400).float())
    assert set((number // 10).int().tolist()) == {2, 3, 4, 5, 6}  # the two oldest are gone, all others are drawn
    assert torch.equal(batch.observations[:, OBS:], torch.eye(T).repeat_interleave(400, 0))
    assert torch.equal(batch.next_observations[:, OBS:], batch.observations[:, OBS:])
    assert torch.equal(batch.rewards[:, 0], number)
    assert torch.equal(batch.next_observations[:, 0], number + 0.5)
    torch.testing.assert_close(batch.actions[:, 0], number / 1000)


def test_only_the_filled_part_is_drawn():
    buffer = make_buffer()
    add(buffer, 0)
    add(buffer, 1)
    assert set((buffer.sample(100).rewards // 10).int().flatten().tolist()) == {0, 1}


@pytest.mark.parametrize("filled", [3, SIZE, 2 * SIZE])
def test_every_filled_time_is_equally_likely_and_no_other_is_drawn(filled):
    buffer, times = make_buffer(), range(max(0, filled - SIZE), filled)
    for time in range(filled):
        add(buffer, time)
    drawn = (buffer.sample(100_000).rewards // 10).long().view(T, -1)
    counts = torch.stack([torch.bincount(row, minlength=filled) for row in drawn]).double()[:, times.start :]
    assert counts.sum() == drawn.numel()  # the oldest and the newest are among them, what was overwritten is not
    expected = 100_000 / len(times)
    assert ((counts - expected).square() / expected).sum(1).max() < 19  # chi-square: 4 degrees, one in a thousand


def test_the_largest_draw_is_the_newest_time():
    """u n, rounded in float64, stays below n for the largest u that a generator gives, whatever n."""
    sizes = torch.cat([torch.arange(1, 2_000_001), 2 ** torch.arange(21, 40)]).double()
    assert torch.equal(((1 - 2.0**-53) * sizes).long(), sizes.long() - 1)


@pytest.mark.parametrize(
    ("numbers", "expected"),  # which number of which time and task is not finite
    [
        ([], None),
        ([(4, 1, 3)], (1, "reward")),
        ([(4, 1, 3), (3, 2, 0)], (2, "observation")),
        ([(6, 1, 3), (5, 0, 6), (6, 2, 1)], (0, "observation")),  # the oldest lies behind the newest
        ([(4, 1, 6), (5, 1, 0), (5, 1, 2)], (1, "observation")),  # the action follows from it
        ([(4, 1, 2), (4, 1, 3), (5, 1, 0)], None),  # the networks broke down before the environment
    ],
)
def test_what_was_not_finite_first_is_found(numbers, expected):
    buffer = make_buffer()
    for time in range(SIZE + 2):
        add(buffer, time)
    buffer.rows[3, 0, 3] = buffer.rows[3, 0, 1] = 3e38  # large, and finite
    for time, task, column in numbers:
        buffer.rows[time % SIZE, task, column] = np.nan
    assert buffer.first_not_finite() == expected


def test_an_emptied_buffer_begins_anew():
    buffer = make_buffer()
    for time in range(SIZE + 1):
        add(buffer, time)
    buffer.reset()
    add(buffer, 30)
    add(buffer, 31)
    assert set((buffer.sample(100).rewards // 10).int().flatten().tolist()) == {30, 31}


def test_each_task_draws_its_own_times():
    buffer = make_buffer()
    for time in range(SIZE):
        add(buffer, time)
    times = (buffer.sample(64).rewards // 10).view(T, 64)
    assert not torch.equal(times[0], times[1])
    assert not torch.equal(times[1], times[2])


def test_termination_is_stored_and_truncation_is_not():
    buffer = make_buffer()
    add(buffer, 0, done=True, truncated=True)
    assert buffer.sample(4).dones.sum() == 0
    buffer = make_buffer()
    add(buffer, 0, done=True, truncated=False)
    assert buffer.sample(4).dones.min() == 1


def test_a_restored_buffer_draws_the_same_samples():
    first, second = make_buffer(seed=1), make_buffer(seed=2)
    for time in range(SIZE + 1):
        add(first, time)
    first.sample(3)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.sample(16).rewards, second.sample(16).rewards)
    add(first, 9)
    add(second, 9)
    assert torch.equal(first.sample(16).rewards, second.sample(16).rewards)


@pytest.mark.parametrize("steps", [3, 8])
@pytest.mark.parametrize("size", [2, 4, 9])
def test_a_buffer_of_another_size_keeps_the_newest_that_fit(steps, size):
    saved, other = make_buffer(), make_buffer(size=size)
    for time in range(steps):
        add(saved, time)
    other.load_state_dict(saved.state_dict())
    kept = range(max(0, steps - SIZE, steps - size), steps)
    assert set((other.sample(300).rewards // 10).int().flatten().tolist()) == set(kept)
    add(other, steps)
    assert (other.sample(300).rewards // 10).max() == steps
    assert other.size() == min(size, len(kept) + 1)


def test_a_vector_step_is_one_time_for_each_environment_of_a_task():
    """Five times become six, for three vector steps of two; the fourth overwrites the first."""
    buffer = make_buffer(copies=2)
    assert (buffer.buffer_size, buffer.rows.shape[:2]) == (6, (6, T))
    for step, filled in ((0, 2), (2, 4), (4, 6), (6, 6)):
        add(buffer, step)
        assert (buffer.size(), int(buffer.filled)) == (filled, filled)
    expected = 10 * torch.tensor([6.0, 7, 2, 3, 4, 5])[:, None] + torch.arange(T)
    for column in (0, OBS + 1):  # observation and reward
        assert torch.equal(buffer.rows[:, :, column], expected)
    assert (buffer.pos, buffer.full) == (2, True)
    assert set((buffer.sample(200).rewards // 10).int().flatten().tolist()) == {2, 3, 4, 5, 6, 7}


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_a_buffer_goes_on_with_another_number_of_environments(before, after, steps):
    """Of six times, at most the oldest few are lost: those with which the newest would not end a vector step."""
    saved, other = make_buffer(6, before), make_buffer(6, after)
    for step in range(steps):
        add(saved, step * before)
    other.load_state_dict(saved.state_dict())
    end, held = steps * before, min(6, steps * before)
    assert other.pos % after == 0
    if other.size():
        kept = set((other.sample(300).rewards // 10).int().flatten().tolist())
        assert kept == set(range(end - (held - held % after), end))
    add(other, end)
    assert int(other.filled) == other.size() == min(6, held - held % after + after)
    assert (other.sample(300).rewards // 10).max() == end + after - 1


def test_a_buffer_of_other_tasks_is_refused():
    with pytest.raises(ValueError, match="same tasks"):
        make_buffer().load_state_dict({"rows": torch.zeros(SIZE, T + 1, 7), "pos": 0, "full": True})


@pytest.mark.parametrize("ending", ["terminated", "truncated"])
def test_targets_of_a_three_step_episode(ending):
    """Values by hand through the end of an episode: a time limit bootstraps from the true final observation."""
    env = from_gymnasium([lambda: Countdown(ending)] * 2, ["a", "b"])
    agent = MTSAC("MultiTaskMlpPolicy", env, "mean", ent_coef=0.5, gamma=0.9, learning_starts=10_000, device="cpu")
    agent.learn(2 * 3)
    buffer = agent.replay_buffer
    batch = Batch(*buffer._get_samples(np.arange(3)))
    agent.critic_target.outputs = lambda obs, *_, **__: 100 * obs[None, :, :1]  # Q tells which observation it was given
    torch.manual_seed(0)
    _, log_prob = agent.actor.action_log_prob(batch.next_observations, blocks=True)
    torch.manual_seed(0)
    target = agent.update.target(batch, torch.tensor([0.5, 0.5]))
    # s' is 2, 1, 0: the last is the final observation, not the 3 that the next episode begins with
    next_value = torch.tensor([200.0, 100.0, 0.0]).repeat(2) - 0.5 * log_prob
    continues = torch.tensor([1.0, 1.0, float(ending == "truncated")]).repeat(2)
    rewards = torch.tensor([1.0, 2.0, 3.0]).repeat(2)
    torch.testing.assert_close(target.flatten(), rewards + 0.9 * continues * next_value)


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("steps", [7, 12, 31])
def test_n_step_returns_end_with_the_episode_and_with_the_buffer(copies, steps):
    """Against each environment's own stream, also once the buffer has wrapped round (12 vector steps fit)."""
    rng, gamma, n_steps, fits = np.random.default_rng(steps), 0.9, 3, 12
    buffer = make_buffer(fits * copies, copies, n_steps=n_steps, gamma=gamma)
    buffer.rows.fill_(torch.nan)  # as memory may be that was never written
    columns, streams = np.arange(copies * T), []
    one_hot = np.tile(np.eye(T), (copies, 1))
    for step in range(steps):
        reward, ends = rng.normal(size=len(columns)), rng.choice(["on", "over", "cut"], len(columns), p=[0.6, 0.2, 0.2])
        obs, after = (np.column_stack([np.full(len(columns), time), columns, one_hot]) for time in (step, step + 1))
        infos = [{"TimeLimit.truncated": end == "cut"} for end in ends]
        buffer.add(obs, after, np.zeros((len(columns), 1)), reward, ends != "on", infos)
        streams.append((reward, ends))
    batch = buffer.sample(100)
    seen = set()
    for i in range(T * 100):
        start, column = int(batch.observations[i, 0]), int(batch.observations[i, 1])
        assert column % T == i // 100
        assert start >= steps - fits
        total, k = 0.0, 0
        while True:
            reward, ends = streams[start + k][0][column], streams[start + k][1][column]
            total, k = total + gamma**k * reward, k + 1
            if ends != "on" or k == n_steps or start + k == steps:
                break
        assert float(batch.rewards[i]) == pytest.approx(total, abs=1e-5)
        assert float(batch.discounts[i]) == pytest.approx(gamma**k)
        assert tuple(batch.next_observations[i, :2].tolist()) == (start + k, column)
        assert bool(batch.dones[i]) == (ends == "over")
        seen.add((k, ends))
    assert len(seen) > 5


def test_no_return_runs_on_into_another_environments_rows():
    """A buffer of two copies, loaded where there is one: its neighbours in time are no longer one episode."""
    kept = make_buffer(12, copies=2, n_steps=3)
    for time in range(0, 12, 2):
        add(kept, time)
    loaded = make_buffer(12, n_steps=3)
    loaded.load_state_dict(kept.state_dict())
    batch = loaded._get_samples(np.arange(12))
    assert torch.equal(batch.rewards[:, 0], batch.observations[:, 0])
    assert torch.equal(batch.dones, torch.zeros_like(batch.dones))
