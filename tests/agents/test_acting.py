"""Acting on a device: Stable-Baselines3's actions, bit for bit, with one copy up and one down per vector step."""

from unittest import mock

import numpy as np
import pytest
import torch

import envs.toy
from agents.collecting.acting import DeviceActing
from agents.device.graphs import WARM_UP
from agents.device.transfer import HostBlock
from tests.helpers import SMALL, NoSynchronisation, assert_same_tensors, cuda, toy_agent
from tests.traced_graphs import SETTINGS, STEPS, TracedGraphs, capture, eagerly, state_of

FORMS = [{}, {"actor_layer_norm": True}, {"multi_head": True}, {"precision": "bfloat16"}]


def observations(rows=2, seed=0):
    first = np.random.default_rng(seed).normal(size=(rows, 2)).astype(np.float32)
    return np.concatenate([first, np.eye(2, dtype=np.float32)[np.arange(rows) % 2]], axis=1)


def an_agent(**form):
    return toy_agent(policy_kwargs={**SMALL, **form})


@pytest.mark.parametrize("graphs", [None, TracedGraphs], ids=["eager", "captured"])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_same_actions_as_predict_from_the_same_generator(form, graphs):
    """Also while the parameters move in place, as an optimizer moves them, and for other numbers of rows."""
    agent = an_agent(**form)
    acting = DeviceActing(agent.actor, graphs and graphs())
    for step in range(12):
        seen = observations(rows=2 if step < 8 else 6, seed=step)
        state = torch.get_rng_state()
        expected = agent.policy.scale_action(agent.predict(seen)[0])
        after = torch.get_rng_state()
        torch.set_rng_state(state)
        found = acting(seen)
        assert np.array_equal(agent.policy.scale_action(agent.policy.unscale_action(found)), expected)
        assert torch.equal(torch.get_rng_state(), after)
        with torch.no_grad():
            for parameter in agent.actor.parameters():
                parameter.mul_(1.01)
    if graphs:
        found = acting.replays.graphs
        assert (found.captures, found.replays) == (2, 12 - 2 * WARM_UP)


@pytest.mark.parametrize("captured", [False, True])
def test_a_whole_run_is_that_of_stable_baselines(captured):
    """Same transitions, parameters, moments and generators after warm-up, growth and wrap of the buffer."""
    expected = eagerly()
    agent = toy_agent(**SETTINGS)
    agent = capture(agent) if captured else agent
    agent.collection.acting = DeviceActing(agent.actor, agent.captured.replays.graphs if captured else None)
    agent.learn(2 * STEPS)
    assert_same_tensors(expected, state_of(agent))
    if captured:
        assert agent.captured.replays.graphs.captures == 3


def test_a_vector_step_is_two_copies_up_and_one_down():
    agent = toy_agent(learning_starts=0, log_every=10**6, log_conflicts=0)
    agent.collection.acting = DeviceActing(agent.actor)
    with (
        mock.patch.object(HostBlock, "send", autospec=True, side_effect=HostBlock.send) as send,
        mock.patch.object(HostBlock, "fetch", autospec=True, side_effect=HostBlock.fetch) as fetch,
    ):
        agent.learn(2 * 30)
    rows = [call for call in send.call_args_list if call.args[0] is agent.replay_buffer._new]
    assert (len(rows), len(send.call_args_list) - len(rows), fetch.call_count) == (30, 31, 31)  # the last is not sent


def test_noise_that_somebody_adds_is_added():
    agent = an_agent()
    agent.collection.acting = mock.Mock(side_effect=AssertionError("the noise is lost"))
    agent._last_obs = observations()
    agent.collection._draw_actions(agent, agent.env, 0, lambda: np.full((2, 2), 5.0))
    drawn, stored = agent.collection._next_actions
    assert (stored == 1).all()
    assert (drawn == agent.action_space.high).all()


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_network_and_its_noise_wait_for_nobody(form):
    acting = DeviceActing(an_agent(**form).actor)
    acting(observations())
    with NoSynchronisation():
        acting._sample()


class Refuses(TracedGraphs):
    def capture(self, update, generators):
        raise RuntimeError("operation not permitted when stream is capturing")


def test_a_capture_that_fails_is_told_once_and_acting_goes_on():
    agent = an_agent()
    acting = DeviceActing(agent.actor, Refuses())
    with pytest.warns(RuntimeWarning, match="Acting cannot be captured.*not permitted") as caught:
        found = [acting(observations()) for _ in range(WARM_UP + 3)]
    assert len(caught) == 1
    assert len({actions.tobytes() for actions in found}) == WARM_UP + 3  # fresh noise each time


def test_actions_are_the_callers_own():
    acting = DeviceActing(an_agent().actor)
    first = acting(observations(seed=1))
    kept = first.copy()
    acting(observations(seed=2))
    assert np.array_equal(first, kept)


@cuda
@pytest.mark.parametrize("captured", [False, True])
def test_the_same_actions_as_predict_on_cuda(captured):
    agent = toy_agent(device="cuda", capture=captured)
    acting, state = agent.collection.acting, torch.cuda.get_rng_state()
    expected = [agent.policy.scale_action(agent.predict(observations(seed=i))[0]) for i in range(9)]
    after = torch.cuda.get_rng_state()
    torch.cuda.set_rng_state(state)
    for i in range(9):
        np.testing.assert_allclose(acting(observations(seed=i)), expected[i], rtol=0, atol=1e-6)
    assert torch.equal(torch.cuda.get_rng_state(), after)


@cuda
def test_rows_that_are_on_their_way_are_not_overwritten():
    """The device is kept busy while the host stores as fast as it can."""
    agent = toy_agent(device="cuda", buffer_size=200, learning_starts=10**9)
    env = envs.toy.make(num_tasks=2, seed=0)
    seen, buffer = env.reset(), agent.replay_buffer
    work = torch.randn(4000, 4000, device="cuda")
    for i in range(100):
        work = (work @ work).tanh()
        rewards = np.full(2, float(i), dtype=np.float32)
        buffer.add(seen, seen, np.zeros((2, 2), np.float32), rewards, np.zeros(2, bool), [{}, {}])
    column = buffer.obs_dim + buffer.action_dim
    assert buffer.rows[:100, 0, column].tolist() == list(range(100))
