"""Architectures and training: what is shared, which rows a task answers for, and one path for every method."""

import numpy as np
import pytest
import torch
from torch import nn

import mtrl
from scripts.studies.supervised.architectures import ARCHITECTURES
from scripts.studies.supervised.contracts import Encoder, Split, Stage
from scripts.studies.supervised.encoders import embedded, lenet, perceptron
from scripts.studies.supervised.training import (
    MEASURED,
    NonFiniteLoss,
    Plan,
    Update,
    batches,
    examine,
    new_network,
    train,
    updates_per_epoch,
)
from tests.scripts.supervised.toy import Broken, Toy, ToyOwn

PICTURES = Encoder(
    (
        Stage(lambda: nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.Tanh()), 3),
        Stage(lambda: nn.Sequential(nn.Flatten(), nn.Linear(27, 4), nn.Tanh()), 4),
    ),
    2 * 7 * 7,
)
DRAWN = torch.Generator().manual_seed(0)  # some rows leave a unit of these small networks at zero
ENCODERS = {
    "vectors": (perceptron(5, 6, 4), torch.rand(6, 5, generator=DRAWN)),
    "names": (embedded((3, 4), 2, 12, 8), torch.randint(3, (6, 2), generator=DRAWN)),
    "pictures": (PICTURES, torch.rand(6, 2, 7, 7, generator=DRAWN)),
}
PLAN = Plan(epochs=1, updates=3, batch_size=8, learning_rate=1e-2, seed=0)


def network_of(name, encoder, outputs=(2, 3, 1)):
    torch.manual_seed(0)
    return ARCHITECTURES[name](encoder, outputs).double()


def as_input(rows):
    return rows.double() if rows.is_floating_point() else rows


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("kind", ENCODERS)
def test_shared_parameters_move_under_each_loss_own_ones_under_one(name, kind):
    encoder, rows = ENCODERS[kind]
    network = network_of(name, encoder)
    answers = network(as_input(rows))
    assert [tuple(answer.shape) for answer in answers] == [(6, 2), (6, 3), (6, 1)]
    shared, own = network.shared_parameters(), network.task_parameters()
    assert len(shared) + len(own) == len(list(network.parameters()))

    def movers(parameters):
        found = [
            torch.autograd.grad(answer.square().sum(), parameters, retain_graph=True, allow_unused=True)
            for answer in answers
        ]
        return np.array([[g is not None and bool(g.any()) for g in row] for row in found])

    reached = {id(p): column for p, column in zip(shared, movers(shared).T, strict=True)}
    unread = [p for p in shared if not reached[id(p)].all()]
    assert not unread
    assert (movers(own).sum(0) == 1).all()


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("kind", ENCODERS)
def test_in_blocks_each_task_answers_for_its_own_rows(name, kind):
    encoder, rows = ENCODERS[kind]
    network = network_of(name, encoder)
    whole, blocks = network(as_input(rows)), network(as_input(rows), blocks=True)
    for task, (all_rows, own) in enumerate(zip(whole, blocks, strict=True)):
        torch.testing.assert_close(own, all_rows[2 * task : 2 * task + 2])


def test_the_networks_of_the_papers_have_their_sizes():
    network = ARCHITECTURES["hps"](lenet(), (10, 10))
    assert sum(p.numel() for p in network.shared_parameters()) == 260 + 5_020 + 16_050
    assert network(torch.rand(2, 1, 28, 28))[1].shape == (2, 10)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_first_weights_depend_on_the_seed_alone(name):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    made = [new_network(name, Toy.encoder, Toy.tasks, seed) for seed in (1, 1, 2)]
    one, same, other = (torch.cat([p.flatten() for p in network.parameters()]) for network in made)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.rand(1), expected)  # the caller's generator is where it was


@pytest.mark.parametrize("kind", [Toy, ToyOwn])
@pytest.mark.parametrize("name", ["mmoe", "mtan", "cross-stitch"])
def test_training_with_the_mean_is_ordinary_training(name, kind):
    """Also where the gradients come from a tape, as `kind` says whose rows they are."""
    dataset = kind(None)
    training, test = dataset.splits(0)
    network, twin = (new_network(name, dataset.encoder, dataset.tasks, 0) for _ in range(2))
    train(network, mtrl.Mean(), dataset.tasks, (training, test), PLAN, [0, 1])
    update = Update(twin, mtrl.Mean(), dataset.tasks, training)
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-2)
    for update.rows in batches(training, PLAN, 0, [0, 1]):
        optimizer.zero_grad()
        update.losses().mean().backward()
        optimizer.step()
    for one, other in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["hps", "mmoe", "mtan"])
