"""With one task and the mean, MTSAC is Stable-Baselines3's SAC: same parameters, moments and temperature."""

import pytest
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import set_random_seed

import envs.toy
from agents import MTSAC, TaskReplayBuffer

WIDTH, ACTIONS, TOLERANCE = 16, 2, 1e-10


@pytest.fixture(autouse=True)
def float64_in_sb3(monkeypatch):
    """SB3 turns observations into float32; these tests compare in float64."""
    monkeypatch.setattr("stable_baselines3.common.policies.preprocess_obs", lambda obs, *_, **__: obs.double())


def pair(ent_coef, **common):
    """An SAC and an MTSAC with the same parameters, buffers and settings, in float64."""
    buffer = {"replay_buffer_kwargs": {"seed": 3, "dtype": torch.float64}, "buffer_size": 300}
    settings = {"ent_coef": ent_coef, "seed": 1, "device": "cpu", **buffer, **common}
    sac_env, mtsac_env = (envs.toy.make(num_tasks=1, seed=5) for _ in range(2))
    sac = SAC(
        "MlpPolicy", sac_env, replay_buffer_class=TaskReplayBuffer, policy_kwargs={"net_arch": [WIDTH] * 2}, **settings
    )
    sizes = {"actor_width": WIDTH, "actor_depth": 2, "critic_width": WIDTH, "critic_depth": 2}
    mtsac = MTSAC("MultiTaskMlpPolicy", mtsac_env, aggregator="mean", overlap=False, policy_kwargs=sizes, **settings)
    for model in (sac, mtsac):
        model.policy.double()
        model.set_logger(configure(None, []))
        temperature = model.log_ent_coef if model.log_ent_coef is not None else model.ent_coef_tensor
        temperature.data = temperature.data.double()
    with torch.no_grad():
        for theirs, ours in zip(sb3_tensors(sac), our_tensors(mtsac), strict=True):
            theirs.copy_(ours)
    return sac, mtsac


def sb3_tensors(sac, of=lambda parameter, optimizer: parameter):
    """SAC's tensors in our layout and order; `of` picks the parameter or something of its optimizer's state."""
    actor = [of(p, sac.actor.optimizer) for p in sac.actor.parameters()]
    tensors = list(actor[:4])
    for network, optimizer in ((sac.critic, sac.critic.optimizer), (sac.critic_target, None)):
        for members in zip(*(q.parameters() for q in network.q_networks), strict=True):
            tensors += [of(p, optimizer) for p in members]
    return [*tensors, *actor[4:]]


def our_tensors(mtsac, of=lambda parameter, optimizer: parameter):
    """The same tensors of MTSAC: each critic by itself, weights as (out, in), mean and log std apart."""
    actor = [of(p, mtsac.actor.optimizer) for p in mtsac.actor.parameters()]
    tensors = list(actor[:4])
    for network, optimizer in ((mtsac.critic, mtsac.critic.optimizer), (mtsac.critic_target, None)):
        for parameter in network.parameters():
            tensor = of(parameter, optimizer)
            tensors += [member.T if member.shape[0] > 1 else member[0] for member in tensor]
    weight, bias = actor[4:]
    return [*tensors, weight[:ACTIONS], bias[:ACTIONS], weight[ACTIONS:], bias[ACTIONS:]]


def moment(name):
    return lambda p, optimizer: optimizer.state[p][name] if optimizer is not None else torch.zeros_like(p)


def assert_same(sac, mtsac):
    for of in (lambda p, _: p, moment("exp_avg"), moment("exp_avg_sq")):
        for theirs, ours in zip(sb3_tensors(sac, of), our_tensors(mtsac, of), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)
    if sac.log_ent_coef is not None:
        torch.testing.assert_close(mtsac.log_ent_coef, sac.log_ent_coef, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("ent_coef", ["auto", 0.2])
def test_twenty_updates_equal_sb3s(ent_coef):
    sac, mtsac = pair(ent_coef)
    rows = torch.randn(300, 1, mtsac.replay_buffer.rows.shape[-1], generator=torch.Generator().manual_seed(0)).double()
    rows[..., -3] = (rows[..., -3] > 1).double()  # terminated
    for model in (sac, mtsac):
        model.replay_buffer.load_state_dict({**model.replay_buffer.state_dict(), "rows": rows, "full": True})
        set_random_seed(7)
        model.train(20, batch_size=32)
    assert_same(sac, mtsac)


@pytest.mark.parametrize("ent_coef", ["auto", 0.2])
def test_learning_for_500_steps_equals_sb3s(ent_coef):
    sac, mtsac = pair(ent_coef, learning_starts=50, batch_size=16)
    for model in (sac, mtsac):
        set_random_seed(7)
        model.action_space.seed(7)
        model.learn(500)
    assert mtsac.num_timesteps == sac.num_timesteps == 500
    torch.testing.assert_close(mtsac.replay_buffer.rows, sac.replay_buffer.rows, rtol=0, atol=TOLERANCE)
    assert_same(sac, mtsac)
