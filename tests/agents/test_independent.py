"""Independent SAC as an algorithm: each task learns what Stable-Baselines3's SAC would learn alone."""

from functools import partial

import numpy as np
import pytest
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.sac.policies import SACPolicy

import envs
from agents import MTSAC, CheckpointCallback, IndependentSAC, StateFileError, load_checkpoint, save_actor
from agents.saving.agent_file import training_state
from envs.toy import PointReach, make
from tests.helpers import tensors, toy_agent

DEPTHS = {"actor_depth": 2, "critic_depth": 2}
SIZES = {"actor_width": 8, "critic_width": 8, "optimizer_kwargs": {"eps": 1e-5}}
T, STEPS = 2, 24  # per task


def independent(env, **settings):
    chosen = {
        "learning_starts": 15 * T,
        "batch_size": 4,
        "buffer_size": 40,
        "learning_rate": 1e-3,
        "seed": 0,
        "gamma": 0.9,
    }
    return IndependentSAC("MlpPolicy", env, policy_kwargs=SIZES, device="cpu", **{**chosen, **settings})


class Scaled(VecEnvWrapper):
    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, rewards * np.float32(0.5), dones, infos


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_task_is_learned_by_stable_baselines3_as_anyone_would_call_it(layer_norm):
    points = [partial(PointReach, task, T, horizon=10) for task in range(T)]
    agent = IndependentSAC(
        "MlpPolicy", envs.from_gymnasium(points, ["a", "b"]), learning_starts=15 * T, batch_size=4, learning_rate=1e-3,
        reward_scale=0.5, n_steps=2, seed=3, device="cpu",
        policy_kwargs={**SIZES, **DEPTHS, "actor_layer_norm": layer_norm, "critic_layer_norm": layer_norm},
    ).learn(T * STEPS)  # fmt: skip
    for task, name in enumerate("ab"):
        seed = int(np.random.SeedSequence([3, task]).generate_state(1)[0])
        norm = (lambda: torch.nn.Sequential(torch.nn.LayerNorm(8), torch.nn.ReLU())) if layer_norm else torch.nn.ReLU
        sac = SAC(
            "MlpPolicy", Scaled(envs.from_gymnasium([points[task]], [name], seed)), learning_rate=1e-3, batch_size=4,
            learning_starts=15, buffer_size=100_000, n_steps=2, seed=seed, device="cpu",
            policy_kwargs={"net_arch": [8, 8], "activation_fn": norm, "optimizer_kwargs": {"eps": 1e-5}},
        ).learn(STEPS)  # fmt: skip
        ours, theirs = (tensors(each.policy.state_dict()) for each in (agent.learners[task].sac, sac))
        assert all(np.array_equal(*pair) for pair in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("settings", [{}, {"high_reward_fraction": 0.5, "n_steps": 3}], ids=["plain", "own buffer"])
def test_stopped_and_resumed_it_is_the_one_that_never_stopped(tmp_path, settings):
    whole = independent(make(num_tasks=T, seed=0), **settings).learn(T * 2 * STEPS)
    stopped = independent(make(num_tasks=T, seed=0), **settings)
    stopped.learn(T * (STEPS + 7), callback=CheckpointCallback(tmp_path, every=STEPS))
    resumed = load_checkpoint(tmp_path / f"step_{STEPS:09d}", make(num_tasks=T, seed=0), "cpu", IndependentSAC)
    resumed.learn(T * STEPS, reset_num_timesteps=False)
    states = []
    for agent in (whole, resumed):
        state = [training_state(agent), agent.replay_buffer.state_dict()]
        del state[0]["counters"]["seconds"], state[0]["counters"]["_total_timesteps"]
        states.append(state)
    pairs = list(zip(*map(tensors, states), strict=True))
    assert len(pairs) > 50
    assert all(np.array_equal(*pair) for pair in pairs)
    assert repr(states[0][0]["counters"]) == repr(states[1][0]["counters"])


def test_an_observation_is_for_the_actor_of_its_one_hot(tmp_path):
    agent = independent(make(num_tasks=T, seed=0))
    rows = np.array([[0.5, -0.5, 0, 1], [0.5, -0.5, 1, 0], [0.1, 0.2, 0, 1]], np.float32)
    actions, _ = agent.predict(rows, deterministic=True)
    alone = np.concatenate([rows[:, :2], np.ones((3, 1), np.float32)], axis=1)
    for task, row, action in zip([1, 0, 1], alone, actions, strict=True):
        np.testing.assert_array_equal(agent.learners[task].sac.predict(row, deterministic=True)[0], action)
    np.testing.assert_array_equal(agent.predict(rows[0], deterministic=True)[0], actions[0])
    agent.save(tmp_path / "agent")
    np.testing.assert_array_equal(IndependentSAC.load(tmp_path / "agent", device="cpu").eval_action(rows), actions)


def test_a_file_opens_with_the_class_that_saved_it(tmp_path):
    independent(make(num_tasks=T, seed=0)).save(tmp_path / "independent")
    toy_agent().save(tmp_path / "joint")
    for kind, name in ((MTSAC, "independent"), (IndependentSAC, "joint")):
        with pytest.raises(StateFileError, match=f"holds no {kind.__name__}"):
            kind.load(tmp_path / name, device="cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_grad_norm": 1.0}, "max_grad_norm: expected 0.0, as plain SAC has it; found 1.0"),
        ({"policy_kwargs": {"multi_head": True}}, "multi_head: expected False, as plain SAC has it"),
        ({"policy_kwargs": {"actor_widht": 8}}, "no setting 'actor_widht'; did you mean actor_width"),
        ({"policy_kwargs": {"optimizer_class": torch.optim.SGD}}, "no setting 'optimizer_class'"),
        ({"policy": SACPolicy}, "expected 'MlpPolicy', .* found <class"),
        ({"reward_scale": (1.0, 2.0, 3.0)}, r"one number or one per task \(2\)"),
    ],
    ids=str,
)
def test_what_plain_sac_has_not_is_refused(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        IndependentSAC(**{"policy": "MlpPolicy", "env": make(num_tasks=T, seed=0), "device": "cpu", **settings})


def test_what_one_network_has_is_refused(tmp_path):
    agent = independent(make(num_tasks=T, seed=0))
    with pytest.raises(NotImplementedError, match="a network per task"):
        agent.export_onnx(tmp_path / "agent.onnx")
    with pytest.raises(NotImplementedError, match="a network per task"):
        agent.get_parameters()
    with pytest.raises(ValueError, match="one actor for all tasks; found IndependentSAC"):
        save_actor(agent, tmp_path / "actor.safetensors")
