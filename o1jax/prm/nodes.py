"""The steps of searched trees as columns: what a process reward model is asked about, and its answers.

A row is a well-formed step with at least one judged or dead leaf at or below it; malformed steps are
left out, for search never asks what they are worth. Computes no figure (figures.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from o1jax.concurrency import run_in_order
from o1jax.engine.step_scorer import StepScorer
from o1jax.records import InputError, Tree
from o1jax.search.samples import Label, label_nodes
from o1jax.search.steps import path_of, without_eos
from o1jax.search.tree import path_to

LabelKind = Literal["soft", "hard"]
TREES_AT_ONCE = 64  # enough to fill the scorer's slots; more would only hold more paths in memory


@dataclasses.dataclass(frozen=True)
class Nodes:
    """N steps, tree by tree, in order of index."""

    problem_N: np.ndarray  # a number for every problem, whichever tree it is of
    parent_N: np.ndarray  # a number for every parent of every tree: siblings share it
    number_N: np.ndarray  # of the step on its path; 1 is the first
    is_leaf_N: np.ndarray  # whether it was judged itself
    step_tokens_N: np.ndarray  # without a final end-of-sequence token
    path_tokens_N: np.ndarray  # from after the prompt to the step's end
    soft_N: np.ndarray  # labels in [0, 1], as in search/samples.label_nodes
    hard_N: np.ndarray  # 0 or 1
    n_leaves_N: np.ndarray  # that the labels stand on
    tree_N: np.ndarray  # the index of its tree

    def labels_N(self, kind: LabelKind) -> np.ndarray:
        """The labels of this kind."""
        return {"soft": self.soft_N, "hard": self.hard_N}[kind]

    def __len__(self) -> int:
        return len(self.soft_N)


def nodes_of(trees: Sequence[Tree], ends: tuple[int, ...]) -> Nodes:
    """The rows of all trees; trees of one problem share its number in problem_N. InputError without any."""
    problems: dict[str, int] = {}
    rows: list[tuple] = []
    n_parents = 0
    for index, tree in enumerate(trees):
        problem = problems.setdefault(tree.problem_id, len(problems))  # of two rounds' trees the same
        rows += ((*row, index) for row in _rows(tree, problem, n_parents, ends))
        n_parents += len(tree.nodes)
    if not rows:
        raise InputError(
            f"{len(trees)} trees without a judged leaf: no step of them has a label; search more"
        )
    return Nodes(*map(np.asarray, zip(*rows, strict=True)))


async def node_logits(trees: Sequence[Tree], scorer: StepScorer, ends: tuple[int, ...]) -> np.ndarray:
    """logit_N of the rows of `nodes_of`, without the model's calibration."""

    async def work(tree: Tree) -> list[float]:
        # Scoring a path scores all its steps, so only the paths to rows without a row below are asked for.
        # A step that several of them share is scored in each; the last one's logit stands.
        rows = _row_indices(tree, label_nodes(tree))
        inner = {tree.nodes[index].parent for index in rows}
        paths = [path_to(tree.nodes, index) for index in rows if index not in inner]
        found = await scorer.logits([path_of(tree.prompt_ids, path, ends) for path in paths])
        by_index: dict[int, float] = {}
        for path, logits in zip(paths, found, strict=True):
            by_index |= zip((node.index for node in path), logits, strict=True)
        return [by_index[index] for index in sorted(by_index)]

    return np.concatenate(await run_in_order(work, trees, TREES_AT_ONCE))


def _rows(tree: Tree, problem: int, first_parent: int, ends: tuple[int, ...]) -> Iterator[tuple]:
    """The fields of Nodes, row by row."""
    labels = label_nodes(tree)
    lengths = [len(without_eos(node.token_ids, ends)) for node in tree.nodes]
    for index in _row_indices(tree, labels):
        node = tree.nodes[index]
        path_tokens = sum(lengths[step.index] for step in path_to(tree.nodes, index))
        at = (problem, first_parent + node.parent, node.depth, node.value is not None)
        label = labels[index]
        yield *at, lengths[index], path_tokens, label.soft, label.hard, label.n_leaves


def _row_indices(tree: Tree, labels: Sequence[Label]) -> list[int]:
    """Which nodes are rows; if one is, so are those above it."""
    # A step of which no leaf was judged or dead (the search ended first) has no label to compare with.
    return [n.index for n in tree.nodes[1:] if not n.error and labels[n.index].n_leaves]