@pytest.mark.parametrize("kind", ENCODERS)
def test_one_backward_pass_gives_the_gradients_of_one_per_task(name, kind):
    encoder, rows = ENCODERS[kind]
    network = network_of(name, encoder, (1, 1, 1))
    found = []
    for recorded in (True, False):
        with mtrl.record(network, 3, network.task_parameters()) as tape:
            losses = torch.stack([answer.square().mean() for answer in network(as_input(rows), blocks=True)])
        where = {"tape": tape} if recorded else {"parameters": network.shared_parameters()}
        mtrl.backward(losses, mtrl.PCGrad(seed=0), **where)
        found.append([p.grad for p in network.shared_parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_every_row_comes_once_before_one_comes_again_and_a_task_meets_the_same_alone():
    training, _ = ToyOwn(None).splits(0)
    assert training.sizes() == [10, 20]
    plan = PLAN._replace(batch_size=5, updates=updates_per_epoch(training, 5))
    assert plan.updates == 4
    joint = torch.stack(list(batches(training, plan, 0, [0, 1]))).view(4, 2, 5)
    alone = torch.stack(list(batches(training.only([1]), plan, 0, [1])))
    assert torch.equal(joint[:, 1], alone)
    assert sorted(alone.flatten().tolist()) == sorted(training.members[1].tolist())
    small = joint[:, 0].flatten()
    assert len(small[:10].unique()) == len(small[10:].unique()) == 10
    again = torch.stack(list(batches(training, plan, 1, [0, 1]))).view(4, 2, 5)
    assert not torch.equal(again, joint)


def test_gcd_is_that_of_the_gradients():
    degrees = []

    class Watching(mtrl.PCGrad):
        def weights(self, gramian, losses):
            degrees.append(1 - (gramian[0, 1] / (gramian[0, 0] * gramian[1, 1]).sqrt()).item())
            return super().weights(gramian, losses)

    dataset = Toy(None)
    network = new_network("hps", dataset.encoder, dataset.tasks, 0)
    plan = PLAN._replace(epochs=MEASURED + 1, updates=1)
    outcome = train(network, Watching(), dataset.tasks, dataset.splits(0), plan, [0, 1])
    measured = [degrees[0], degrees[MEASURED]]
    assert outcome.gcd[0, 1] == pytest.approx(np.mean(measured))
    assert outcome.gcd.diagonal().isnan().all()
    assert outcome.conflicts == np.mean([degree > 1 for degree in measured])
    assert len(outcome.curves) == MEASURED + 1


def test_famo_sees_the_losses_after_each_step():
    aggregator, dataset = mtrl.make_aggregator("famo"), Toy(None)
    network = new_network("hps", dataset.encoder, dataset.tasks, 0)
    train(network, aggregator, dataset.tasks, dataset.splits(0), PLAN, [0, 1])
    assert aggregator.logits.abs().sum() > 0


def test_an_exam_is_one_mean_over_the_rows_of_each_task(monkeypatch):
    monkeypatch.setattr("scripts.studies.supervised.training.EXAMINED", 4)  # uneven parts: 4, 4, 2
    dataset = ToyOwn(None)
    network, (_, test) = new_network("hps", dataset.encoder, dataset.tasks, 0), dataset.splits(0)
    exam = examine(network, dataset.tasks, test)
    for task, (members, target) in enumerate(zip(test.members, test.targets, strict=True)):
        mse = (network(test.inputs)[task][members, 0] - target[members]).square().mean().item()
        assert exam.losses[task] == pytest.approx(mse)
        assert exam.metrics[task] == [pytest.approx((1, 2)[task] * mse**0.5)]


def test_a_loss_that_is_no_number_stops_training_and_names_its_task():
    dataset = Broken(None)
    network = new_network("hps", dataset.encoder, dataset.tasks, 0)
    with pytest.raises(NonFiniteLoss, match="the loss of task sum became NaN or infinite at update 0"):
        train(network, mtrl.PCGrad(), dataset.tasks, dataset.splits(0), PLAN, [0, 1])


def test_a_split_of_some_tasks():
    split = Split(torch.zeros(3, 1), (torch.ones(3), torch.zeros(3)))
    assert split.only([1]).targets[0].sum() == 0
    assert split.only([1]).of_task(0).tolist() == [0, 1, 2]
