"""The search tree: how it grows (select, add, back up) and how a finished one is read.

UCT (Kocsis and Szepesvari, 2006) on a flat list of nodes. Samples nothing, judges nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from o1jax.records import Node, Tree, Verdict
from o1jax.search.steps import SampledStep, without_eos

ROOT = 0


class GrowingTree:
    """A tree while it is searched.

    A node is expanded when it has been given its share of sampled children: a simulated path's next
    step counts as one of them. A node is closed when nothing below it is left to sample: it was
    judged, is dead, or is expanded and all its children are closed. Selection skips closed nodes, so
    no rollout is spent on a value already known; when the root is closed it is expanded again.
    A node at `max_depth` is never expanded or closed: each visit simulates from it anew.
    """

    def __init__(self, *, samples: int, max_depth: int, c: float, eos_id: int):
        self.samples, self.max_depth, self.c, self.eos_id = samples, max_depth, c, eos_id
        self.nodes: list[Node] = []
        self.children: list[list[int]] = []
        self.expansions: list[int] = []  # a node: times that it was expanded
        self._closed: list[bool] = []
        self._in_flight: list[int] = []  # virtual losses
        self._append(Node(index=ROOT, parent=-1, depth=0, action=0))

    def select_wave(self, width: int) -> list[int]:
        """Up to `width` different leaves, each selected under the virtual losses of those before it.

        The wave ends early where the next leaf would be one that it holds already.
        """
        leaves: list[int] = []
        while len(leaves) < width and (leaf := self.select()) not in leaves:
            leaves.append(leaf)
            self._add_in_flight(leaf, 1)
        return leaves

    def release(self, leaves: Sequence[int]) -> None:
        """Takes the virtual losses of a wave back."""
        for leaf in leaves:
            self._add_in_flight(leaf, -1)

    def select(self) -> int:
        """The leaf that UCT leads to: unvisited children first, in index order; ties likewise."""
        index = ROOT
        while self.is_expanded(index) and (live := self.live_children(index)):
            unvisited = [child for child in live if self._seen(child) == 0]
            index = unvisited[0] if unvisited else max(live, key=self.uct)
        return index

    def uct(self, index: int) -> float:
        """value_sum/n + c sqrt(ln n_parent / n); n counts virtual losses, whose value is 0."""
        node, n = self.nodes[index], self._seen(index)
        return node.value_sum / n + self.c * math.sqrt(math.log(self._seen(node.parent)) / n)

    def live_children(self, index: int) -> list[int]:
        return [child for child in self.children[index] if not self._closed[child]]

    def is_expanded(self, index: int) -> bool:
        if self.nodes[index].depth >= self.max_depth:
            return False
        return self.expansions[index] > 0 or len(self.children[index]) >= self.samples

    def is_for_expansion(self, leaf: int) -> bool:
        """Whether a selected leaf is to be expanded; else a path is simulated from it."""
        node = self.nodes[leaf]
        return node.depth < self.max_depth and (leaf == ROOT or node.visits > 0)

    def missing_children(self, leaf: int) -> int:
        """How many next steps an expansion samples; always at least one."""
        return self.samples if self.is_expanded(leaf) else self.samples - len(self.children[leaf])

    def simulation_start(self, leaf: int, expanded: bool) -> int | None:
        """Where a rollout that selected `leaf` simulates: there, or at its first new live child."""
        if not expanded:
            return leaf
        fresh = self.fresh_children(leaf)
        return fresh[0] if fresh else None

    def fresh_children(self, index: int) -> list[int]:
        """The children that nothing is known of yet."""
        return [child for child in self.live_children(index) if self.nodes[child].visits == 0]

    def add(
        self, parent: int, step: SampledStep, value: float | None = None, verdict: Verdict | None = None
    ) -> int:
        """The index of `step` below `parent`: a sibling with the same tokens (but for a final
        end-of-sequence token) is the same node, else a new one is made."""
        key = without_eos(step.token_ids, self.eos_id)
        for child in self.children[parent]:
            if without_eos(self.nodes[child].token_ids, self.eos_id) == key:
                return child
        node = _node(len(self.nodes), self.nodes[parent], step)
        self._append(dataclasses.replace(node, value=value, verdict=verdict))
        self.children[parent].append(node.index)
        return node.index

    def set_score(self, index: int, score: float) -> None:
        """The process reward model's score of an inner node, backed up as one visit."""
        self.nodes[index] = dataclasses.replace(self.nodes[index], score=score)
        self.back_up(index, score)

    def back_up(self, leaf: int, value: float) -> None:
        """One visit of `value` for the leaf and every step up to the root."""
        index = leaf
        while index >= 0:
            node = self.nodes[index]
            self.nodes[index] = dataclasses.replace(
                node, visits=node.visits + 1, value_sum=node.value_sum + value
            )
            index = node.parent

    def close(self, index: int) -> None:
        """Closes the node and its ancestors as far as nothing below them is left to sample."""
        while index >= 0 and self._is_done(index):
            self._closed[index] = True
            index = self.nodes[index].parent

    def _is_done(self, index: int) -> bool:
        if self.nodes[index].value is not None:
            return True
        return self.is_expanded(index) and not self.live_children(index)

    def _append(self, node: Node) -> None:
        self.nodes.append(node)
        self.children.append([])
        self.expansions.append(0)
        self._closed.append(False)
        self._in_flight.append(0)

    def _seen(self, index: int) -> int:
        return self.nodes[index].visits + self._in_flight[index]

    def _add_in_flight(self, index: int, count: int) -> None:
        while index >= 0:
            self._in_flight[index] += count
            index = self.nodes[index].parent


def _node(index: int, parent: Node, step: SampledStep) -> Node:
    return Node(
        index=index,
        parent=parent.index,
        depth=parent.depth + 1,
        action=step.action,
        token_ids=step.token_ids,
        log_probs=step.log_probs,
        is_policy_token=(True,) * len(step.token_ids),
        text=step.text,
        finish_reason=step.finish_reason,
        policy_version=step.policy_version,
        terminal=bool(step.program),
        error=step.error,
    )


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
    return [node for node in tree.nodes if node.verdict is not None and node.verdict.passed]
