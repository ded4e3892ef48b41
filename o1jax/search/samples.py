"""From trees to training samples: D+, step labels, step pairs and preference pairs.

Pure functions of a tree (and a seed). A leaf is distinct by its path's token ids: the tree merged equal
siblings, so every leaf of it counts once (README.md, D8), dead ones with value 0. In step labels and step
pairs a step's last token is the one that completes `<Step_End>`: a final end-of-sequence token is left
out. Answers to imitate or prefer end with one: where search stopped before it, it is added, for a model
must learn to stop. Samples nothing; encodes nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Literal

from o1jax.parallel.seeds import fold_seed
from o1jax.prompts import pseudocode
from o1jax.records import Node, PreferencePair, SftSample, StepLabel, StepPair, Tree
from o1jax.search.steps import PROGRAM, without_eos
from o1jax.search.tree import children_of, passing_leaves, path_ids, path_to

Selection = Literal["shortest", "random", "diverse"]
NGRAM = 3


@dataclasses.dataclass(frozen=True)
class Label:
    """soft: mean terminal value of the distinct leaves at or below a node; hard: 1 if one of them
    passes everything; n_leaves: how many there are (0: soft and hard are 0 and mean nothing)."""

    soft: float
    hard: float
    n_leaves: int


def label_nodes(tree: Tree) -> list[Label]:
    """The label of every node, in index order."""
    totals, passes = [0.0] * len(tree.nodes), [0.0] * len(tree.nodes)
    counts = [0] * len(tree.nodes)
    for node in reversed(tree.nodes):  # a parent precedes its children
        if node.value is not None:
            totals[node.index], counts[node.index] = node.value, 1
            passes[node.index] = float(node.verdict is not None and node.verdict.passed)
        if node.parent >= 0:
            totals[node.parent] += totals[node.index]
            counts[node.parent] += counts[node.index]
            passes[node.parent] = max(passes[node.parent], passes[node.index])
    rows = zip(totals, passes, counts, strict=True)
    return [Label(total / n if n else 0.0, hard, n) for total, hard, n in rows]


def passing_samples(
    tree: Tree,
    *,
    eos_id: int,
    max_per_problem: int,
    selection: Selection = "shortest",
    seed: int = 0,
    equal_problems: bool = False,
) -> list[SftSample]:
    """D+ of a tree: at most `max_per_problem` paths with different programs that pass every test.

    shortest: fewest tokens; random: by seed and problem; diverse: the shortest, then each time the
    path least like those taken. Of equal programs the shortest path stands. `equal_problems` gives
    each sample the weight 1 / (samples of its problem), else 1.
    """
    paths = _select(tree, distinct_passing(tree), selection, seed)[:max_per_problem]
    weight = 1.0 / len(paths) if equal_problems and paths else 1.0
    return [_sft_sample(tree, leaf, eos_id, weight) for leaf in paths]


def step_labels(tree: Tree, *, eos_id: int) -> list[StepLabel]:
    """One labelled path to every judged leaf, and to every well-formed step with none but malformed steps
    below it, whose value is 0: so that every step with a label is on one."""
    labels = label_nodes(tree)
    known = [node for node in tree.nodes[1:] if labels[node.index].n_leaves and not node.error]
    inner = {node.parent for node in known}
    return [_step_label(tree, node, labels, eos_id) for node in known if node.index not in inner]


def step_pairs(
    tree: Tree, *, eos_id: int, margin: float = 0.0, max_per_parent: int = 0, include_dead: bool = False
) -> list[StepPair]:
    """Siblings whose soft labels differ by more than `margin`, the widest first under each parent.

    At most `max_per_parent` a parent (0: all). Malformed steps are left out unless `include_dead`.
    """
    labels = label_nodes(tree)
    return [
        StepPair(
            id=f"{tree.problem_id}#{better}>{worse}",
            problem_id=tree.problem_id,
            prefix_ids=tree.prompt_ids + path_ids(tree.nodes, tree.nodes[better].parent),
            chosen_ids=without_eos(tree.nodes[better].token_ids, eos_id),
            rejected_ids=without_eos(tree.nodes[worse].token_ids, eos_id),
            chosen_value=labels[better].soft,
            rejected_value=labels[worse].soft,
            chosen_is_program=tree.nodes[better].action == PROGRAM,
            rejected_is_program=tree.nodes[worse].action == PROGRAM,
        )
        for better, worse in _sibling_pairs(tree, labels, margin, max_per_parent, include_dead)
    ]


def sibling_preferences(
    tree: Tree, *, eos_id: int, margin: float = 0.0, max_per_parent: int = 0, include_dead: bool = False
) -> list[PreferencePair]:
    """The pairs of `step_pairs` as preferences: the prompt is the prefix, the answers are single steps."""
    pairs = step_pairs(
        tree, eos_id=eos_id, margin=margin, max_per_parent=max_per_parent, include_dead=include_dead
    )
    return [
        PreferencePair(
            id=pair.id,
            problem_id=pair.problem_id,
            prompt_ids=pair.prefix_ids,
            chosen_ids=pair.chosen_ids,
            rejected_ids=pair.rejected_ids,
            margin=pair.chosen_value - pair.rejected_value,
        )
        for pair in pairs
    ]


def path_preferences(
    tree: Tree, *, eos_id: int, max_per_problem: int, seed: int = 0, include_dead: bool = False
) -> list[PreferencePair]:
    """Passing paths (different programs) against failing ones of the same problem, whole answers.

    Pairs are drawn by seed from all of them, without repetition; malformed paths are left out unless
    `include_dead`.
    """
    passing = distinct_passing(tree)
    failing = [node for node in tree.nodes if _fails(node) and (include_dead or not node.error)]
    pairs = list(itertools.product(passing, failing))
    random.Random(fold_seed(seed, "path_preferences", tree.problem_id)).shuffle(pairs)
    return [
        PreferencePair(
            id=f"{tree.problem_id}#{good.index}>{bad.index}",
            problem_id=tree.problem_id,
            prompt_ids=tree.prompt_ids,
            chosen_ids=_answer_ids(tree, good, eos_id),
            rejected_ids=_answer_ids(tree, bad, eos_id),
            margin=good.value - bad.value,
        )
        for good, bad in pairs[:max_per_problem]
    ]


def _fails(node: Node) -> bool:
    return node.value is not None and not (node.verdict is not None and node.verdict.passed)


def distinct_passing(tree: Tree) -> list[Node]:
    """The passing leaf with the shortest path for every different program, in index order: what D+ of
    the tree is selected from."""
    shortest: dict[str, Node] = {}
    for node in sorted(
        passing_leaves(tree), key=lambda leaf: (len(path_ids(tree.nodes, leaf.index)), leaf.index)
    ):
        shortest.setdefault(program_of(node), node)
    return sorted(shortest.values(), key=lambda leaf: leaf.index)


def program_of(leaf: Node) -> str:
    """The Python source of an action-3 node."""
    return pseudocode.program_of(pseudocode.parse_step(leaf.text, leaf.depth))


def _select(tree: Tree, leaves: list[Node], selection: Selection, seed: int) -> list[Node]:
    """All of `leaves`, the preferred first."""
    if selection == "random":
        random.Random(fold_seed(seed, "passing_samples", tree.problem_id)).shuffle(leaves)
        return leaves
    by_length = sorted(leaves, key=lambda leaf: (len(path_ids(tree.nodes, leaf.index)), leaf.index))
    return _farthest_first(tree, by_length) if selection == "diverse" else by_length


def _farthest_first(tree: Tree, leaves: list[Node]) -> list[Node]:
    """The first, then each time the one whose closest taken neighbour is farthest (Jaccard, n-grams)."""
    grams = {leaf.index: _ngrams(path_ids(tree.nodes, leaf.index)) for leaf in leaves}
    taken, left = leaves[:1], leaves[1:]
    while left:
        likeness = [max(_jaccard(grams[leaf.index], grams[t.index]) for t in taken) for leaf in left]
        taken.append(left.pop(likeness.index(min(likeness))))
    return taken


def _ngrams(token_ids: Sequence[int]) -> set[tuple[int, ...]]:
    return {tuple(token_ids[i : i + NGRAM]) for i in range(max(1, len(token_ids) - NGRAM + 1))}


def _jaccard(a: set[tuple[int, ...]], b: set[tuple[int, ...]]) -> float:
    return len(a & b) / len(a | b)


def _answer_ids(tree: Tree, leaf: Node, eos_id: int) -> tuple[int, ...]:
    """The path's tokens, ending with the end-of-sequence token."""
    return (*without_eos(path_ids(tree.nodes, leaf.index), eos_id), eos_id)


