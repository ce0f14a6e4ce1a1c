"""Batches of one episode each: against episodes counted by hand, in buffers that grow, wrap and are loaded."""

from unittest import mock

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.stats import chisquare

from agents import MTSAC, TaskReplayBuffer
from envs.toy import make
from scripts.setup.config import TrainConfig, check
from tests.helpers import NoSynchronisation, toy_agent
from tests.traced_graphs import assert_captured_as_eager

T, SIZE = 2, 24


def make_buffer(copies=1, size=SIZE, **options):
    space = spaces.Box(-np.inf, np.inf, (2 + T,))
    options = {"episode_batches": True, "n_envs": copies * T, "num_tasks": T, **options}
    buffer = TaskReplayBuffer(size, space, spaces.Box(-1, 1, (1,)), device="cpu", **options)
    buffer.rows.fill_(torch.nan)  # as memory may be that was never written
    return buffer


class Player:
    """Fills a buffer with episodes of random lengths; an observation tells episode and step, counted here."""

    def __init__(self, buffer, shortest=1, longest=6):
        self.buffer, self.lengths = buffer, (shortest, longest + 1)
        self.random = np.random.default_rng(0)
        columns = buffer.n_envs
        self.episode, self.step, self.begun = np.arange(columns), np.zeros(columns), columns
        self.left = self.random.integers(*self.lengths, columns)
        self.stored = [[] for _ in range(T)]  # of each task, (episode, step) in the order of time

    def play(self, vector_steps):
        for _ in range(vector_steps):
            done = self.left == 1
            self._add(done)
            self._count(done)
        return self

    def cut(self):
        """As where learning begins anew."""
        self.buffer.cut()
        self._count(np.ones(len(self.left), bool))

    def _add(self, done):
        one_hot = np.tile(np.eye(T), (self.buffer.envs_per_task, 1))
        obs, after = (np.column_stack([self.episode, self.step + i, one_hot]) for i in range(2))
        infos = [{"TimeLimit.truncated": bool(self.random.integers(2))} for _ in done]
        self.buffer.add(obs, after, np.zeros((len(done), 1)), self.step, done, infos)
        for c in range(len(done)):
            self.stored[c % T] = [*self.stored[c % T], (self.episode[c], self.step[c])][-self.buffer.buffer_size :]

    def _count(self, done):
        self.left, self.step = self.left - 1, self.step + 1
        ended = np.flatnonzero(done)
        self.episode[ended], self.step[ended] = self.begun + np.arange(len(ended)), 0
        self.left[ended] = self.random.integers(*self.lengths, len(ended))
        self.begun += len(ended)


def blocks(batch, columns=slice(0, 2)):
    return batch.observations[:, columns].unflatten(0, (T, -1)).numpy()


def check_draws(player, draws=1500):
    """Each block is of one episode, and each stored transition comes as often as every other."""
    counts = [dict.fromkeys(stored, 0) for stored in player.stored]
    for _ in range(draws):
        for count, block in zip(counts, blocks(player.buffer.sample(6)), strict=True):
            assert len(set(block[:, 0])) == 1
            for row in block:
                count[tuple(row)] += 1
    for count in counts:
        episodes = {}
        for (episode, _), number in count.items():  # rows of one draw are alike: episodes are what is drawn apart
            episodes.setdefault(episode, []).append(number)
        drawn, lengths = ([f(numbers) for numbers in episodes.values()] for f in (sum, len))
        tests = [
            (np.array(drawn) / 6, draws * np.array(lengths) / sum(lengths)),
            *((each,) for each in episodes.values()),
        ]
        assert all(chisquare(*test).pvalue > 1e-5 for test in tests if len(test[0]) > 1)


@pytest.mark.parametrize("copies", [1, 2, 3])
@pytest.mark.parametrize("vector_steps", [1, 5, 24, 61])
def test_a_block_is_of_one_episode_and_every_row_as_likely_as_any_other(copies, vector_steps):
    check_draws(Player(make_buffer(copies)).play(vector_steps))


def test_episodes_longer_than_the_buffer_and_of_one_step():
    for length in (1, 100):
        check_draws(Player(make_buffer(2), length, length).play(50), 500)


def test_an_episode_that_was_cut_goes_on_as_another_and_a_buffer_that_was_emptied_begins_anew():
    player = Player(make_buffer(2), 5, 9).play(3)
    player.cut()
    check_draws(player.play(2), 500)
    player.cut()
    player.buffer.reset()
    player.stored = [[] for _ in range(T)]
    check_draws(player.play(4), 500)


@pytest.mark.parametrize("size", [SIZE, 10, 60])
def test_a_loaded_buffer_draws_the_same_and_goes_on_the_same(size):
    """Into one of the same size bit for bit; into others the newest, of one episode still."""
    player = Player(make_buffer(2), 3, 9).play(17)
    loaded = make_buffer(2, size)
    loaded.load_state_dict(player.buffer.state_dict())
    first, player.buffer = player.buffer, loaded
    if size == SIZE:
        assert torch.equal(first.sample(50).observations, loaded.sample(50).observations)
    player.stored = [stored[-size:] for stored in player.stored]
    check_draws(player.play(4), 500)


def test_sums_of_rewards_stay_within_the_episode():
    player = Player(make_buffer(2, n_steps=3, gamma=0.5), 2, 6).play(40)
    batch = player.buffer.sample(200)
    assert torch.equal(batch.next_observations[:, 0], batch.observations[:, 0])
    steps = batch.next_observations[:, 1] - batch.observations[:, 1]
    assert torch.equal(batch.discounts.squeeze(1), 0.5**steps)


def test_drawing_waits_for_nothing():
    buffer = Player(make_buffer(2)).play(30).buffer
    with NoSynchronisation():
        buffer.sample(8)


def test_a_captured_update_is_the_eager_one():
    settings = {"episode_batches": True, "n_steps": 3}
    assert_captured_as_eager(steps=30, **settings)


def test_every_task_of_an_agent_learns_from_one_episode_at_a_time_and_a_file_keeps_the_setting(tmp_path):
    agent = toy_agent(episode_batches=True, learning_starts=40)
    with mock.patch.object(TaskReplayBuffer, "_at", autospec=True, side_effect=TaskReplayBuffer._at) as drawn:
        agent.learn(2 * 70)
    assert drawn.call_count > 40
    assert all(len({int(t) // 25 for t in times}) == 1 for call in drawn.call_args_list for times in call.args[1])
    agent.save(tmp_path / "agent")
    assert (
        MTSAC.load(tmp_path / "agent", env=make(num_tasks=2, seed=0), device="cpu").replay_buffer.episodes is not None
    )


def test_rows_of_high_rewards_from_all_episodes_are_refused():
    both = {"episode_batches": True, "high_reward_fraction": 0.5}
    for refused in (lambda: toy_agent(**both), lambda: check(TrainConfig(**both))):
        with pytest.raises(ValueError, match=r"episode_batches takes a batch from one episode.*take one of them"):
            refused()
