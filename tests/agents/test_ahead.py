"""Collecting ahead: a thread's run is, bit for bit, that of one plain loop whose actions lag by N vector steps."""

import copy
import functools
import random
import threading
import time
from unittest import mock

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

import envs.toy
from agents import CheckpointCallback, EvaluationCallback, load_checkpoint, save_checkpoint
from agents.ahead.actor_copy import ActorCopy, actor_parameters
from agents.ahead.collector import Collector
from agents.callbacks import EveryStepsPerTask
from agents.collecting.rollout import Step
from agents.device.transfer import HostBlock
from scripts import train
from scripts.runs.progress import StopSwitch
from tests.helpers import EVERYTHING, cuda, toy_agent
from tests.runs import assert_same_training
from tests.states import assert_bit_equal, make_env, state_of, surgery_options

STEPS = 42  # vector steps: an episode ends, and one is running


def whole_state(agent, env):
    return [state_of(agent, env), {**agent.collection.state_dict(), "seconds": 0}]


def run(lag=4, kind="in-process", steps=STEPS, callback=None, **settings):
    env = make_env(kind)
    agent = toy_agent(env, collect_ahead=lag, **settings)
    agent.learn(env.num_envs * steps, callback=callback)
    state = whole_state(agent, env)
    env.close()
    return agent, state


@functools.cache
def undisturbed(form="as it is", lag=4, kind="in-process"):
    return run(lag, kind, **FORMS[form])[1]


def plain_loop(lag, kind="in-process", steps=STEPS, **settings):
    """The oracle: no thread, no queue; the parameters after each vector step are kept in a list."""
    env = make_env(kind)
    agent = toy_agent(env, collect_ahead=lag, **settings)
    noise, generator = None, ActorCopy(agent.policy, 1, seed=0)._generator
    _, callback = agent._setup_learn(env.num_envs * steps)
    callback.on_training_start({}, {})
    seen, versions = agent._last_obs, [copy.deepcopy(agent.actor.state_dict())]
    actor = copy.deepcopy(agent.actor)
    for t in range(steps):
        if t * env.num_envs < agent.learning_starts:
            drawn = np.array([agent.action_space.sample() for _ in seen])
        else:
            actor.load_state_dict(versions[max(t - lag, 0)])
            if noise is None or t % agent.settings.noise_hold == 0:
                noise = torch.randn(env.num_envs, 2, generator=generator)
            with torch.no_grad():
                drawn = agent.policy.unscale_action(actor(torch.as_tensor(seen), noise=noise).numpy())
        stored = agent.policy.scale_action(drawn)
        new, rewards, dones, infos = env.step(agent.policy.unscale_action(stored))
        agent.take_in(Step(seen, agent.policy.unscale_action(stored), stored, new, rewards, dones, infos))
        frequency = agent.train_freq.frequency
        if (t + 1) % frequency == 0 and agent.num_timesteps > agent.learning_starts:
            agent.train(agent.gradient_steps, agent.batch_size)
        agent.collection.load_counters({"_rollout_steps": (t + 1) % frequency, "_next_actions": None, "_noise": None})
        versions.append(copy.deepcopy(agent.actor.state_dict()))
        seen = new
    return agent, state_of(agent, env)


FORMS = {
    "as it is": {},
    "rounds of five": {"train_freq": 5, "gradient_steps": 2},  # the last is a part
    "held noise": {"noise_hold": 4, "learning_starts": 26},
    "no warm-up": {"learning_starts": 0},
    "falling rate": surgery_options(),
    "value learning": EVERYTHING,  # resets, n-step returns, BRC's scale
    "two updates": {"gradient_steps": 2},
}


@pytest.mark.parametrize(
    ("form", "lag"), [("as it is", 1), ("as it is", 15), *((form, 4) for form in list(FORMS)[:-1])]
)
def test_it_is_the_plain_loop_bit_for_bit(form, lag):
    """Parameters, moments, buffer, generators, environment, episodes."""
    assert_bit_equal(undisturbed(form, lag)[0], plain_loop(lag, **FORMS[form])[1])


@pytest.mark.parametrize(("kind", "form"), [("two per task", "two updates"), ("workers", "as it is")])
def test_more_columns_and_workers(kind, form):
    assert_bit_equal(undisturbed(form, 4, kind)[0], plain_loop(4, kind, **FORMS[form])[1])


