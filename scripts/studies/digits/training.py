"""One network, trained on both tasks with an aggregator, or on one of them alone; and its test."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

import mtrl
from mtrl.diagnostics import conflict_degree
from scripts.studies.digits.data import TASKS, Pairs
from scripts.studies.digits.networks import ARCHITECTURES, SharedNetwork

MEASURED = 10  # conflict is measured at every so many updates


class Outcome(NamedTuple):
    """What a trained network is worth, and what its training was like."""

    errors: Float[Tensor, " tasks"]
    """Share of the test pairs whose digit is named wrongly."""
    losses: Float[Tensor, " tasks"]
    """Cross-entropy on the test pairs."""
    gcd: float
    """Gradient conflict degree, 1 - cosine of the tasks' gradients, on average over training; NaN for one task."""
    conflicts: float
    """Share of the measured updates with a conflict; NaN for one task."""
    seconds: float
    """Of training."""


def new_network(architecture: str, seed: int) -> SharedNetwork:
    """The network of that name; its first weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES[architecture]()


def train_jointly(network: SharedNetwork, aggregator: mtrl.Aggregator, pairs: Pairs, learning_rate: float) -> Outcome:
    """Both tasks in one network: one pass over the batches with Adam, then the test."""
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    shared, own = network.shared_parameters(), network.task_parameters()
    aggregator.reset(len(TASKS), sum(parameter.numel() for parameter in shared))
    degrees = []
    start = time.perf_counter()
    for update, (rows, labels) in enumerate(zip(pairs.batches, pairs.labels, strict=True)):
        losses = task_losses(network(rows), labels)
        report = mtrl.backward(
            losses, aggregator, parameters=shared, task_parameters=own, diagnostics=update % MEASURED == 0
        )
        optimizer.step()
        if aggregator.looks_back:  # one more forward pass, on the same batch
            with torch.no_grad():
                aggregator.after_step(task_losses(network(rows), labels))
        if report:
            degrees.append(conflict_degree(report["cosines"])[0, 1])  # cosines: the Gramian of unit gradients
    seconds = time.perf_counter() - start
    measured = torch.stack(degrees)
    gcd, conflicts = measured.mean().item(), (measured > 1).double().mean().item()
    return Outcome(*examine(network, pairs), gcd, conflicts, seconds)


def train_alone(network: SharedNetwork, task: int, pairs: Pairs, learning_rate: float) -> Outcome:
    """The same network, batches and optimizer for the loss of one task; the other one's result means nothing."""
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    start = time.perf_counter()
    for rows, labels in zip(pairs.batches, pairs.labels, strict=True):
        optimizer.zero_grad()
        task_losses(network(rows), labels)[task].backward()
        optimizer.step()
    seconds = time.perf_counter() - start
    return Outcome(*examine(network, pairs), float("nan"), float("nan"), seconds)


def task_losses(
    logits: Float[Tensor, "tasks rows classes"], labels: Int[Tensor, "rows tasks"]
) -> Float[Tensor, " tasks"]:
    """Cross-entropy of each task."""
    per_row = functional.cross_entropy(logits.transpose(1, 2), labels.T, reduction="none")
    return per_row.mean(1)


def examine(network: SharedNetwork, pairs: Pairs) -> tuple[Float[Tensor, " tasks"], Float[Tensor, " tasks"]]:
    """Errors and losses on the test pairs."""
    with torch.no_grad():
        logits = network(pairs.test)
        wrong = logits.argmax(2) != pairs.test_labels.T
        return wrong.double().mean(1), task_losses(logits, pairs.test_labels).double()
