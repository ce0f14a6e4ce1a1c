"""bfloat16 products in the hidden layers: near float32's gradients, weights and acting untouched, resume exact."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import envs.toy
import mtrl
from agents import MTSAC, load_checkpoint, save_checkpoint
from agents.learning.update import Batch, Turn
from agents.saving.agent_file import training_state
from tests.helpers import SMALL, cuda, tensors, toy_agent

FORMS = [{}, {"critic_layer_norm": True}, {"multi_head": True}]


def agent_of(precision, aggregator="pcgrad", **form):
    return toy_agent(aggregator=aggregator, policy_kwargs={**SMALL, "precision": precision, **form})


def gradients_of(precision, aggregator, **form):
    """Gradients of the first update; neither the weights nor the transitions before it depend on the precision."""
    agent = agent_of(precision, aggregator, **form)
    agent.learn(80)
    agent.update.update(Batch(*agent.replay_buffer._get_samples(np.arange(8))), Turn(actor=True, target=False))
    return {name: p.grad for name, p in agent.policy.named_parameters() if p.grad is not None}


def cosine(first, second):
    return torch.nn.functional.cosine_similarity(first.double().flatten(), second.double().flatten(), dim=0)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("aggregator", ["mean", "pcgrad"])
def test_an_update_is_nearly_that_of_float32(aggregator, form, monkeypatch):
    monkeypatch.setattr(MTSAC, "train", lambda *args, **kwargs: None)
    exact, rounded = (gradients_of(precision, aggregator, **form) for precision in ("float32", "bfloat16"))
    assert exact.keys() == rounded.keys()
    assert any(not torch.equal(exact[name], rounded[name]) for name in exact)  # else nothing was rounded
    for network in ("actor.", "critic."):
        both = [
            torch.cat([grads[name].flatten() for name in exact if name.startswith(network)])
            for grads in (exact, rounded)
        ]
        assert cosine(*both) > 0.99
        torch.testing.assert_close(both[1].norm(), both[0].norm(), rtol=0.03, atol=0)


def test_everything_that_is_kept_stays_in_float32():
    agent = agent_of("bfloat16")
    agent.learn(100)
    assert agent._n_updates > 0
    kept = [*agent.policy.parameters(), *(p.grad for p in agent.actor.parameters())]
    kept += [t for s in agent.critic.optimizer.state.values() for t in s.values()]
    assert {tensor.dtype for tensor in kept} == {torch.float32}


def test_acting_does_not_depend_on_the_precision():
    exact, rounded = agent_of("float32"), agent_of("bfloat16")
    rounded.policy.load_state_dict(exact.policy.state_dict())
    observations = envs.toy.make(num_tasks=2, seed=0).reset()
    assert np.array_equal(exact.eval_action(observations), rounded.eval_action(observations))


def test_values_and_log_probabilities_come_out_in_float32():
    agent = agent_of("bfloat16")
    observations = torch.rand(16, 5).repeat(1, 2)[:, : agent.observation_space.shape[0]]
    actions, log_prob = agent.actor.action_log_prob(observations, blocks=True)
    values = agent.critic(observations, actions, blocks=True)
    assert {actions.dtype, log_prob.dtype, values.dtype} == {torch.float32}


def test_resume_is_exact(tmp_path):
    def run(agent, env, steps):
        agent.learn(2 * steps, reset_num_timesteps=False)
        return save_checkpoint(tmp_path / str(agent.num_timesteps), agent, env)

    first = envs.toy.make(num_tasks=2, seed=0)
    path = run(toy_agent(first, policy_kwargs={**SMALL, "precision": "bfloat16"}), first, 40)
    second = envs.toy.make(num_tasks=2, seed=0)
    resumed = load_checkpoint(path, second, device="cpu")
    assert resumed.critic_target.precision == "bfloat16"
    run(resumed, second, 40)
    third = envs.toy.make(num_tasks=2, seed=0)
    whole = toy_agent(third, policy_kwargs={**SMALL, "precision": "bfloat16"})
    whole.learn(160)
    pairs = list(zip(tensors(training_state(resumed)), tensors(training_state(whole)), strict=True))
    assert pairs
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_another_precision_is_refused():
    with pytest.raises(ValueError, match="precision: expected one of float32, tf32, bfloat16; found 'float16'"):
        agent_of("float16")


# ---- TF32: CUDA has it; what is set where can be seen without


def cuda_products():
    matmul = torch.backends.cuda.matmul
    return getattr(matmul, "fp32_precision", None) or ("tf32" if matmul.allow_tf32 else "ieee")


class Products(TorchDispatchMode):
    """Writes down how CUDA would multiply at each product in float32, in surgery and elsewhere."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.seen, self.where = set(), "network"
        aggregate = mtrl.gradients._aggregate

        def in_surgery(*args):
            self.where = "surgery"
            answer = aggregate(*args)
            self.where = "network"
            return answer

        monkeypatch.setattr(mtrl.gradients, "_aggregate", in_surgery)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        answer = func(*args, **(kwargs or {}))
        if func.__name__.split(".")[0] in ("mm", "addmm", "bmm", "baddbmm", "mv") and answer.dtype == torch.float32:
            self.seen.add((self.where, cuda_products()))
        return answer


