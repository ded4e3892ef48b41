"""The search tree: what is kept of one while it grows, and how a finished one is read.

A flat list of nodes in order of creation, so that a parent precedes its children and an index never changes.
Selects nothing, samples nothing, judges nothing: the search itself is in mcts.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from o1jax.records import Node, Tree, Verdict
from o1jax.search.steps import SampledStep, without_eos

ROOT = 0


class GrowingTree:
    """A tree while it is searched: its nodes, and beside each what only the search needs to know.

    A node is closed when nothing below it is left to sample: it was judged, is dead, or is expanded and
    all its children are closed.
    """

    def __init__(self, ends: tuple[int, ...]):
        self.ends = ends
        self.nodes: list[Node] = []
        self.children: list[list[int]] = []
        self.expansions: list[int] = []  # times that a node was expanded
        self.closed: list[bool] = []
        self.in_flight: list[int] = []  # virtual losses: rollouts of the running wave that go through it
        self._append(Node(index=ROOT, parent=-1, depth=0, action=0))

    def add(
        self, parent: int, step: SampledStep, value: float | None = None, verdict: Verdict | None = None
    ) -> int:
        """The index of `step` below `parent`: a sibling with the same tokens is the same node, else it is
        a new one with this terminal value and verdict."""
        # An end-of-sequence token does not tell steps apart: a simulation samples one after the program,
        # where an expansion stops before it.
        key = without_eos(step.token_ids, self.ends)
        for child in self.children[parent]:
            if without_eos(self.nodes[child].token_ids, self.ends) == key:
                return child
        index = len(self.nodes)
        self._append(
            Node(
                index=index,
                parent=parent,
                depth=self.nodes[parent].depth + 1,
                action=step.action,
                token_ids=step.token_ids,
                log_probs=step.log_probs,
                is_policy_token=(True,) * len(step.token_ids),
                text=step.text,
                finish_reason=step.finish_reason,
                policy_version=step.policy_version,
                terminal=bool(step.program),
                value=value,
                verdict=verdict,
                error=step.error,
                program_from=step.program_from,
            )
        )
        self.children[parent].append(index)
        return index

    def _append(self, node: Node) -> None:
        self.nodes.append(node)
        self.children.append([])
        self.expansions.append(0)
        self.closed.append(False)
        self.in_flight.append(0)

    def upwards(self, index: int) -> Iterator[Node]:
        """The node, its parent, and so on to the root; each is read when its turn comes."""
        while index >= 0:
            node = self.nodes[index]
            yield node
            index = node.parent

    def live_children(self, index: int) -> list[int]:
        """The children that are not closed."""
        return [child for child in self.children[index] if not self.closed[child]]

    def unvisited_children(self, index: int) -> list[int]:
        """The live children that nothing is known of yet."""
        return [child for child in self.live_children(index) if self.nodes[child].visits == 0]

    def seen(self, index: int) -> int:
        """Visits, and the virtual losses on top."""
        return self.nodes[index].visits + self.in_flight[index]

    def add_losses(self, leaves: Sequence[int], count: int) -> None:
        """So many virtual losses for each leaf and every step above it; -1 takes one back."""
        for leaf in leaves:
            for node in self.upwards(leaf):
                self.in_flight[node.index] += count


def path_to(nodes: Sequence[Node], index: int) -> tuple[Node, ...]:
    """The steps from the first to node `index`, without the root."""
    path = []
    while nodes[index].parent >= 0:
        path.append(nodes[index])
        index = nodes[index].parent
    return tuple(reversed(path))


def path_ids(nodes: Sequence[Node], index: int) -> tuple[int, ...]:
    """The tokens from after the prompt to the end of node `index`."""
    return tuple(token for node in path_to(nodes, index) for token in node.token_ids)


def children_of(tree: Tree) -> list[list[int]]:
    """The children of every node, in index order."""
    children: list[list[int]] = [[] for _ in tree.nodes]
    for node in tree.nodes[1:]:
        children[node.parent].append(node.index)
    return children


def passing_leaves(tree: Tree) -> list[Node]:
    """The leaves whose program passes every test, in index order."""
    return [node for node in tree.nodes if node.passed]
