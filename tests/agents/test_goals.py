"""Networks and temperatures that look at the goal in an observation, and at no task."""

import math

import gymnasium
import numpy as np
import pytest
import torch

import envs.toy
from agents import evaluate, load_checkpoint, save_checkpoint
from agents.learning.temperatures import GoalTemperatures, LearnedTemperatures
from agents.learning.update import Batch, Turn
from envs import from_gymnasium
from scripts.setup.config import TrainConfig, check
from tests.helpers import SMALL, assert_same_tensors, toy_agent
from tests.small_policies import OBS, B, T, batch, make_policy
from tests.traced_graphs import assert_captured_as_eager, state_of

GOALS = {
    "episode_batches": True,
    "goal_temperature": True,
    "ent_coef": "auto_0.2",
    "n_steps": 3,
    "policy_kwargs": {**SMALL, "conditioning": "goal", "goal_size": 2, "embedding_size": 4},
}


def test_the_networks_see_the_goal_and_not_the_task():
    policy, (observations, actions) = make_policy(conditioning="goal", goal_size=2), batch()
    other_tasks, other_goals = observations.clone(), observations.clone()
    other_tasks[:, OBS:] = other_tasks[:, OBS:].roll(1, 1)
    other_goals[:, OBS - 2 : OBS] += 1
    for answer in (lambda rows: policy.actor(rows, deterministic=True), lambda rows: policy.critic(rows, actions)):
        assert torch.equal(answer(other_tasks), answer(observations))
        assert (answer(other_goals) != answer(observations)).double().mean() > 0.9, "all but dead units"
    assert not policy.actor.task_parameters()
    assert not policy.critic.task_parameters()


def test_the_encoding_stands_in_the_place_of_the_goal():
    goal = make_policy(conditioning="goal", goal_size=2, embedding_size=4).actor.embedding
    observations = batch()[0]
    seen, encoder = goal(observations), goal.encoder
    hidden = (observations[:, OBS - 2 : OBS] @ encoder[0].weight.T + encoder[0].bias).relu()
    expected = [observations[:, : OBS - 2], hidden @ encoder[2].weight.T + encoder[2].bias]
    torch.testing.assert_close(seen, torch.cat(expected, 1))


def temperatures(start=(0.3, -0.2, -1.0)):
    log_alpha = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    return GoalTemperatures(log_alpha, torch.optim.Adam([log_alpha], 0.01), -2.0, T)


def by_goal():
    """The batch, with one goal of two numbers for each task."""
    observations = batch()[0]
    observations[:, OBS - 2 : OBS] = torch.arange(2.0 * T).view(T, 2).repeat_interleave(B, 0)
    return observations


def test_a_temperature_is_a_function_of_the_goal_by_hand():
    found = temperatures().values(by_goal())
    expected = [0.3 * 0 - 0.2 * 1 - 1, 0.3 * 2 - 0.2 * 3 - 1, 0.3 * 4 - 0.2 * 5 - 1]
    torch.testing.assert_close(found, torch.tensor(expected).double().exp())


def test_temperatures_descend_the_mean_loss_of_the_goals():
    """Against autograd on the loss as it is written, and one number by hand."""
    log_prob = torch.randn(T, B, generator=torch.Generator().manual_seed(0)).double()
    learned, weights = temperatures(), torch.tensor([0.3, -0.2, -1.0], dtype=torch.float64, requires_grad=True)
    goals = by_goal()[::B, OBS - 2 : OBS]
    log_alpha = goals @ weights[:2] + weights[2]
    (-log_alpha.unsqueeze(1) * (log_prob - 2.0)).mean().backward()
    learned.step(log_prob, by_goal())
    torch.testing.assert_close(learned.log_alpha.grad, weights.grad)
    assert ((learned.log_alpha - weights) * weights.grad < 0).all(), "downhill"
    assert weights.grad[2].item() == pytest.approx(2 - log_prob.mean().item())


def test_goals_with_little_entropy_get_higher_temperatures_and_the_others_lower_ones():
    learned, log_prob = temperatures((0.0, 0.0, 0.0)), torch.zeros(T, B).double()
    log_prob[0], log_prob[2] = 5.0, -1.0
    for _ in range(2000):
        learned.step(log_prob - learned.values(by_goal()).log().unsqueeze(1), by_goal())
    assert (learned.values(by_goal()).diff() < 0).all()
    learned.restart()
    assert torch.equal(learned.values(by_goal()), torch.ones(T).double())


def test_with_one_hots_for_goals_the_weights_move_as_temperatures_of_tasks():
    log_prob, one_hot = torch.randn(T, B).double(), torch.eye(T).repeat_interleave(B, 0).double()
    alone = torch.zeros(T, dtype=torch.float64, requires_grad=True)
    LearnedTemperatures(alone, torch.optim.Adam([alone]), -2.0).step(log_prob)
    learned = temperatures([0.0] * (T + 1))
    learned.step(log_prob, torch.cat([one_hot, one_hot], 1))  # the goal, and then the task
    torch.testing.assert_close(learned.log_alpha.grad[:T] * T, alone.grad)


