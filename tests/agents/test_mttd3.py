"""Multi-task TD3: what it shares with MTSAC works alike, and what means nothing to it is refused."""

import numpy as np
import pytest
import torch

import envs.toy
from agents import MTSAC, MTTD3, StateFileError, evaluate, load_actor, load_checkpoint, save_actor, save_checkpoint
from agents.learning.rounds import UpdateRounds
from agents.learning.update import Batch
from tests.helpers import EVERYTHING, SMALL, toy_agent
from tests.states import assert_bit_equal, make_env, state_of

ENTROPY = {"ent_coef", "ent_coef_min"}
VALUE_LEARNING = {
    **{name: value for name, value in EVERYTHING.items() if name not in ENTROPY},
    "policy_kwargs": {**EVERYTHING["policy_kwargs"], "critic_head": "c51"},
    "log_conflicts": 4,
    "overlap": False,
}


def td3(env=None, aggregator="pcgrad", **settings):
    return toy_agent(env, aggregator, kind=MTTD3, **{"policy_delay": 2, **settings})


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("in-process", {"aggregator": "mean"}),
        ("workers", {"aggregator": "pcgrad", "critic_aggregator": "mean"}),
        ("in-process", VALUE_LEARNING),
        ("two per task", {"overlap": False}),
    ],
    ids=["mean", "workers", "everything", "two per task"],
)
def test_stopped_and_resumed_it_is_the_one_that_never_stopped(tmp_path, kind, settings):
    states = []
    for stops in (False, True):
        env = make_env(kind)
        agent, tasks = td3(env, **settings), env.num_envs
        agent.learn(33 * tasks)  # callbacks apart, `learn` in two halves is the undisturbed one
        if stops:
            path = save_checkpoint(tmp_path, agent, env)
            env.close()
            env = make_env(kind)
            agent = load_checkpoint(path, env, "cpu", MTTD3)
        agent.learn(27 * tasks, reset_num_timesteps=False)
        states.append(state_of(agent, env))
        env.close()
    assert_bit_equal(*states)


def test_actor_and_targets_move_in_the_last_of_the_delayed_updates():
    agent = td3(policy_delay=3)
    turns = [agent.rounds.turn(0, number) for number in range(6)]
    assert [tuple(turn) for turn in turns] == [(False, False), (False, False), (True, True)] * 2
    measuring = UpdateRounds(agent.rounds._update, policy_delay=3, log_conflicts=4)
    assert [measuring.measures(number) for number in range(6)] == [False] * 5 + [True]


def test_it_explores_with_held_noise_around_what_it_does_deterministically():
    agent = td3(noise_hold=3, policy_kwargs={**SMALL, "exploration_noise": 0.3})
    rows = np.array([[0.5, -0.5, 0, 1], [0.1, 0.2, 1, 0]], np.float32)
    mean = agent.predict(rows, deterministic=True)[0]
    held = [agent.collection.acting(rows, step) for step in range(4)]
    np.testing.assert_array_equal(held[0], held[2])
    assert not np.array_equal(held[2], held[3])
    draws = np.stack([agent.predict(rows)[0] for _ in range(400)])
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.06)
    np.testing.assert_allclose(draws.std(0), 0.3, atol=0.04)


def test_the_target_is_of_the_slow_actors_actions_with_clipped_noise(monkeypatch):
    agent, drawn = td3(target_noise=100.0, target_noise_clip=0.25, gamma=0.5), []
    rows = torch.cat([torch.randn(8, 2), torch.eye(2).repeat_interleave(4, 0)], 1)
    batch = Batch(rows, torch.zeros(8, 2), rows, torch.tensor([[0.0], [1.0]] * 4), torch.full((8, 1), 3.0))
    values = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).expand(2, 2, 4, 1)  # of two critics
    monkeypatch.setattr(agent.update, "q_outputs", lambda critic, states, actions: drawn.append(actions) or values)
    target = agent.update.target(batch, torch.zeros(2))
    torch.testing.assert_close(target.flatten(), torch.tensor([3.5, 3.0] * 4))
    slow = agent.policy.actor_target.actions(rows)
    torch.testing.assert_close((drawn[0] - slow).abs(), torch.full((8, 2), 0.25))
    np.testing.assert_allclose(agent.update.actor_losses(rows, slow).detach(), [-1.0, -1.0])  # the first critic's


def test_saved_it_acts_alike_and_opens_with_its_own_class(tmp_path):
    agent = td3().learn(2 * 25)
    rows = np.array([[0.5, -0.5, 0, 1], [0.1, 0.2, 1, 0]], np.float32)
    actions = agent.eval_action(rows)
    agent.save(tmp_path / "agent")
    toy_agent().save(tmp_path / "sac")
    np.testing.assert_array_equal(MTTD3.load(tmp_path / "agent", device="cpu").eval_action(rows), actions)
    save_actor(agent, tmp_path / "actor.safetensors")
    shared = load_actor(tmp_path / "actor.safetensors", "cpu")
    np.testing.assert_array_equal(shared.eval_action(rows), actions)
    for kind, name in ((MTSAC, "agent"), (MTTD3, "sac")):
        with pytest.raises(StateFileError, match=f"holds no {kind.__name__}"):
            kind.load(tmp_path / name, device="cpu")


def test_it_learns_the_toy_tasks():
    sizes = {"actor_width": 32, "actor_depth": 2, "critic_width": 32, "critic_depth": 2, "bins": 41}
    options = {"learning_starts": 200, "batch_size": 32, "learning_rate": 2e-3, "gamma": 0.9, "tau": 0.05}
    options |= {"buffer_size": 1000, "return_scale": "brc", "overlap": False}
    agent = td3(policy_kwargs={**sizes, "critic_head": "c51", "exploration_noise": 0.3}, **options)
    before = evaluate(agent, envs.toy.make(num_tasks=2, seed=1), 5).returns.mean()
    agent.learn(2 * 500)
    after = evaluate(agent, envs.toy.make(num_tasks=2, seed=1), 5).returns.mean()
    assert after > before / 2  # -6 and -26 when this was written; returns are negative


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (
            MTTD3,
            {"ent_coef": "auto"},
            "ent_coef: expected 0.0, as the policy of TD3 is deterministic and has no entropy; found 'auto'",
        ),
        (MTTD3, {"loss_weighting": "temperature"}, "loss_weighting: expected 'none', as the policy of TD3"),
        (
            MTTD3,
            {"target_update_interval": 2},
            "target_update_interval: expected 1, as the targets of TD3 move with its actor",
        ),
        (MTSAC, {"target_noise": 0.1}, "target_noise: expected 0.2, as SAC draws its actions"),
        (MTSAC, {"policy_kwargs": {"exploration_noise": 0.3}}, "exploration_noise: expected 0.1, as SAC draws"),
    ],
    ids=str,
)
def test_what_means_nothing_to_it_is_refused(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        toy_agent(kind=kind, **settings)
