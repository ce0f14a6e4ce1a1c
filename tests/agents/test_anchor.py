"""With one task and the mean, MTSAC is SAC of Stable-Baselines3 and MTTD3 its TD3: the same numbers."""

import pytest
import torch
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import set_random_seed

import envs.toy
from agents import MTSAC, MTTD3, TaskReplayBuffer

WIDTH, ACTIONS, TOLERANCE = 16, 2, 1e-10


@pytest.fixture(autouse=True)
def float64_in_sb3(monkeypatch):
    """SB3 turns observations into float32; these tests compare in float64."""
    monkeypatch.setattr("stable_baselines3.common.policies.preprocess_obs", lambda obs, *_, **__: obs.double())


def pair(method, **common):
    """Stable-Baselines3's agent and ours with the same parameters, buffers and settings, in float64.

    :param method: "td3", or the temperature of SAC.
    """
    buffer = {"replay_buffer_kwargs": {"seed": 3, "dtype": torch.float64}, "buffer_size": 300}
    settings = {"learning_rate": 3e-4, "seed": 1, "device": "cpu", **buffer, **common}
    sizes = {"actor_width": WIDTH, "actor_depth": 2, "critic_width": WIDTH, "critic_depth": 2}
    kind, our_kind, their_own, own = SAC, MTSAC, {}, {}
    if method == "td3":
        kind, our_kind, settings["policy_delay"] = TD3, MTTD3, 2
        their_own, own = {"target_policy_noise": 0.4, "target_noise_clip": 0.3}, {"target_noise": 0.4}
        own, sizes = {**own, "target_noise_clip": 0.3}, {**sizes, "exploration_noise": 0.0}
    else:
        settings["ent_coef"] = method
    their_env, our_env = (envs.toy.make(num_tasks=1, seed=5) for _ in range(2))
    their_own |= {"replay_buffer_class": TaskReplayBuffer, "policy_kwargs": {"net_arch": [WIDTH] * 2}}
    their_agent = kind("MlpPolicy", their_env, **their_own, **settings)
    our_agent = our_kind("MlpPolicy", our_env, "mean", overlap=False, policy_kwargs=sizes, **own, **settings)
    for model in (their_agent, our_agent):
        model.policy.double()
        model.set_logger(configure(None, []))
        for name in ("log_ent_coef", "ent_coef_tensor"):
            if (temperature := getattr(model, name, None)) is not None:
                temperature.data = temperature.data.double()
    with torch.no_grad():
        for theirs, ours in zip(sb3_tensors(their_agent), our_tensors(our_agent), strict=True):
            theirs.copy_(ours)
    return their_agent, our_agent


def sb3_tensors(sac, of=lambda parameter, optimizer: parameter):
    """SAC's tensors in our layout and order; `of` picks the parameter or something of its optimizer's state."""
    actor = [of(p, sac.actor.optimizer) for p in sac.actor.parameters()]
    tensors = list(actor[:4])
    for network, optimizer in ((sac.critic, sac.critic.optimizer), (sac.critic_target, None)):
        for members in zip(*(q.parameters() for q in network.q_networks), strict=True):
            tensors += [of(p, optimizer) for p in members]
    return [*tensors, *actor[4:], *target_actor(sac, of)]


def our_tensors(mtsac, of=lambda parameter, optimizer: parameter):
    """The same tensors of MTSAC: each critic by itself, weights as (out, in), mean and log std apart."""
    actor = [of(p, mtsac.actor.optimizer) for p in mtsac.actor.parameters()]
    tensors = list(actor[:4])
    for network, optimizer in ((mtsac.critic, mtsac.critic.optimizer), (mtsac.critic_target, None)):
        for parameter in network.parameters():
            tensor = of(parameter, optimizer)
            tensors += [member.T if member.shape[0] > 1 else member[0] for member in tensor]
    weight, bias = actor[4:]
    if isinstance(mtsac, MTTD3):
        return [*tensors, weight, bias, *target_actor(mtsac, of)]
    return [*tensors, weight[:ACTIONS], bias[:ACTIONS], weight[ACTIONS:], bias[ACTIONS:]]


def target_actor(model, of):
    target = getattr(model.policy, "actor_target", None)
    return [of(p, None) for p in target.parameters()] if target is not None else []


def moment(name):
    return lambda p, optimizer: optimizer.state[p][name] if optimizer is not None else torch.zeros_like(p)


def assert_same(sac, mtsac):
    for of in (lambda p, _: p, moment("exp_avg"), moment("exp_avg_sq")):
        for theirs, ours in zip(sb3_tensors(sac, of), our_tensors(mtsac, of), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)
    if getattr(sac, "log_ent_coef", None) is not None:
        torch.testing.assert_close(mtsac.log_ent_coef, sac.log_ent_coef, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("method", ["auto", 0.2, "td3"])
def test_twenty_updates_equal_sb3s(method):
    sac, mtsac = pair(method)
    rows = torch.randn(300, 1, mtsac.replay_buffer.rows.shape[-1], generator=torch.Generator().manual_seed(0)).double()
    rows[..., -3] = (rows[..., -3] > 1).double()  # terminated
    for model in (sac, mtsac):
        model.replay_buffer.load_state_dict({**model.replay_buffer.state_dict(), "rows": rows, "full": True})
        set_random_seed(7)
        model.train(20, batch_size=32)
    assert_same(sac, mtsac)


@pytest.mark.parametrize(("method", "steps"), [("auto", 200), (0.2, 80), ("td3", 80)])
def test_learning_equals_sb3s(method, steps):
    """Through episodes' ends, and where the buffer wraps."""
    sac, mtsac = pair(method, learning_starts=30, batch_size=16, buffer_size=60)
    for model in (sac, mtsac):
        set_random_seed(7)
        model.action_space.seed(7)
        model.learn(steps)
    assert mtsac.num_timesteps == sac.num_timesteps == steps
    ours, theirs = (model.replay_buffer.rows[:steps] for model in (mtsac, sac))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)
    assert_same(sac, mtsac)
