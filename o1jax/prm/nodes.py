"""The steps of searched trees as columns: what a process reward model is asked about, and its answers.

A row is a well-formed step with at least one judged or dead leaf at or below it; malformed steps are
left out, for search never asks what they are worth. Computes no figure (prm_figures.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from o1jax.concurrency import run_in_order
from o1jax.engine.step_scorer import Path, StepScorer
from o1jax.records import InputError, Tree
from o1jax.search.samples import Label, label_nodes
from o1jax.search.steps import path_of, without_eos
from o1jax.search.tree import path_to

TREES_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class Nodes:
    """N steps, tree by tree, in order of index. Siblings share `parent_N`; `number_N` is the step's (1
    is the first), `is_leaf_N` says that it was judged itself; lengths are in tokens, the path's from
    after the prompt to the step's end; labels are as in samples.label_nodes."""

    problem_N: np.ndarray
    parent_N: np.ndarray
    number_N: np.ndarray
    is_leaf_N: np.ndarray
    step_tokens_N: np.ndarray
    path_tokens_N: np.ndarray
    soft_N: np.ndarray
    hard_N: np.ndarray

    def __len__(self) -> int:
        return len(self.soft_N)


def nodes_of(trees: Sequence[Tree], eos_id: int) -> Nodes:
    """The rows of all trees; trees of one problem share its number in problem_N. InputError without any."""
    problems: dict[str, int] = {}
    rows: list[tuple] = []
    n_parents = 0
    for tree in trees:
        problem = problems.setdefault(tree.problem_id, len(problems))
        rows += _rows(tree, problem, n_parents, eos_id)
        n_parents += len(tree.nodes)
    if not rows:
        raise InputError(
            f"{len(trees)} trees without a judged leaf: no step of them has a label; search more"
        )
    return Nodes(*map(np.asarray, zip(*rows, strict=True)))


async def score_nodes(trees: Sequence[Tree], scorer: StepScorer, eos_id: int) -> np.ndarray:
    """score_N of the rows of `nodes_of`, each path to the last row of its branch scored once."""

    async def work(tree: Tree) -> list[float]:
        tips = list(_tips(tree))
        scores = await scorer.score([_path(tree, tip, eos_id) for tip in tips])
        by_index: dict[int, float] = {}
        for tip, step_scores in zip(tips, scores, strict=True):
            indices = [node.index for node in path_to(tree.nodes, tip)]
            by_index |= dict(zip(indices, step_scores, strict=True))
        return [by_index[index] for index in sorted(by_index)]

    return np.concatenate(await run_in_order(work, trees, TREES_AT_ONCE))


def _rows(tree: Tree, problem: int, first_parent: int, eos_id: int) -> Iterator[tuple]:
    """The fields of Nodes, row by row."""
    labels = label_nodes(tree)
    lengths = [len(without_eos(node.token_ids, eos_id)) for node in tree.nodes]
    for index in _asked(tree, labels):
        node = tree.nodes[index]
        path_tokens = sum(lengths[step.index] for step in path_to(tree.nodes, index))
        yield (
            problem,
            first_parent + node.parent,
            node.depth,
            node.value is not None,
            lengths[index],
            path_tokens,
            labels[index].soft,
            labels[index].hard,
        )


def _asked(tree: Tree, labels: Sequence[Label]) -> list[int]:
    """The indices of the rows; with a step, those above it are in it."""
    return [n.index for n in tree.nodes[1:] if not n.error and labels[n.index].n_leaves]


def _tips(tree: Tree) -> Iterator[int]:
    """The rows that no row is below of."""
    asked = _asked(tree, label_nodes(tree))
    parents = {tree.nodes[index].parent for index in asked}
    return (index for index in asked if index not in parents)


def _path(tree: Tree, tip: int, eos_id: int) -> Path:
    return path_of(tree.prompt_ids, path_to(tree.nodes, tip), eos_id)