def test_an_update_takes_the_temperature_of_each_blocks_goal():
    agent = toy_agent(**GOALS)
    agent.learn(2 * 25)
    drawn = Batch(*agent.replay_buffer.sample(8))
    expected = agent.update.temperatures.values(drawn.observations)
    report = agent.update.update(drawn, Turn(actor=True, target=True))
    assert torch.equal(report.numbers["ent_coef"], expected)
    w, b = agent.log_ent_coef[:2], agent.log_ent_coef[2]
    goals = drawn.observations[::8, :2]
    now = agent.update.temperatures.values(drawn.observations)
    torch.testing.assert_close(now, (goals @ w + b).exp().detach())
    assert not torch.equal(now, expected)


class Wander(envs.toy.PointReach):
    """With a new goal in each episode, which is observed."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)

    def reset(self, **options):
        super().reset(**options)
        self.goal = self.np_random.uniform(-1, 1, 2)
        return self._observation(), {}

    def step(self, action):
        *found, info = super().step(action)
        return *found, {**info, "goal_distance": math.dist(self._position, self.goal)}

    def _observation(self):
        return np.concatenate([self._position, self.goal]).astype(np.float32)


def test_goals_that_were_never_seen_are_reached():
    """From 0.75 away to 0.2 to 0.26 on average, in all three places alike."""
    training, other = (from_gymnasium([lambda: Wander(0, 1)] * 3, ["a", "b", "c"], seed=seed) for seed in (0, 1))
    form = {"actor_width": 32, "critic_width": 32, "conditioning": "goal", "goal_size": 2, "embedding_size": 8}
    values = {"learning_rate": 3e-3, "gamma": 0.9, "tau": 0.02, "batch_size": 16, "buffer_size": 2000}
    agent = toy_agent(training, **{**GOALS, **values, "policy_kwargs": form | {"actor_depth": 2, "critic_depth": 2}})
    before = evaluate(agent, other, 10).goal_distance
    agent.learn(3 * 1300)
    after = evaluate(agent, other, 10).goal_distance
    assert before.mean() > 0.6
    assert (after.mean(1) < 0.4).all()


def test_a_captured_update_is_the_eager_one():
    assert_captured_as_eager(steps=28, **GOALS)


def test_a_resumed_agent_goes_on_bit_for_bit(tmp_path):
    whole = toy_agent(**GOALS)
    whole.learn(2 * 40)
    env = envs.toy.make(num_tasks=2, seed=0)
    agent = toy_agent(env, **GOALS)
    agent.learn(2 * 30)
    path = save_checkpoint(tmp_path, agent, env)
    resumed = load_checkpoint(path, envs.toy.make(num_tasks=2, seed=0), device="cpu")
    resumed.learn(2 * 10, reset_num_timesteps=False)
    assert torch.equal(resumed.log_ent_coef, whole.log_ent_coef)
    assert_same_tensors(state_of(whole), state_of(resumed))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"goal_temperature": True}, "goal_temperature is a function of the goal that a batch has: it needs episode_b"),
        ({"goal_temperature": True, "ent_coef": "0.1"}, "goal_temperature is for learned temperatures; ent_coef=0.1"),
        (
            {"goal_temperature": True, "episode_batches": True, "shared_temperature": True},
            "shared_temperature is for temperatures of tasks; goal_temperature has none: take one of them",
        ),
        (
            {"goal_temperature": True, "episode_batches": True, "ent_coef_min": 0.1},
            "ent_coef_min is for temperatures of tasks",
        ),
        (
            {"return_scale": "brc", "policy_kwargs": {**SMALL, "conditioning": "goal", "goal_size": 2}},
            "return_scale='brc' gives each task a unit of its own, and networks with conditioning='goal' do not see",
        ),
    ],
    ids=str,
)
def test_what_makes_no_sense_together_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        toy_agent(**settings)
    flags = settings | settings.get("policy_kwargs", {})
    with pytest.raises(ValueError, match=message.replace("=0.1", "='0.1'")):
        check(TrainConfig(**{name: value for name, value in flags.items() if name != "policy_kwargs"}))


@pytest.mark.parametrize(
    "settings",
    [
        {"policy_kwargs": {**SMALL, "conditioning": "goal", "goal_size": 3}},
        {"policy_kwargs": {**SMALL, "goal_size": 3}, "goal_temperature": True, "episode_batches": True},
    ],
)
def test_a_goal_longer_than_an_observation_is_told(settings):
    with pytest.raises(ValueError, match="goal_size: expected at most 2, the numbers of an observation; found 3"):
        toy_agent(**settings)


def test_a_torso_that_takes_the_task_is_refused_beside_it():
    with pytest.raises(ValueError, match="conditioning='goal' is an architecture of actor and critics alike"):
        make_policy(conditioning="goal", actor_torso="moe", experts=2)
