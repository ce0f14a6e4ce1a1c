"""MTSAC on real Meta-World: trained through workers that never import torch, and driven by metaworld's evaluation."""

import metaworld
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from metaworld.evaluation import evaluation

import envs
from agents import MTSAC
from envs.meta_world.suites import goal_vectors
from tests.helpers import SMALL
from tests.runs import libraries

TASKS = ["reach-v3", "drawer-close-v3"]


@pytest.fixture(scope="module")
def agent():
    goals = {name: vectors[:2] for name, vectors in goal_vectors(TASKS, "custom", 0).items()}
    env = envs.make("custom", 0, workers=2, tasks=TASKS, goals=goals, horizon=20)
    agent = MTSAC(
        "MultiTaskMlpPolicy", env, learning_starts=20, batch_size=8, policy_kwargs=SMALL, device="cpu", seed=0
    )
    agent.learn(2 * 30)
    yield agent
    env.close()


def test_workers_of_a_training_run_have_no_torch(agent):
    assert len(agent.env.worker_pids) == 2
    for pid in agent.env.worker_pids:
        assert "libmujoco" in libraries(pid)
        assert "libtorch" not in libraries(pid)


def test_each_task_learned_from_its_own_transitions(agent):
    assert agent._n_updates == 20
    hand = agent.replay_buffer.rows[:30, :, :3]
    assert not np.allclose(hand[:, 0], hand[:, 1])
    assert set(agent.metrics()) >= {f"train/critic_loss/{task}" for task in TASKS}


@pytest.mark.filterwarnings("ignore:.*precision lowered by casting")  # of metaworld's bounds, by Gymnasium
def test_metaworlds_own_evaluation_drives_the_agent(agent):
    def make(index, name):
        benchmark = metaworld.MT1(name, seed=0)
        return lambda: metaworld._init_each_env(
            benchmark.train_classes[name],
            benchmark.train_tasks,
            seed=0,
            max_episode_steps=15,
            use_one_hot=True,
            env_id=index,
            num_tasks=len(TASKS),
        )

    vector = SyncVectorEnv([make(i, name) for i, name in enumerate(TASKS)], autoreset_mode=AutoresetMode.SAME_STEP)
    mean_success, mean_return, success, returns = evaluation(agent, vector, num_episodes=2)
    vector.close()
    assert set(success) == set(returns) == set(TASKS)
    assert all(len(values) == 2 for values in returns.values())
    assert 0 <= mean_success <= 1
    assert mean_return > 0