def test_the_lag_makes_a_difference_and_the_seed_too():
    for other in (undisturbed(lag=1), run(seed=1)[1]):
        with pytest.raises(AssertionError):
            assert_bit_equal(undisturbed()[0][0]["modules"], other[0][0]["modules"])


@pytest.mark.parametrize("slow", ["environment", "learner", "both"])
def test_who_is_slow_changes_nothing(slow, monkeypatch):
    generator = random.Random(slow)

    def dawdling(call):
        def dawdled(*args, **kwargs):
            time.sleep(generator.choice([0, 0, 0.002, 0.01]))
            return call(*args, **kwargs)

        return dawdled

    if slow != "learner":
        monkeypatch.setattr(envs.toy.PointReach, "step", dawdling(envs.toy.PointReach.step))
    callback = dawdling(lambda *_: True) if slow != "environment" else None
    assert_bit_equal(run(callback=callback)[1], undisturbed())


class Hand:
    """A learner played by hand: the action of a step tells the version of the actor that it was drawn with."""

    def __init__(self, lag):
        self.env = envs.toy.make(num_tasks=2, seed=0)
        self.agent = toy_agent(self.env)
        self.collector = Collector(self.agent.policy, 2, lag, noise_hold=1, seed=0)
        self.become(0)

    def become(self, version):
        """Mean 0.01 version, and next to no noise."""
        with torch.no_grad():
            for parameter in self.agent.actor.parameters():
                parameter.zero_()
            self.agent.actor.head.bias.copy_(torch.tensor([0.01 * version] * 2 + [-20.0] * 2))

    def start(self, until=10**6):
        self.collector.start(self.env, self.env.reset(), now=0, until=until, random_until=0)

    def version_of(self, step):
        versions = np.arctanh(step.stored_actions) / 0.01
        assert np.ptp(versions) < 1e-3
        return round(versions[0, 0])


