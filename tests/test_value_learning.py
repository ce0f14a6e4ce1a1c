"""The options of value learning in a whole agent: delays, floors, resets, critics by min and mean; it still learns."""

import math

import numpy as np
import pytest
import torch

import envs.toy
from agents import evaluate
from agents.update import Turn
from tests.helpers import SMALL, toy_agent

EVERYTHING = {
    "return_scale": "brc",
    "n_steps": 3,
    "policy_delay": 2,
    "critic_reduction": "mean",
    "ent_coef": "auto_0.1",
    "ent_coef_min": 0.01,
    "reset_at": (30, 55),
    "policy_kwargs": {
        **SMALL,
        "critic_torso": "bronet",
        "critic_head": "hl-gauss",
        "bins": 21,
        "conditioning": "embedding",
        "multi_head": True,
        "n_critics": 3,
        "weight_decay": 0.01,
    },
}


def test_the_actor_moves_every_kth_update_and_the_temperatures_with_it():
    agent = toy_agent(policy_delay=3)
    agent.learn(2 * 21)
    turns = [agent._turn(0, update) for update in range(6)]
    assert turns == [Turn(actor=update % 3 == 0, target=True) for update in range(6)]
    batch = agent.replay_buffer.sample(8)
    for moves in (False, True):
        before = [p.detach().clone() for p in [*agent.actor.parameters(), agent.log_ent_coef]]
        critic = agent.critic.head.weight.detach().clone()
        agent._update(batch, Turn(actor=moves, target=True))
        after = [*agent.actor.parameters(), agent.log_ent_coef]
        assert all(torch.equal(a, b) != moves for a, b in zip(after, before, strict=True))
        assert not torch.equal(agent.critic.head.weight, critic)


def test_a_delayed_actor_is_logged_and_watched_like_any_other():
    agent = toy_agent(policy_delay=4)
    agent.learn(2 * 40)
    assert {"train/actor_loss", "train/entropy", "train/critic_loss"} <= agent.metrics().keys()


def test_learned_temperatures_keep_above_their_floor():
    agent = toy_agent(ent_coef="auto_0.05", ent_coef_min=0.04, learning_rate=0.05)
    agent.learn(2 * 60)
    found = agent.log_ent_coef.detach().exp()
    assert (found >= 0.04 * (1 - 1e-6)).all()
    assert (found < 0.041).any()  # it was needed


@pytest.mark.parametrize("reduction", ["min", "mean"])
def test_one_reduction_of_the_critics_serves_target_and_actor(reduction):
    agent = toy_agent(critic_reduction=reduction, ent_coef=0.0, policy_kwargs={**SMALL, "n_critics": 3})
    agent.learn(2 * 21)
    batch = agent.replay_buffer.sample(8)
    torch.manual_seed(0)
    target = agent._target(batch, torch.zeros(2)).squeeze(-1)
    torch.manual_seed(0)
    actions, log_prob = agent.actor.action_log_prob(batch.next_observations, blocks=True)

    def reduced(critic):
        q = critic(batch.next_observations, actions, blocks=True)
        return (q.min(0).values if reduction == "min" else q.mean(0)).view(2, 8)

    expected = batch.rewards.view(2, 8) + agent.gamma * (1 - batch.dones.view(2, 8)) * reduced(agent.critic_target)
    torch.testing.assert_close(target, expected)
    losses = agent._actor_losses(batch.next_observations, actions, log_prob, torch.zeros(2))
    torch.testing.assert_close(losses, -reduced(agent.critic).mean(1))


def test_n_step_targets_discount_by_the_steps_that_were_summed():
    agent = toy_agent(n_steps=3)
    agent.learn(2 * 21)
    batch = agent.replay_buffer._get_samples(np.arange(21))
    torch.manual_seed(0)
    target = agent._target(batch, torch.zeros(2)).squeeze(-1)
    torch.manual_seed(0)
    actions, _ = agent.actor.action_log_prob(batch.next_observations, blocks=True)
    value = agent.critic_target(batch.next_observations, actions, blocks=True).min(0).values.view(2, 21)
    rows = agent.replay_buffer.rows
    raw = rows[:21, :, agent.replay_buffer.obs_dim + agent.replay_buffer.action_dim].T
    lengths = [min(3, 21 - t) for t in range(21)]
    sums = torch.stack([sum(agent.gamma**k * raw[:, t + k] for k in range(n)) for t, n in enumerate(lengths)], 1)
    powers = torch.tensor([agent.gamma**n for n in lengths])
    torch.testing.assert_close(target, sums + powers * value, rtol=1e-5, atol=1e-5)


