"""What every torso and conditioning that is offered promises, alone and with heads, ensembles and less precision."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import envs.toy
import mtrl
from agents import load_checkpoint, save_checkpoint
from agents.networks.conditionings import CONDITIONINGS
from agents.networks.torsos import TORSOS
from mtrl.gradients import per_task_gradients
from tests.helpers import SMALL, toy_agent
from tests.small_policies import B, T, actor_losses, batch, critic_losses, jacobian_of, make_policy, recorded
from tests.traced_graphs import assert_captured_as_eager

SIZES = {"experts": 2, "embedding_size": 3, "goal_size": 2, "actor_module_width": 5, "critic_module_width": 4}
TORSO_ROWS = [{"actor_torso": name, "critic_torso": name} for name in TORSOS]
ROWS = [*TORSO_ROWS, *({"conditioning": name} for name in CONDITIONINGS if name != "one-hot")]
OTHERS = [  # what else a network can have
    {"actor_layer_norm": True, "critic_layer_norm": True, "n_critics": 1},
    {"actor_torso": "bronet", "critic_torso": "bronet", "conditioning": "own-columns", "multi_head": True},
    {"actor_torso": "soft-modularization", "critic_torso": "soft-modularization", "critic_modules": 3},
    {"actor_torso": "paco", "critic_torso": "simba", "conditioning": "embedding", "n_critics": 3},
]
FORMS = [*ROWS, *({**row, "multi_head": True, "n_critics": 1, "critic_head": "c51"} for row in ROWS), *OTHERS]
NETWORKS = pytest.mark.parametrize(("name", "losses_of"), [("actor", actor_losses), ("critic", critic_losses)])
by_form, by_row = (pytest.mark.parametrize("form", forms, ids=str) for forms in (FORMS, ROWS))


def policy_of(form):
    return make_policy(**{**SIZES, **form})


@by_form
@NETWORKS
def test_one_backward_pass_gives_what_one_per_task_gives(name, losses_of, form, monkeypatch):
    policy = policy_of(form)
    tape, losses = recorded(policy, name, losses_of)
    expected = per_task_gradients(losses, tape.parameters)
    assert ((jacobian_of(tape, losses) - expected).norm(dim=1) <= 1e-12 * expected.norm(dim=1)).all()
    policy.float()
    rows = [tensor.float() for tensor in batch()]
    monkeypatch.setattr("tests.small_policies.batch", lambda: rows)
    tape, losses = recorded(policy, name, losses_of)
    found, expected = jacobian_of(tape, losses), per_task_gradients(losses, tape.parameters)
    assert found.dtype == torch.float32
    assert ((found - expected).norm(dim=1) <= 1e-6 * expected.norm(dim=1)).all()


@by_form
@NETWORKS
def test_surgery_is_the_same_by_both_routes(name, losses_of, form):
    """Every parameter, those of single tasks included."""
    policy = policy_of(form)
    network = getattr(policy, name)
    tape, losses = recorded(policy, name, losses_of)
    mtrl.backward(losses, mtrl.PCGrad(), tape=tape)
    by_blocks = [p.grad for p in network.parameters()]
    shared, own = network.shared_parameters(), network.task_parameters()
    mtrl.backward(losses_of(policy), mtrl.PCGrad(), parameters=shared, task_parameters=own)
    for parameter, blocks in zip(network.parameters(), by_blocks, strict=True):
        torch.testing.assert_close(blocks, parameter.grad, rtol=1e-9, atol=1e-12)


@by_form
@NETWORKS
def test_a_parameter_is_one_tasks_own_or_shared(name, losses_of, form):
    """No number that is named as a task's gets a gradient from two, and any other parameter has one that does."""
    policy = policy_of(form)
    network = getattr(policy, name)
    losses, own = losses_of(policy), {id(p) for p in network.task_parameters()}
    for key, parameter in network.named_parameters():
        rows = [torch.autograd.grad(loss, parameter, retain_graph=True)[0] for loss in losses]
        tasks = (torch.stack(rows) != 0).sum(0)
        assert (tasks.max() == 1) if id(parameter) in own else (tasks.max() > 1), key


@by_form
def test_rows_in_any_order_give_what_blocks_give(form):
    policy, (observations, actions) = policy_of(form), batch()
    shuffled = torch.randperm(T * B)
    expected = policy.critic(observations, actions, blocks=True)[:, shuffled]
    torch.testing.assert_close(policy.critic(observations[shuffled], actions[shuffled]), expected)
    mean, _ = policy.actor._distribution(observations, blocks=True)
    torch.testing.assert_close(policy.actor(observations[shuffled], deterministic=True), mean[shuffled].tanh())


@by_row
def test_critics_are_networks_of_their_own(form):
    critic = policy_of({**form, "n_critics": 3}).critic
    values = critic(*batch(), blocks=True)
    assert len(set(values[:, 0].tolist())) == 3
    for parameter in critic.parameters():
        rows = [torch.autograd.grad(value.sum(), parameter, retain_graph=True)[0] for value in values]
        assert (torch.stack(rows) != 0).sum(0).max() == 1


def test_the_torso_that_the_page_shows_keeps_what_a_row_promises(monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text()
    (shown,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "(Torso)" in block)
    monkeypatch.setitem(TORSOS, "gated", None)  # the page's own row takes its place, and goes with it
    exec(shown, {})
    form = {"actor_torso": "gated", "critic_torso": "gated"}
    test_critics_are_networks_of_their_own(form)
    test_rows_in_any_order_give_what_blocks_give(form)


@pytest.mark.parametrize("form", TORSO_ROWS, ids=str)
@NETWORKS
def test_bfloat16_gives_nearly_the_same_gradients(name, losses_of, form, monkeypatch):
    policy = policy_of(form).float()
    rows = [tensor.float() for tensor in batch()]
    monkeypatch.setattr("tests.small_policies.batch", lambda: rows)
    exact = jacobian_of(*recorded(policy, name, losses_of))
    for network in (policy.actor, policy.critic):
        network.precision = "bfloat16"
    rounded = jacobian_of(*recorded(policy, name, losses_of))
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    assert (torch.nn.functional.cosine_similarity(exact, rounded) > 0.99).all()


@by_row
def test_a_resumed_agent_goes_on_bit_for_bit(tmp_path, form):
    form = {**SMALL, **SIZES, **form, "multi_head": True, "precision": "bfloat16"}
    whole = toy_agent(policy_kwargs=form)
    start = [p.clone() for p in whole.policy.parameters()]
    whole.learn(2 * 30)
    assert all((p != before).any() for p, before in zip(whole.policy.parameters(), start, strict=True))
    env = envs.toy.make(num_tasks=2, seed=0)
    agent = toy_agent(env, policy_kwargs=form)
    agent.learn(2 * 25)
    path = save_checkpoint(tmp_path, agent, env)
    env = envs.toy.make(num_tasks=2, seed=0)
    resumed = load_checkpoint(path, env, device="cpu")
    resumed.learn(2 * 5, reset_num_timesteps=False)
    expected, found = whole.policy.state_dict(), resumed.policy.state_dict()
    assert list(expected) == list(found)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    rows = np.concatenate([np.random.default_rng(0).normal(size=(2, 2)), np.eye(2)], 1).astype(np.float32)
    assert np.array_equal(whole.predict(rows, deterministic=True)[0], resumed.predict(rows, deterministic=True)[0])


@by_row
def test_a_captured_update_is_the_eager_one(form):
    settings = {"aggregator": "pcgrad", "policy_kwargs": {**SMALL, **SIZES, **form}}
    assert_captured_as_eager(steps=26, **settings)
