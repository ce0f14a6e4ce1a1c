"""What a training goes on from, and whether two of them are the same, bit for bit."""

import functools

import envs.toy
from agents.saving.agent_file import training_state
from agents.saving.checkpoint import rng_state
from tests.helpers import assert_same_tensors, toy_agent


def make_env(kind):
    if kind == "workers":
        return envs.toy.make(num_tasks=2, seed=0, workers=2)
    if kind == "two per task":
        return envs.toy.make(num_tasks=2, seed=0, envs_per_task=2, staggered=True)
    return envs.toy.make(num_tasks=2, seed=0)


def state_of(agent, env):
    """All that a training goes on from."""
    state = [training_state(agent), agent.replay_buffer.state_dict(), env.get_state(), rng_state(agent)]
    state[0]["counters"] = {k: v for k, v in state[0]["counters"].items() if k != "seconds"}
    return state


def assert_bit_equal(first, second):
    """Also what is no array: names, counters, settings."""
    assert_same_tensors(first, second)
    assert without_arrays(first) == without_arrays(second)


def without_arrays(state):
    if isinstance(state, dict):
        return {key: without_arrays(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [without_arrays(value) for value in state]
    return None if hasattr(state, "shape") else repr(state)


def learned(kind, total, **settings):
    """The state after `total` steps per task in one go."""
    env = make_env(kind)
    agent = toy_agent(env, **settings)
    agent.learn(2 * total)
    state = state_of(agent, env)
    env.close()
    return state


@functools.lru_cache(8)
def undisturbed(kind, total, **settings):
    """The same, computed once for all who ask, and changed by none."""
    return learned(kind, total, **settings)


def surgery_options():
    return {
        "aggregator": "pcgrad",
        "critic_aggregator": "mean",
        "policy_kwargs": {"actor_width": 8, "critic_width": 12, "multi_head": True, "critic_layer_norm": True},
        "loss_weighting": "temperature",
        "reward_scale": [0.5, 2.0],
        "max_grad_norm": 1.0,
        "learning_rate": "linear:1e-3",
        "ent_coef": "auto_0.1",
    }