def test_a_reset_renews_what_learns_and_keeps_what_is_known():
    agent = toy_agent(return_scale="brc", reset_at=(40,), ent_coef="auto_0.3")
    agent.learn(2 * 40)  # the update of step 40 is done with new networks
    assert agent._n_updates > 15
    undisturbed = toy_agent(return_scale="brc", ent_coef="auto_0.3")
    undisturbed.learn(2 * 40)
    assert agent.replay_buffer.size() == undisturbed.replay_buffer.size() == 40
    assert torch.equal(agent.return_scale.scale, undisturbed.return_scale.scale)
    first = next(iter(agent.critic.optimizer.state.values()))
    assert int(first["step"]) == 1  # one update since
    torch.testing.assert_close(agent.log_ent_coef.detach(), torch.full((2,), math.log(0.3)), rtol=0, atol=1e-3)
    assert not torch.allclose(agent.critic.head.weight, undisturbed.critic.head.weight)
    targets = zip(agent.critic_target.parameters(), agent.critic.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=0.01) for a, b in targets)


@pytest.mark.parametrize(
    ("form", "settings"),
    [
        ({"n_critics": 1}, {}),
        ({"n_critics": 3}, {"critic_reduction": "mean"}),
        ({"critic_head": "c51", "critic_torso": "bronet", "critic_depth": 1}, {"return_scale": "brc"}),
        ({"critic_head": "hl-gauss", "conditioning": "own-columns"}, {"return_scale": "brc", "n_steps": 3}),
        ({"multi_head": True, "conditioning": "embedding"}, {"return_scale": "popart", "policy_delay": 2}),
    ],
    ids=str,
)
def test_every_kind_of_critic_solves_two_opposed_tasks(form, settings):
    env = envs.toy.make(num_tasks=2, seed=0, conflict=1.0)
    sizes = {"actor_width": 32, "actor_depth": 2, "critic_width": 32, "critic_depth": 2}
    agent = toy_agent(
        env,
        "pcgrad",
        policy_kwargs={**sizes, **form},
        **{"batch_size": 32, "learning_starts": 200, "buffer_size": 2000, "gamma": 0.9, "tau": 0.02},
        **{"learning_rate": 3e-3, "ent_coef": "auto_0.05", **settings},
    )
    agent.learn(2 * 700)
    assert evaluate(agent, envs.toy.make(num_tasks=2, seed=9, conflict=1.0), episodes=5).mean_success == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"return_scale": "max"}, "return_scale is one of none, brc, reward-std, ars, popart; found 'max'"),
        ({"return_scale": "brc", "reward_scale": 0.1}, "undoes any reward_scale"),
        ({"return_scale": "brc", "gamma": 1.0}, "gamma must be below 1"),
        ({"return_scale": "popart"}, "it needs multi_head"),
        ({"critic_reduction": "median"}, "critic_reduction is 'min' or 'mean', found 'median'"),
        ({"ent_coef": 0.1, "ent_coef_min": 0.01}, "bounds learned temperatures"),
        ({"ent_coef_min": -1.0}, "ent_coef_min must be 0 or more"),
        ({"reset_at": (50, 20)}, "reset_at takes growing whole numbers"),
        ({"n_steps": 0}, "n_steps must be a whole number of at least 1"),
        ({"policy_delay": 0}, "policy_delay must be a whole number of at least 1"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused_with_the_reason(settings, message):
    with pytest.raises(ValueError, match=message):
        toy_agent(**settings)


def test_a_histogram_without_a_scale_is_warned_of():
    with pytest.warns(UserWarning, match="return_scale='brc' brings them into its range"):
        toy_agent(policy_kwargs={**SMALL, "critic_head": "c51"})
