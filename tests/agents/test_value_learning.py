"""The options of value learning in a whole agent: delays, floors, resets, critics by min and mean; it still learns."""

import math

import numpy as np
import pytest
import torch

import envs.toy
from agents import MTSAC
from agents.learning.update import Batch, Turn
from agents.saving.actor_file import load_actor, save_actor
from envs import from_gymnasium
from tests.helpers import SMALL, toy_agent
from tests.odd_tasks import Countdown


def test_the_actor_moves_every_kth_update_and_the_temperatures_with_it():
    agent = toy_agent(policy_delay=3)
    agent.learn(2 * 21)
    turns = [agent.rounds.turn(0, update) for update in range(6)]
    assert turns == [Turn(actor=update % 3 == 0, target=True) for update in range(6)]
    batch = Batch(*agent.replay_buffer.sample(8))
    for moves in (False, True):
        before = [p.detach().clone() for p in [*agent.actor.parameters(), agent.log_ent_coef]]
        critic = agent.critic.head.weight.detach().clone()
        agent.update.update(batch, Turn(actor=moves, target=True))
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


def test_learned_temperatures_keep_below_their_ceiling():
    agent = toy_agent(ent_coef="auto_0.05", ent_coef_max=0.06, target_entropy=3.0, learning_rate=0.05)
    agent.learn(2 * 40)
    found = agent.log_ent_coef.detach().exp()
    assert (found <= 0.06 * (1 + 1e-6)).all()
    assert (found > 0.059).all()  # it was needed


def test_a_shared_temperature_follows_the_mean_of_the_tasks_losses():
    agent = toy_agent(shared_temperature=True)
    agent.learn(2 * 30)
    agent.update.temperatures.step(torch.tensor([[1.0, 3.0], [6.0, 8.0]]))
    torch.testing.assert_close(agent.log_ent_coef.grad, torch.full((2,), -(4.5 + agent.target_entropy)))
    first, second = agent.log_ent_coef.tolist()
    assert first == second != 0.0


def test_an_l2_penalty_moves_the_actor_alone():
    """Adam's gradient gets the coefficient times the weights: without a gradient of the losses only that is left."""
    agent = toy_agent(policy_kwargs={**SMALL, "actor_l2": 0.5})
    weights = agent.actor.head.weight
    for network in (agent.actor, agent.critic):
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
    before, critic = weights.detach().clone(), agent.critic.head.weight.detach().clone()
    agent.actor.optimizer.step()
    agent.critic.optimizer.step()
    torch.testing.assert_close(agent.actor.optimizer.state[weights]["exp_avg"], 0.1 * 0.5 * before)
    assert torch.equal(agent.critic.head.weight, critic)


def test_the_standard_deviation_keeps_within_its_limits(tmp_path):
    agent = toy_agent(policy_kwargs={**SMALL, "log_std_min": -3.0, "log_std_max": -2.5})
    with torch.no_grad():
        agent.actor.head.weight.zero_()
        agent.actor.head.bias.copy_(torch.tensor([0.0, 0.0, -9.0, 9.0]))
    save_actor(agent, tmp_path / "actor.safetensors")
    observations = torch.from_numpy(agent.observation_space.sample())[None]
    for actor in (agent.actor, load_actor(tmp_path / "actor.safetensors", "cpu").actor):
        assert actor._distribution(observations, blocks=False)[1].tolist() == [[-3.0, -2.5]]


@pytest.mark.parametrize("hold", [1, 4])
def test_an_actions_noise_is_held_and_then_drawn_anew(hold):
    """With networks that never learn, the noise is what the stored actions tell."""
    agent = toy_agent(noise_hold=hold, learning_starts=8, learning_rate=1e-12)
    agent.learn(2 * 24)
    rows = agent.replay_buffer.rows[:24].transpose(0, 1)
    obs, actions, *_ = rows.split(agent.replay_buffer.widths, dim=-1)
    one_hot = torch.eye(2)[:, None].expand(-1, 24, -1)
    mean, log_std = agent.actor._distribution(torch.cat([obs, one_hot], -1).flatten(0, 1), blocks=False)
    noise = ((actions.flatten(0, 1).atanh() - mean) / log_std.exp()).view(2, 24, -1)[:, 4:]
    held = [bool(torch.allclose(noise[:, k], noise[:, k + 1], atol=1e-3)) for k in range(19)]
    assert held == [hold == 4 and k % 4 != 3 for k in range(19)]