def _sft_sample(tree: Tree, leaf: Node, eos_id: int, weight: float) -> SftSample:
    answer_ids = _answer_ids(tree, leaf, eos_id)
    return SftSample(
        id=f"{tree.problem_id}#{leaf.index}",
        problem_id=tree.problem_id,
        prompt_ids=tree.prompt_ids,
        answer_ids=answer_ids,
        is_trained=(True,) * len(answer_ids),
        weight=weight,
    )


def _step_label(tree: Tree, leaf: Node, labels: Sequence[Label], eos_id: int) -> StepLabel:
    path = path_to(tree.nodes, leaf.index)
    lengths = [len(without_eos(node.token_ids, eos_id)) for node in path]
    return StepLabel(
        id=f"{tree.problem_id}#{leaf.index}",
        problem_id=tree.problem_id,
        prompt_ids=tree.prompt_ids,
        answer_ids=without_eos(path_ids(tree.nodes, leaf.index), eos_id),
        step_ends=tuple(end - 1 for end in itertools.accumulate(lengths)),
        soft=tuple(labels[node.index].soft for node in path),
        hard=tuple(labels[node.index].hard for node in path),
        n_leaves=tuple(labels[node.index].n_leaves for node in path),
    )


def _sibling_pairs(
    tree: Tree, labels: Sequence[Label], margin: float, max_per_parent: int, include_dead: bool
) -> Iterator[tuple[int, int]]:
    """(better, worse) node indices, parent by parent."""
    for siblings in children_of(tree):
        known = [i for i in siblings if labels[i].n_leaves and (include_dead or not tree.nodes[i].error)]
        pairs = [(a, b) for a in known for b in known if labels[a].soft - labels[b].soft > margin]
        pairs.sort(key=lambda pair: labels[pair[1]].soft - labels[pair[0]].soft)  # stable: ties by index
        yield from pairs[: max_per_parent or None]
