"""What multi-task SAC promises beyond a single task: wiring, guards, logs, evaluation, and that it learns."""

import math
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import StopTrainingOnMaxEpisodes
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import envs
import envs.toy
import mtrl
from agents import MTSAC, EvaluationCallback, NonFiniteError, evaluate, load_checkpoint, save_checkpoint
from agents.learning.metrics import StepPath
from agents.learning.update import Batch
from agents.saving.agent_file import training_state
from envs import from_gymnasium
from tests.helpers import SMALL, NoSynchronisation, logged, tensors, toy_agent
from tests.odd_tasks import Countdown


def test_every_task_takes_part():
    agent = toy_agent(envs.toy.make(num_tasks=5, seed=0), log_conflicts=1)
    start = agent.log_ent_coef.detach().clone()
    rows = logged(agent, 60)
    assert agent.replay_buffer.rows.shape[1] == agent.num_tasks == 5  # from the environment, never from an argument
    assert (agent.log_ent_coef.detach() != start).all()
    for task in agent.task_names:
        assert agent.metrics()[f"train/critic_norms/{task}"] > 0
        assert agent.metrics()[f"train/actor_norms/{task}"] > 0
    assert rows == []  # log_every was not reached


def test_a_temperature_moves_by_its_own_tasks_loss_alone():
    agent = toy_agent()
    log_prob = torch.tensor([[4.0, 6.0], [-5.0, -7.0]])
    agent.update.temperatures.step(log_prob)
    expected = -(log_prob.mean(1) + agent.target_entropy)
    torch.testing.assert_close(agent.log_ent_coef.grad, expected)
    moved = agent.log_ent_coef.detach().clone()
    agent.update.temperatures.step(torch.tensor([[4.0, 6.0], [50.0, 70.0]]))
    assert agent.log_ent_coef[0] > moved[0]  # as before, whatever the other task's policy does


def test_one_row_per_log_interval_although_all_episodes_end_together():
    rows = logged(toy_agent(log_every=10), 60)
    assert [row["step"] for row in rows] == [20, 40, 60, 80, 100, 120]
    assert "rollout/success/point-1" in rows[-1]
    assert "train/ent_coef/point-0" in rows[-1]


def test_the_environment_steps_while_the_networks_learn():
    pending = {}
    for overlap in (True, False):
        agent = toy_agent(overlap=overlap)
        train = agent.train

        def spy(*args, agent=agent, train=train, overlap=overlap, **kwargs):
            pending.setdefault(overlap, []).append(agent.env._pending)
            train(*args, **kwargs)

        agent.train = spy
        agent.learn(2 * 30)
        assert not agent.env._pending
    assert pending[False] == [False] * 10
    assert pending[True] == [True] * 9 + [False]  # `learn` ends with the last step collected


def test_an_interrupted_learn_leaves_nothing_pending():
    agent = toy_agent()

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    agent.train = interrupt
    with pytest.raises(KeyboardInterrupt):
        agent.learn(2 * 30)
    assert not agent.env._pending
    del agent.train
    agent.learn(2 * 30, reset_num_timesteps=False)


@pytest.mark.parametrize("fault", ["reward", "observation"])
def test_non_finite_numbers_stop_the_run_and_name_the_task_and_what_its_environment_gave(fault, tmp_path):
    class Broken(envs.toy.PointReach):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            spoil = math.nan if reward < -0.1 else 1.0
            given = {"observation": observation, "reward": reward}
            given[fault] = spoil * given[fault]
            return *given.values(), *rest

    factories = [lambda: envs.toy.PointReach(0, 2), lambda: Broken(1, 2)]
    env = from_gymnasium(factories, ["good", "bad"], seed=0)
    agent = toy_agent(env, ent_coef=0.1)
    agent.learn(2 * 10)
    path = save_checkpoint(tmp_path, agent, env)
    with pytest.raises(NonFiniteError, match="critic loss of task bad became non-finite") as caught:
        agent.learn(2 * 200, reset_num_timesteps=False)
    assert (caught.value.task, caught.value.quantity, caught.value.source) == ("bad", "critic loss", fault)
    assert f"The task's environment gave {fault}s that are not finite: mend it" in str(caught.value)
    with pytest.raises(NonFiniteError):
        save_checkpoint(tmp_path, agent, env)
    assert [p.name for p in tmp_path.iterdir() if "partial" not in p.name] == [path.name]
    if fault == "reward":  # the observation that is restored is a good one
        assert load_checkpoint(path, env, device="cpu").steps_per_task == 10