@pytest.mark.filterwarnings("ignore:tf32 has no effect on cpu")
@pytest.mark.parametrize("aggregator", ["pcgrad", "mocograd"])
@pytest.mark.parametrize("users", ["highest", "high"])
@pytest.mark.parametrize(("precision", "expected"), [("tf32", "tf32"), ("float32", "ieee")])
def test_tf32_is_for_the_networks_products_alone(precision, expected, users, aggregator, monkeypatch):
    """Whatever the process is set to, surgery multiplies in full, and afterwards the process is as it was."""
    agent = agent_of(precision, aggregator)
    agent.learn(40)
    torch.set_float32_matmul_precision(users)
    before = cuda_products()
    try:
        with Products(monkeypatch) as products:
            agent.train(2, 8)
        assert products.seen == {("network", expected), ("surgery", "ieee")}
        assert cuda_products() == before
        assert torch.get_float32_matmul_precision() == users
    finally:
        torch.set_float32_matmul_precision("highest")


def test_tf32_on_a_cpu_is_float32_and_says_so():
    plain = agent_of("float32")
    plain.learn(80)
    rounded = agent_of("tf32")
    with pytest.warns(RuntimeWarning, match="tf32 has no effect on cpu: float32 it is"):
        rounded.learn(80)
    assert plain._n_updates > 10
    for ours, theirs in zip(rounded.policy.parameters(), plain.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@cuda
def test_tf32_on_cuda_rounds_the_networks_products():
    found = {}
    for precision in ("float32", "tf32"):
        agent = toy_agent(
            device="cuda", policy_kwargs={**SMALL, "actor_width": 64, "critic_width": 64, "precision": precision}
        )
        agent.learn(60)
        found[precision] = torch.cat([p.detach().flatten() for p in agent.critic.parameters()])
    assert not torch.equal(*found.values())
    torch.testing.assert_close(*found.values(), rtol=0, atol=0.01)


@pytest.mark.parametrize("around", ["forward", "everything"])
def test_a_users_autocast(around):
    """Both routes agree under torch.autocast, and an aggregator never computes in bfloat16."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 1))
    x, y = torch.randn(4 * 8, 5), torch.randn(4 * 8, 1)
    found = {}
    for route in ("blocks", "losses", "float32"):
        with torch.autocast("cpu", torch.bfloat16, enabled=route != "float32"):
            with mtrl.record(net, 4) as tape:
                outputs = net(x)
            losses = (outputs.float() - y).square().view(4, 8).mean(1)
            where = {"tape": tape} if route == "blocks" else {"parameters": net.parameters()}
            if around == "everything":
                mtrl.backward(losses, mtrl.PCGrad(), **where)
        if around == "forward":
            mtrl.backward(losses, mtrl.PCGrad(), **where)
        assert all(p.grad.dtype == torch.float32 for p in net.parameters())
        found[route] = torch.cat([p.grad.flatten() for p in net.parameters()])
    assert cosine(found["blocks"], found["losses"]) > 0.9999
    assert cosine(found["blocks"], found["float32"]) > 0.999