@pytest.mark.parametrize("first", ["collector", "learner"])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("lag", [1, 5])
def test_step_t_acts_with_what_the_learner_had_after_t_minus_n(lag, every, first, monkeypatch):
    """Also where the learner waits for each step, and newer versions are there long before they are due."""
    hand, step = Hand(lag), envs.toy.PointReach.step
    if first == "learner":
        monkeypatch.setattr(envs.toy.PointReach, "step", lambda *args: time.sleep(0.001) or step(*args))
    hand.start()
    found, version, expected = [], 0, []
    for t in range(30):
        if first == "collector":
            hand.collector.rest()
        found.append(hand.version_of(hand.collector.take(updates=version)))
        expected.append(max(t - lag, 0) // every * every)
        assert hand.collector._collected // 2 <= t + lag + 1  # steps t + 1 .. t + lag are ahead
        hand.collector.publish()
        if (t + 1) % every == 0:
            version = t + 1
            hand.become(version)
    hand.collector.stop()
    assert found == expected
    assert len({*found}) > 5


def test_at_rest_the_collector_is_n_steps_ahead_and_nothing_moves():
    hand = Hand(lag=4)
    hand.start(until=2 * 12)
    for taken in range(1, 13):
        hand.collector.take(updates=0)
        hand.collector.rest()
        ahead = min(taken + 4, 12)  # it never goes past the end
        assert (hand.collector._collected, len(hand.collector._steps)) == (2 * ahead, ahead - taken)
        assert hand.env.get_state()  # it refuses while a step is pending
    hand.collector.stop()


@pytest.mark.parametrize("settings", [{}, {"train_freq": 5, "gradient_steps": 3}], ids=str)
def test_updates_and_steps_keep_their_ratio(settings):
    agent, seen = toy_agent(collect_ahead=7, **settings), []
    frequency, updates = settings.get("train_freq", 1), settings.get("gradient_steps", 1)
    whole = agent.train

    def counted(*args, **kwargs):
        seen.append((agent.num_timesteps, agent.replay_buffer.pos, agent._n_updates))
        whole(*args, **kwargs)

    agent.train = counted
    agent.learn(2 * 40)
    first = 20 // frequency + 1  # the round that ends after the warm-up
    rounds = range(first, 40 // frequency + 1)
    assert seen == [(2 * r * frequency, r * frequency, (r - first) * updates) for r in rounds]


# ------------------------------------------------------------------------------------------------------------- resume
@pytest.mark.parametrize(("kind", "lag"), [("in-process", 1), ("workers", 4)])
def test_learn_save_load_learn(tmp_path, kind, lag):
    env = make_env(kind)
    agent = toy_agent(env, collect_ahead=lag)
    agent.learn(2 * 30)
    path = save_checkpoint(tmp_path, agent, env)
    env.close()
    env = make_env(kind)
    resumed = load_checkpoint(path, env, device="cpu")
    resumed.learn(2 * (STEPS - 30), reset_num_timesteps=False)
    state = whole_state(resumed, env)
    env.close()
    assert_bit_equal(state, undisturbed("as it is", lag, kind))


# in the warm-up, out of it, across an episode's end, after networks began anew
@pytest.mark.parametrize(
    ("form", "step"),
    [("as it is", 3), ("as it is", 18), ("rounds of five", 24), ("held noise", 24), ("value learning", 33)],
)
def test_a_checkpoint_from_inside_training(tmp_path, form, step):
    run(callback=CheckpointCallback(tmp_path, step, keep=9), **FORMS[form], steps=step + 5)
    env = make_env("in-process")
    resumed = load_checkpoint(tmp_path / f"step_{step:09d}", env, device="cpu")
    assert len(resumed.collection.collector._steps) == 4
    resumed.learn(2 * (STEPS - step), reset_num_timesteps=False)
    assert_bit_equal(whole_state(resumed, env), undisturbed(form))


def test_two_environments_per_task(tmp_path):
    env = make_env("two per task")
    agent = toy_agent(env, collect_ahead=4, gradient_steps=2)
    agent.learn(4 * 20, callback=CheckpointCallback(tmp_path, every=15))
    env = make_env("two per task")
    resumed = load_checkpoint(tmp_path / "step_000000016", env, device="cpu")
    resumed.learn(4 * STEPS - resumed.num_timesteps, reset_num_timesteps=False)
    assert_bit_equal(whole_state(resumed, env), undisturbed("two updates", 4, "two per task"))


def test_stopped_by_a_callback_and_gone_on():
    env = make_env("in-process")
    agent = toy_agent(env, collect_ahead=4)
    for stop in (7, 30, 31):
        callback = functools.partial(lambda stop, *_: agent.num_timesteps < 2 * stop, stop)
        agent.learn(2 * STEPS - agent.num_timesteps, callback=callback, reset_num_timesteps=False)
        assert agent.num_timesteps == 2 * stop
    agent.learn(2 * STEPS - agent.num_timesteps, reset_num_timesteps=False)
    assert_bit_equal(whole_state(agent, env), undisturbed())


def test_a_second_learn_begins_anew():
    env = make_env("in-process")
    agent = toy_agent(env, collect_ahead=5)
    agent.learn(2 * 30, callback=lambda *_: agent.num_timesteps < 2 * 25)
    assert agent.collection.collector._steps
    with mock.patch.object(env, "reset", side_effect=env.reset) as reset:
        agent.learn(2 * 10)
    assert reset.call_count == 1
    assert (agent.num_timesteps, agent.replay_buffer.size(), len(agent.collection.collector._steps)) == (20, 25 + 10, 0)


FLAGS = "--collect-ahead 5 --steps-per-task 60 --warmup-steps 20 --eval-every 20 --checkpoint-every 20 --log-every 20"
FLAGS += " --horizon 10 --final-goals 2 --eval-goals 1 --actor-width 8 --critic-width 8 --batch-size 4 --no-progress"


def test_a_run_that_was_stopped_and_resumed(tmp_path, monkeypatch):
    """By the commands; metrics.csv tells the lag and who waited for whom."""
    assert train.main(["toy", *FLAGS.split(), "--run-dir", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(StopSwitch, "_on_step", lambda self: self.model.steps_per_task < 33)
        train.main(["toy", *FLAGS.split(), "--run-dir", str(tmp_path / "parts")])
    assert train.main(["--resume", str(tmp_path / "parts"), "--no-progress"]) == 0
    assert_same_training(tmp_path / "whole", tmp_path / "parts")
    header, *rows = (tmp_path / "parts" / "metrics.csv").read_text().splitlines()
    columns = dict(zip(header.split(","), rows[-1].split(","), strict=True))
    assert float(columns["time/policy_lag"]) == 5
    assert float(columns["time/seconds_collector_waited"]) > 0


# ------------------------------------------------------------------------------------------------------------ manners
def test_evaluations_and_checkpoints_find_the_collector_at_its_bound():
    agent, found = toy_agent(collect_ahead=4), []

    class Look(EveryStepsPerTask):
        def act(self):
            before = agent.collection.collector._collected
            time.sleep(0.02)
            found.append((before == agent.collection.collector._collected, len(agent.collection.collector._steps)))
            self.training_env.get_state()

    evaluation = EvaluationCallback(envs.toy.make(num_tasks=2, seed=1), every=20, episodes=1)
    agent.learn(2 * 45, callback=[evaluation, Look(15)])
    assert evaluation.last is not None
    assert found == [(True, 4), (True, 4), (True, 0)]  # nothing is ahead of the last step


def test_any_callback_may_ask_for_rest():
    class Touch(BaseCallback):
        def _on_step(self):
            self.model.settle()
            self.training_env.env_method("optimal_return")
            return True

    assert_bit_equal(run(callback=Touch())[1], undisturbed())


def test_the_device_is_the_learners_alone_and_is_waited_for_late():
    """The copy is asked for right after the update, and waited for before the next one: with the step stored meanwhile.

    The thread makes no copy and reads no parameter of the learner's.
    """
    agent, events = toy_agent(collect_ahead=3, log_every=10**6), []

    def noted(name, call):
        def noting(*args, **kwargs):
            events.append((name, threading.current_thread().name))
            return call(*args, **kwargs)

        return noting

    parameters = mock.patch("agents.ahead.collector.actor_parameters", noted("read", actor_parameters))
    request = mock.patch.object(HostBlock, "request", noted("request", HostBlock.request))
    received = mock.patch.object(HostBlock, "received", noted("received", HostBlock.received))
    agent.train = noted("train", agent.train)
    agent.replay_buffer.add = noted("add", agent.replay_buffer.add)
    with parameters, request, received:
        agent.learn(2 * 40)
    assert {thread for _, thread in events} == {"MainThread"}
    turns = " ".join(name for name, _ in events).split("train")[1:-1]
    assert len(turns) == 40 - 20 - 1
    at_once = " read request received add "  # where nothing was collected yet
    assert {*turns} <= {" read request add received ", at_once}


def test_off_there_is_no_thread_and_no_column():
    agent, recorded = toy_agent(log_every=20), {}
    with mock.patch(
        "stable_baselines3.common.logger.Logger.record", lambda _, key, *__, **___: recorded.update({key: 1})
    ):
        agent.learn(2 * 25, callback=lambda *_: all(t.name != "collector" for t in threading.enumerate()))
    assert agent.num_timesteps == 50
    assert "time/updates" in recorded
    assert not {"time/policy_lag", "time/seconds_collector_waited"} & recorded.keys()
    assert agent.collection.state_dict() is agent.settle() is None


def test_an_agent_is_saved_without_what_it_collected(tmp_path):
    agent = toy_agent(collect_ahead=3)
    agent.learn(2 * 30, callback=lambda *_: agent.num_timesteps < 2 * 25)
    agent.save(tmp_path / "agent")
    agent.export_sb3(tmp_path / "sb3")
    for trust in (False, True):
        path = tmp_path / ("sb3" if trust else "agent")
        loaded = type(agent).load(path, envs.toy.make(num_tasks=2, seed=0), trust=trust, device="cpu")
        assert loaded.settings.collect_ahead == 3
        loaded.learn(2 * 5, reset_num_timesteps=False)
        assert loaded.num_timesteps == 2 * 30


@cuda
@pytest.mark.parametrize("captured", [False, True])
def test_on_cuda_one_seed_is_one_run(captured):
    settings = {"device": "cuda", "capture": captured}
    first, second = (run(**settings)[0].policy.state_dict() for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.values(), second.values(), strict=True))
