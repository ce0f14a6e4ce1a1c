"""Walks through the graph that autograd recorded: what made the losses, and who uses a parameter."""

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node


def graph_of(losses: Tensor) -> dict[Node, list[Node]]:
    """Return all nodes of the graph that made the losses, each with those that it feeds: the ways up."""
    users: dict[Node, list[Node]] = {}
    if losses.grad_fn is not None:
        users[losses.grad_fn] = []
    waiting = list(users)
    while waiting:
        user = waiting.pop()
        for node, _ in user.next_functions:
            if node is None:
                continue
            if node not in users:
                users[node] = []
                waiting.append(node)
            users[node].append(user)
    return users


def leaves_of(users: Collection[Node]) -> dict[int, Node]:
    """Return the nodes of leaf tensors such as parameters, by the tensor's id."""
    return {id(node.variable): node for node in users if not node.next_functions and hasattr(node, "variable")}


def leads_past(
    users: Mapping[Node, Sequence[Node]], leaf: Node, own: Collection[Node], ends: Collection[Node | None]
) -> bool:
    """Return whether a way up from `leaf` meets one of `ends` before one of its `own` nodes."""
    seen, waiting = {leaf}, [leaf]
    while waiting:
        node = waiting.pop()
        if node in own:
            continue
        if node in ends:
            return True
        new = [user for user in users[node] if user not in seen]
        seen.update(new)
        waiting += new
    return False


def below(starts: Collection[GradientEdge], ends: Collection[GradientEdge]) -> tuple[set[GradientEdge], set[int]]:
    """Return which of `ends` the ways down from `starts` meet, and the leaf tensors, by id, that they end at else."""
    met: set[GradientEdge] = set()
    leaves: set[int] = set()
    seen, waiting = set(), list(starts)
    while waiting:
        edge = waiting.pop()
        if edge in ends and edge not in starts:
            met.add(edge)
            continue
        if edge.node in seen:
            continue
        seen.add(edge.node)
        if not edge.node.next_functions and hasattr(edge.node, "variable"):
            leaves.add(id(edge.node.variable))
        waiting += [GradientEdge(node, number) for node, number in edge.node.next_functions if node is not None]
    return met, leaves
