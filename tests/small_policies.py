"""Policies of three tasks, a batch of four rows each, and their losses."""

import torch
from gymnasium import spaces

import mtrl
from agents.networks.policies import MultiTaskPolicy

T, B, OBS, ACTIONS = 3, 4, 5, 2


def make_policy(depth=None, **form):
    torch.manual_seed(0)
    return MultiTaskPolicy(
        spaces.Box(-torch.inf, torch.inf, (OBS + T,)),
        spaces.Box(-1, 1, (ACTIONS,)),
        lambda _: 1e-3,
        num_tasks=T,
        actor_width=8,
        actor_depth=depth or 2,
        critic_width=6,
        critic_depth=depth or 3,
        **form,
    ).double()


def batch():
    generator = torch.Generator().manual_seed(1)
    one_hot = torch.eye(T).repeat_interleave(B, 0)
    observations = torch.cat([torch.randn(T * B, OBS, generator=generator), one_hot], 1).double()
    return observations, torch.randn(T * B, ACTIONS, generator=generator).double()


def critic_losses(policy):
    return policy.critic(*batch(), blocks=True).square().unflatten(-1, (T, B)).mean((0, 2))


def actor_losses(policy):
    torch.manual_seed(2)  # the noise of the reparametrised action
    actions, log_prob = policy.actor.action_log_prob(batch()[0], blocks=True)
    q_values = policy.critic(batch()[0], actions, blocks=True).amin(0)
    return (0.3 * log_prob - q_values).unflatten(0, (T, B)).mean(1)


def recorded(policy, name, losses_of):
    """The tape and the losses of a forward pass."""
    network = getattr(policy, name)
    with mtrl.record(network, T, network.task_parameters()) as tape:
        losses = losses_of(policy)
    tape.check_uses(losses)
    return tape, losses


def jacobian_of(tape, losses):
    """The tasks' gradients by one backward pass, (T, P)."""
    pieces = tape.task_gradients(torch.autograd.grad(losses.sum(), tape.outputs, retain_graph=True, allow_unused=True))
    return torch.cat([p.flatten(1) for p in pieces], 1)