@pytest.mark.parametrize("reduction", ["min", "mean"])
def test_one_reduction_of_the_critics_serves_target_and_actor(reduction):
    agent = toy_agent(critic_reduction=reduction, ent_coef=0.0, policy_kwargs={**SMALL, "n_critics": 3})
    agent.learn(2 * 21)
    batch = Batch(*agent.replay_buffer.sample(8))
    torch.manual_seed(0)
    target = agent.update.target(batch, torch.zeros(2)).squeeze(-1)
    torch.manual_seed(0)
    actions, log_prob = agent.actor.action_log_prob(batch.next_observations, blocks=True)

    def reduced(critic):
        q = critic(batch.next_observations, actions, blocks=True)
        return (q.min(0).values if reduction == "min" else q.mean(0)).view(2, 8)

    expected = batch.rewards.view(2, 8) + agent.gamma * (1 - batch.dones.view(2, 8)) * reduced(agent.critic_target)
    torch.testing.assert_close(target, expected)
    losses = agent.update.actor_losses(batch.next_observations, actions, log_prob, torch.zeros(2))
    torch.testing.assert_close(losses, -reduced(agent.critic).mean(1))


def test_n_step_targets_discount_by_the_steps_that_were_summed():
    agent = toy_agent(n_steps=3)
    agent.learn(2 * 21)
    batch = Batch(*agent.replay_buffer._get_samples(np.arange(21)))
    torch.manual_seed(0)
    target = agent.update.target(batch, torch.zeros(2)).squeeze(-1)
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
        ({"n_critics": 3, "critic_torso": "bronet"}, {"critic_reduction": "mean", "return_scale": "brc"}),
        ({"critic_head": "c51", "bins": 51}, {"return_scale": "brc"}),
        ({"critic_head": "hl-gauss", "bins": 51}, {"return_scale": "brc", "n_steps": 2}),
        ({"critic_head": "hl-gauss", "bins": 51, "conditioning": "embedding"}, {"return_scale": "reward-std"}),
        ({"conditioning": "own-columns"}, {"return_scale": "reward-std"}),
        ({"multi_head": True}, {"return_scale": "popart", "aggregator": "pcgrad"}),
    ],
    ids=str,
)
def test_every_kind_of_critic_learns_the_known_values(form, settings):
    """Countdown pays 1, 2, 3 whatever one does: with gamma 0.9 its states are worth 5.23, 4.7 and 3.

    So the actor need not learn much.
    """
    env = from_gymnasium([lambda: Countdown("terminated")] * 2, ["a", "b"])
    learning = {"learning_starts": 60, "batch_size": 32, "buffer_size": 500, "learning_rate": 5e-3, "tau": 0.2}
    learning |= {"gamma": 0.9, "ent_coef": 1e-6, "policy_delay": 8, "max_grad_norm": 10.0, "aggregator": "mean"}
    agent = toy_agent(env, policy_kwargs={**SMALL, **form}, **learning | settings)
    agent.learn(2 * 330)
    states = torch.tensor([[3.0], [2.0], [1.0]]).repeat(2, 1)
    observations = torch.cat([states, torch.eye(2).repeat_interleave(3, 0)], 1)
    with torch.no_grad():
        values = agent.critic(observations, torch.zeros(6, *env.action_space.shape)).mean(0).view(2, 3)
    scale = agent.return_scale
    shift = 0.0 if scale.shift is None else scale.shift.unsqueeze(1)
    found = (values + shift) * scale.divisor(torch.full((2,), 1e-6)).unsqueeze(1)
    torch.testing.assert_close(found, torch.tensor([[5.23, 4.7, 3.0]] * 2), rtol=0.12, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"return_scale": "max"}, "return_scale: expected one of none, brc, reward-std, popart; found 'max'"),
        ({"return_scale": "ars"}, "'ars' is gone since version 0.2"),
        ({"return_scale": "brc", "reward_scale": 0.1}, "undoes any reward_scale"),
        ({"return_scale": "brc", "gamma": 1.0}, "gamma must be below 1"),
        ({"return_scale": "popart"}, "it needs multi_head"),
        ({"critic_reduction": "median"}, "critic_reduction: expected one of min, mean; found 'median'"),
        ({"ent_coef": 0.1, "ent_coef_min": 0.01}, "ent_coef_min is for learned temperatures"),
        ({"ent_coef": 0.1, "ent_coef_max": 1.0}, "ent_coef_max is for learned temperatures"),
        ({"ent_coef": "0", "shared_temperature": True}, "shared_temperature is for learned temperatures"),
        ({"ent_coef_min": 0.1, "ent_coef_max": 0.1}, "ent_coef_max: expected more than ent_coef_min=0.1; found 0.1"),
        ({"shared_temperature": True, "loss_weighting": "temperature"}, "under shared_temperature they do not"),
        ({"policy_kwargs": {"actor_l2": 0.1, "weight_decay": 0.1}}, "take one of them"),
        ({"policy_kwargs": {"log_std_max": -20.0}}, "log_std_max: expected more than log_std_min=-20.0; found -20.0"),
        ({"policy_kwargs": {"log_std_min": float("-inf")}}, "log_std_min: expected a finite number; found -inf"),
        ({"ent_coef_min": -1.0}, "ent_coef_min: expected 0 or more"),
        ({"return_scale": "brc", "target_entropy": 1.0}, "takes a target_entropy of at most 0"),
        ({"reset_at": (50, 20)}, "reset_at: expected growing whole numbers"),
        ({"n_steps": 0}, "n_steps: expected at least 1"),
        ({"policy_delay": 0}, "policy_delay: expected at least 1"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused_with_the_reason(settings, message):
    with pytest.raises(ValueError, match=message):
        toy_agent(**settings)


def test_a_histogram_without_a_scale_is_warned_of():
    with pytest.warns(UserWarning, match="return_scale='brc' brings them into its range"):
        toy_agent(policy_kwargs={**SMALL, "critic_head": "c51"})


def test_another_return_scale_is_no_setting_that_a_saved_agent_can_change(tmp_path):
    agent = toy_agent(return_scale="brc")
    agent.learn(2 * 25)
    agent.save(tmp_path / "agent.zip")
    with pytest.raises(ValueError, match="learned with return_scale='brc'; found 'none'"):
        MTSAC.load(tmp_path / "agent.zip", return_scale="none")


@pytest.mark.parametrize("kind", ["brc", "popart"])
def test_stable_baselines_format_keeps_the_scale_and_the_networks(tmp_path, kind):
    agent = toy_agent(return_scale=kind, reset_at=(25,), policy_kwargs={**SMALL, "multi_head": True})
    agent.learn(2 * 40)
    agent.export_sb3(tmp_path / "sb3.zip")
    loaded = MTSAC.load(tmp_path / "sb3.zip", env=envs.toy.make(num_tasks=2, seed=0), trust=True)
    assert torch.equal(loaded.return_scale.scale, agent.return_scale.scale)
    assert loaded.rounds.counters()["_resets"] == 1  # the reset of step 25 is not made again


def test_conflict_is_measured_where_the_actor_moves():
    agent = toy_agent(policy_delay=3, log_conflicts=5)
    agent.learn(2 * 20)
    for update in range(20):
        assert agent.rounds.measures(update) == (update % 6 == 0)