def test_evaluation_does_not_disturb_training():
    plain = toy_agent()
    plain.learn(2 * 50)
    watched, results = toy_agent(), []
    callback = EvaluationCallback(envs.toy.make(num_tasks=2, seed=9), 10, 2, lambda *result: results.append(result))
    watched.learn(2 * 50, callback=callback)
    assert [steps for steps, _ in results] == [10, 20, 30, 40, 50]
    pairs = zip(tensors(training_state(plain)), tensors(training_state(watched)), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_an_evaluation_counts_any_step_and_last_step_success():
    """Countdown succeeds at its second step of three and pays 1, 2, 3."""
    env = from_gymnasium([lambda: Countdown("truncated")] * 2, ["a", "b"])
    agent = MTSAC("MultiTaskMlpPolicy", env, "mean", device="cpu")
    result = evaluate(agent, env, 4)
    assert result.task_names == ("a", "b")
    for found, expected in zip(result[1:], (1.0, 0.0, 6.0, 3.0, 2.0, np.nan), strict=True):
        assert np.array_equal(found, np.full((2, 4), expected), equal_nan=True)
    assert result.mean_success == 1.0


def test_options_change_the_losses_as_documented():
    base, scaled = toy_agent(), toy_agent(reward_scale=[1.0, 3.0])
    base.learn(2 * 21)
    batch = Batch(*base.replay_buffer.sample(4))
    alpha = torch.tensor([0.1, 0.2])
    targets = []
    for agent in (base, scaled):
        agent.policy.load_state_dict(base.policy.state_dict())
        torch.manual_seed(0)
        targets.append(agent.update.target(batch, alpha).squeeze(-1))
    rewards = base.update.by_task(batch.rewards.squeeze(1))
    torch.testing.assert_close(targets[1] - targets[0], torch.stack([0 * rewards[0], 2 * rewards[1]]))
    weights = toy_agent(loss_weighting="temperature").update.loss_weights(alpha)
    torch.testing.assert_close(weights, 2 * torch.softmax(-torch.log(alpha), 0))
    assert base.update.loss_weights(alpha) == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1; found 0"),
        ({"gradient_steps": -1}, "gradient_steps"),
        ({"learning_starts": -1}, "learning_starts: expected 0 or more; found -1"),
        ({"gamma": 1.5}, "gamma: expected between 0 and 1"),
        ({"max_grad_norm": -1.0}, "max_grad_norm: expected 0 or more"),
        ({"learning_rate": "cosine:1e-3"}, "learning_rate: expected more than 0, or linear:3e-4, a schedule"),
        ({"aggregator": "pcgrd"}, "unknown aggregator 'pcgrd'"),
        ({"aggregator": "mean", "aggregator_kwargs": {"seed": 1}}, "has no option seed"),
        ({"aggregator": mtrl.PCGrad(), "aggregator_kwargs": {"seed": 1}}, "has its options already"),
        ({"reward_scale": [1.0, 2.0, 3.0]}, "one number or one per task"),
        *(
            ({"reward_scale": wrong}, "reward_scale: expected finite factors above 0")
            for wrong in (0, -1.0, [1.0, np.nan], np.inf)
        ),
        *(
            ({"ent_coef": wrong}, "ent_coef: expected auto, auto_X")
            for wrong in (-1, np.nan, np.inf, "auto_0", "auto_x", "x")
        ),
        *(
            ({"learning_rate": wrong}, "learning_rate: expected more than 0")
            for wrong in (np.inf, np.nan, "linear:abc", "linear:-1", None)
        ),
        *(
            ({"target_entropy": wrong}, "target_entropy: expected auto or a finite number")
            for wrong in ("-2", np.nan, None)
        ),
        *(({"seed": wrong}, "seed: expected") for wrong in (-1, 2**32, 0.5)),
        ({"ent_coef": 0.0, "loss_weighting": "temperature"}, "needs an ent_coef above 0"),
        ({"tau": 0.0}, "tau: expected more than 0, at most 1"),
        ({"max_grad_norm": np.inf}, "max_grad_norm: expected a finite number"),
        ({"stats_window_size": 0}, "stats_window_size: expected at least 1"),
        ({"critic_aggregator_kwargs": {"seed": 1}}, "critic_aggregator_kwargs.*none is named"),
        *(({"policy_kwargs": {name: 1}}, f"MTSAC sets {name} itself") for name in ("num_tasks", "use_sde")),
        *(({"replay_buffer_kwargs": {name: 1}}, f"MTSAC sets {name} itself") for name in ("n_steps", "gamma")),
        ({"policy_kwargs": {"actor_width": 0}}, "actor_width: expected at least 1; found 0"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        toy_agent(**settings)


def test_environments_that_do_not_fit_are_refused():
    env = envs.toy.make(num_tasks=2, seed=0)
    with pytest.raises(ValueError, match="VecNormalize mixes the tasks"):
        toy_agent(VecNormalize(env))
    with pytest.raises(ValueError, match="identity"):
        toy_agent(DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")] * 2)).learn(10)
    with pytest.raises(ValueError, match="one-hot"):
        toy_agent(DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")] * 3))
    with pytest.raises(ValueError, match="built for the tasks"):
        toy_agent(env).set_env(envs.toy.make(num_tasks=3, seed=0))


def test_gymnasiums_vector_environments_are_refused_with_advice():
    theirs = gymnasium.make_vec("Pendulum-v1", num_envs=2)
    for call in (lambda: toy_agent(theirs), lambda: toy_agent().set_env(theirs)):
        with pytest.raises(ValueError, match=r"found Gymnasium's SyncVectorEnv\. envs\.make"):
            call()


def test_actor_and_critic_never_share_an_aggregators_state():
    given = mtrl.PCGrad(seed=4)
    agent = toy_agent(aggregator=given)
    assert len({id(a) for a in (given, agent.aggregator, agent.critic_aggregator)}) == 3
    assert toy_agent(seed=5).aggregator.seed == 5  # the agent's seed, unless the options name one
    assert toy_agent(aggregator_kwargs={"seed": 7}).critic_aggregator.seed == 7
    mixed = toy_agent(critic_aggregator="mean")
    assert isinstance(mixed.aggregator, mtrl.PCGrad)
    assert isinstance(mixed.critic_aggregator, mtrl.Mean)


def test_it_solves_the_toy_tasks():
    """Four tasks whose goals pull apart; near the optimum that is known in closed form.

    With PCGrad; the mean's updates are those of Stable-Baselines3 (`test_anchor.py`), and reach the values that are
    known (`test_value_learning.py`).
    """
    env = envs.toy.make(num_tasks=4, conflict=1.0, seed=0)
    settings = {"batch_size": 32, "learning_starts": 400, "buffer_size": 2000, "learning_rate": 2e-3, "tau": 0.02}
    sizes = {"actor_width": 48, "actor_depth": 2, "critic_width": 48, "critic_depth": 2}
    agent = toy_agent(env, gamma=0.9, policy_kwargs=sizes, **settings)
    untrained = evaluate(agent, envs.toy.make(num_tasks=4, conflict=1.0, seed=1), 10)
    agent.learn(
        4 * 1600
    )  # after 1200, five of twelve seeds let one task pass its goal and end beyond it; now none does
    trained = evaluate(agent, envs.toy.make(num_tasks=4, conflict=1.0, seed=1), 10)
    assert untrained.mean_success < 0.5
    assert trained.success.mean(1).min() >= 0.9
    assert trained.success_last.mean() >= 0.9


def test_a_method_that_looks_back_sees_the_losses_after_the_step():
    class Watcher(mtrl.PCGrad):
        seen: ClassVar[list[tuple[torch.Tensor, torch.Tensor]]] = []

        def weights(self, gramian, losses):
            self.before = losses.clone()
            return super().weights(gramian, losses)

        def after_step(self, losses):
            self.seen.append((self.before, losses))

    agent = toy_agent(aggregator=Watcher(), learning_rate=1e-2)
    agent.learn(2 * 40)
    assert len(Watcher.seen) == 2 * 20
    fell = [after.sum() < before.sum() for before, after in Watcher.seen]
    assert np.mean(fell) > 0.8  # on the same batch and noise, a step lowers the losses


def test_learn_ends_at_its_total_in_mid_rollout_and_goes_on_there():
    settings = {"train_freq": 7, "gradient_steps": 3}
    straight = toy_agent(**settings)
    straight.learn(2 * 60)
    parted = toy_agent(**settings)
    parted.learn(2 * 40)
    assert parted.steps_per_task == 40
    parted.learn(2 * 20, reset_num_timesteps=False)
    assert parted.steps_per_task == straight.steps_per_task == 60
    pairs = zip(tensors(training_state(parted)), tensors(training_state(straight)), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_third_party_callbacks_find_their_names():
    agent = toy_agent(envs.toy.make(num_tasks=2, seed=0, horizon=5))
    agent.learn(2 * 30, callback=StopTrainingOnMaxEpisodes(max_episodes=2))
    assert agent.steps_per_task == 10


def test_steps_and_updates_are_counted_per_task_whatever_the_environments_per_task():
    """Three per task: 100 steps are 34 vector steps. Warm-up, 20 steps, ends within the seventh: 28 rounds follow."""
    agent = toy_agent(envs.toy.make(num_tasks=2, seed=0, envs_per_task=3), log_every=20, gradient_steps=3)
    seen = []
    callback = EvaluationCallback(envs.toy.make(num_tasks=2, seed=9), 25, 1, lambda step, _: seen.append(step))
    rows = logged(agent, 100, callback=callback)
    assert (agent.num_tasks, agent.envs_per_task, agent.n_envs) == (2, 3, 6)
    assert (agent.steps_per_task, agent.num_timesteps, agent._n_updates) == (102, 204, 3 * 28)
    assert seen == [27, 51, 75, 102]  # the first vector step at or past a multiple of 25
    assert [row["step"] // 2 for row in rows] == [21, 42, 60, 81, 102]
    assert [row["time/env_steps_per_task"] for row in rows] == [21, 42, 60, 81, 102]
    assert agent.log_ent_coef.shape == (2,)
    assert (agent.replay_buffer.rows.shape[:2], agent.replay_buffer.size()) == ((120, 2), 102)


def test_a_seed_begins_every_stream_anew():
    """Buffer's and method's, too, which are not torch's; SB3's agents draw all from the process's."""
    agent = toy_agent(aggregator="pcgrad")
    logged(agent, 20)
    drawn = []
    for _ in range(2):
        agent.set_random_seed(11)
        orders = agent.critic_aggregator.draw_orders(5)
        drawn.append([agent.replay_buffer.sample(8).rewards, orders, torch.as_tensor(agent.action_space.sample())])
    for first, second in zip(*drawn, strict=True):
        assert torch.equal(first, second)
    agent.set_random_seed(None)  # nothing
    assert not torch.equal(agent.critic_aggregator.draw_orders(50), orders)


def test_metrics_per_task_come_from_all_of_its_environments():
    agent = toy_agent(envs.toy.make(num_tasks=2, seed=0, horizon=10, envs_per_task=3))
    agent.learn(2 * 3 * 10)
    episodes = agent.task_metrics.episodes
    assert [len(of_task) for of_task in episodes] == [3, 3]
    rewards = agent.replay_buffer.rows[:30, :, 4].reshape(10, 3, 2)  # times, environments, tasks
    for task, of_task in enumerate(episodes):
        np.testing.assert_allclose([e[1] for e in of_task], rewards[:, :, task].sum(0), rtol=1e-5)
        found = agent.metrics()[f"rollout/return/{agent.task_names[task]}"]
        assert found == pytest.approx(float(rewards[:, :, task].sum() / 3))


def test_another_number_of_environments_per_task_needs_load(tmp_path):
    agent = toy_agent(envs.toy.make(num_tasks=2, seed=0, envs_per_task=3))
    agent.learn(2 * 30)
    agent.save(tmp_path / "agent")
    agent.save_replay_buffer(tmp_path / "buffer")
    one = envs.toy.make(num_tasks=2, seed=0)
    with pytest.raises(ValueError, match=r"3 environments each, the environment has 2 columns, 1 for each task"):
        agent.set_env(one)
    MTSAC.load(tmp_path / "agent", device="cpu").set_env(envs.toy.make(num_tasks=2, envs_per_task=3))
    loaded = MTSAC.load(tmp_path / "agent", one, device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer")
    loaded.learn(2 * 5, reset_num_timesteps=False)
    assert (loaded.steps_per_task, loaded.replay_buffer.size()) == (35, 35)


def test_only_environments_with_whole_episodes_evaluate():
    for options in ({"envs_per_task": 2}, {"staggered": True}):
        with pytest.raises(ValueError, match="tasks with goals to share out, and whole episodes"):
            evaluate(toy_agent(), envs.toy.make(num_tasks=2, **options), 1)


def test_any_vector_environment_has_a_task_per_column():
    class OneHot(gymnasium.Env):
        observation_space, action_space = gymnasium.spaces.Box(-1, 1, (5,)), gymnasium.spaces.Box(-1, 1, (1,))

        def __init__(self, task):
            self.task = task

        def reset(self, *, seed=None, options=None):
            return np.array([0, 0, *np.eye(3)[self.task]], np.float32), {}

        def step(self, action):
            return self.reset()[0], 0.0, False, True, {}

    plain = DummyVecEnv([lambda task=task: OneHot(task) for task in range(3)])
    agent = toy_agent(plain)
    agent.learn(3 * 30)
    assert (agent.num_tasks, agent.steps_per_task, agent._n_updates) == (3, 30, 30 - 13)
    assert agent.task_names == ("task-0", "task-1", "task-2")
    plain.task_names = ["a", "b"]
    with pytest.raises(ValueError, match=r"1 columns for each of 2 tasks \(a, b\); the environment has 3"):
        toy_agent(plain)


def test_tasks_cannot_be_swapped():
    def make(*names):
        return from_gymnasium([lambda: envs.toy.PointReach(0, 2), lambda: envs.toy.PointReach(1, 2)], names)

    with pytest.raises(ValueError, match="built for the tasks"):
        toy_agent(make("x", "y")).set_env(make("y", "x"))


def test_damaged_parameters_are_not_saved(tmp_path):
    agent = toy_agent()
    with torch.no_grad():
        next(agent.actor.parameters())[0, 0] = float("inf")
    with pytest.raises(NonFiniteError, match="all tasks"):
        agent.save(tmp_path / "agent")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "form", [{}, {"critic_layer_norm": True, "precision": "bfloat16"}, {"multi_head": True}], ids=str
)
@pytest.mark.parametrize("aggregator", ["mean", "famo", "pcgrad", "mocograd", "sdmgrad"])
def test_an_update_never_waits_for_the_device(aggregator, form):
    """With a method that sees losses, one that looks back, and one that sees products, gradients, or two batches.

    That no method waits by itself is one of the promises of all (`tests/mtrl/test_promises.py`).
    """
    settings = {"max_grad_norm": 1.0, "loss_weighting": "temperature", "log_conflicts": 1}
    agent = toy_agent(aggregator=aggregator, policy_kwargs={**SMALL, **form}, **settings)
    agent.learn(2 * 22)  # two updates: optimizers have their moments
    agent._n_updates = 1  # not one at which the guard looks
    with NoSynchronisation():
        agent.train(3, 8)


@pytest.mark.parametrize("aggregator", ["mean", "pcgrad"])
def test_conflict_is_measured_now_and_then_and_logged_once(aggregator):
    agent = toy_agent(aggregator=aggregator, log_conflicts=10, log_every=5)
    found = logged(agent, 60)  # the first update, number 0, follows step 20
    with_cosines = [row for row in found if "cosines/critic" in row]
    assert [row["step"] // 2 for row in with_cosines] == [25, 35, 45, 55]
    assert all(("train/critic_curvature" in row) == ("cosines/critic" in row) for row in found)
    for row in with_cosines:
        assert np.allclose(row["cosines/actor"].diagonal(), 1)
        assert abs(row["cosines/critic"]).max() <= 1


def test_curvature_along_a_step():
    """On a quadratic it is step' H step, with the Hessian of the summed loss."""
    network = torch.nn.Linear(3, 1, bias=False).double()
    rows = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).double()

    def losses():
        return network(rows).square().mean((1, 2))

    path = StepPath(losses(), network)
    step = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    with torch.no_grad():
        network.weight += step
    hessian = 2 * (rows.mT @ rows / 5).sum(0)
    torch.testing.assert_close(path.curvature(losses().detach()), (step @ hessian @ step.T).squeeze())
