"""The memory of a stretch of code is that of the tensors that it makes and still has."""

import torch

from scripts.studies.supervised.memory import PeakMemory


def test_the_most_that_is_held_at_once_is_counted():
    before = torch.ones(1000)
    with PeakMemory() as found:
        first = torch.zeros(250_000)  # a megabyte
        view = first.view(500, 500)
        del first
        assert found.held == 1_000_000  # the view holds it
        del view
        assert found.held == 0
        second = before + 1
        before.mul_(2)  # in its place
        part = second[:10]
        assert found.held == 4000
        del second, part
        left, right = torch.zeros(100_000), torch.zeros(100_000)
        del left, right
    assert (found.held, found.peak) == (0, 1_000_000)


def test_a_backward_pass_has_the_gradients_of_all_tasks_at_once():
    weight = torch.ones(1000, requires_grad=True)
    losses = [(weight * task).sum() for task in range(3)]
    with PeakMemory() as one:
        torch.autograd.grad(losses[0], weight, retain_graph=True)
    with PeakMemory() as all_three:
        rows = [torch.autograd.grad(loss, weight)[0] for loss in losses]
        torch.stack(rows)
    assert one.peak < 3 * 4000
    assert all_three.peak >= 6 * 4000  # the rows, and once more together
