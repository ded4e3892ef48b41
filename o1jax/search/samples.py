"""From trees to training samples: D+, step labels, step pairs and preference pairs.

Pure functions of a tree (and a seed). A leaf is distinct by its path's token ids: the tree merged equal
siblings, so every leaf of it counts once (D8), dead ones with value 0. Samples nothing; encodes nothing.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

from o1jax.parallel.seeds import drawn
from o1jax.prompts import pseudocode
from o1jax.records import Node, PreferencePair, SftSample, StepLabel, StepPair, Tree
from o1jax.search.steps import PROGRAM, without_eos
from o1jax.search.tree import children_of, passing_leaves, path_ids, path_to


@dataclasses.dataclass(frozen=True)
class Label:
    """What the distinct leaves at or below a node say of it; without one, only n_leaves means something."""

    soft: float  # their mean pass rate: the share of tests passed, 0 of a malformed one
    hard: float  # 1 if one of them does, else 0
    n_leaves: int  # how many there are
    mean_value: float  # their mean terminal value, as search backs values up


def label_nodes(tree: Tree) -> list[Label]:
    """The label of every node, in index order."""
    totals, rates, passes, counts = ([0.0] * len(tree.nodes) for _ in range(4))
    for node in reversed(tree.nodes):  # a parent precedes its children
        # Not value_sum / visits: UCT returns to what is good, so its mean says where search went (D8).
        if node.value is not None:
            rates[node.index] = 0.0 if node.verdict is None else node.verdict.pass_rate
            totals[node.index], passes[node.index], counts[node.index] = node.value, float(node.passed), 1.0
        if node.parent >= 0:
            for sums in (totals, rates, passes, counts):
                sums[node.parent] += sums[node.index]
    # The soft label leaves out what a terminal value gives for compiling alone: nearly every leaf has that,
    # so a mean of values says most of all that programs compile.
    return [
        Label(rate / n, float(passed > 0), int(n), total / n) if n else Label(0.0, 0.0, 0, 0.0)
        for total, rate, passed, n in zip(totals, rates, passes, counts, strict=True)
    ]


def passing_samples(tree: Tree, *, ends: tuple[int, ...]) -> list[SftSample]:
    """D+ of a tree: its paths with different programs that pass every test, the shortest first."""
    return [
        whole_sample(
            f"{tree.problem_id}#{leaf.index}",
            tree.problem_id,
            tree.prompt_ids,
            _answer_ids(tree, leaf, ends),
            tree.program_prompt_ids,
            len(path_ids(tree.nodes, leaf.parent)) + leaf.program_from,
        )
        for leaf in sorted(_distinct_passing(tree), key=lambda leaf: _length(tree, leaf))
    ]


def whole_sample(
    id: str,
    problem_id: str,
    prompt_ids: tuple[int, ...],
    answer_ids: tuple[int, ...],
    program_prompt_ids: tuple[int, ...] = (),
    program_from: int = 0,
) -> SftSample:
    """A sample whose whole answer is trained, the end token too: else a policy never learns to stop."""
    return SftSample(
        id,
        problem_id,
        prompt_ids,
        answer_ids,
        is_trained=(True,) * len(answer_ids),
        program_prompt_ids=program_prompt_ids,
        program_from=program_from,
    )


def step_labels(tree: Tree, *, ends: tuple[int, ...]) -> list[StepLabel]:
    """One labelled path to every judged leaf, and to every well-formed step with none but malformed steps
    below it, whose value is 0: so that every step with a label is on one."""
    labels = label_nodes(tree)
    # A malformed step is no step to score: the scorer is asked about well-formed ones only.
    labelled = [node for node in tree.nodes[1:] if labels[node.index].n_leaves and not node.error]
    inner = {node.parent for node in labelled}
    paths = [path_to(tree.nodes, node.index) for node in labelled if node.index not in inner]
    n_paths = collections.Counter(node.index for path in paths for node in path)
    return [_step_label(tree, path, labels, n_paths, ends) for path in paths]


def _step_label(
    tree: Tree,
    path: Sequence[Node],
    labels: Sequence[Label],
    n_paths: Mapping[int, int],
    ends: tuple[int, ...],
) -> StepLabel:
    leaf = path[-1]
    # A step is scored at the token that completes its `<Step_End>`; a final end-of-sequence token is left
    # out, for only simulated programs have one.
    lengths = [len(without_eos(node.token_ids, ends)) for node in path]
    return StepLabel(
        id=f"{tree.problem_id}#{leaf.index}",
        problem_id=tree.problem_id,
        prompt_ids=tree.prompt_ids,
        answer_ids=without_eos(path_ids(tree.nodes, leaf.index), ends),
        step_ends=tuple(end - 1 for end in itertools.accumulate(lengths)),
        soft=tuple(labels[node.index].soft for node in path),
        hard=tuple(labels[node.index].hard for node in path),
        n_leaves=tuple(labels[node.index].n_leaves for node in path),
        n_paths=tuple(n_paths[node.index] for node in path),
    )


def step_pairs(
    tree: Tree, *, ends: tuple[int, ...], margin: float = 0.0, max_per_parent: int = 0
) -> list[StepPair]:
    """Well-formed siblings whose soft labels differ by more than `margin`, the widest first under each
    parent; at most `max_per_parent` a parent (0: all)."""
    worth = [label.soft if label.n_leaves else None for label in label_nodes(tree)]
    return _pairs(tree, worth, ends, margin, max_per_parent)


def _pairs(
    tree: Tree, worth: Sequence[float | None], ends: tuple[int, ...], margin: float, max_per_parent: int
) -> list[StepPair]:
    """The pairs by what each node is worth; None: nobody knows."""
    return [
        StepPair(
            id=f"{tree.problem_id}#{better}>{worse}",
            problem_id=tree.problem_id,
            prefix_ids=tree.prompt_ids + path_ids(tree.nodes, tree.nodes[better].parent),
            chosen_ids=without_eos(tree.nodes[better].token_ids, ends),
            rejected_ids=without_eos(tree.nodes[worse].token_ids, ends),
            chosen_value=worth[better],
            rejected_value=worth[worse],
            chosen_is_program=tree.nodes[better].action == PROGRAM,
            rejected_is_program=tree.nodes[worse].action == PROGRAM,
        )
        for better, worse in _sibling_pairs(tree, worth, margin, max_per_parent)
    ]


def _sibling_pairs(
    tree: Tree, worth: Sequence[float | None], margin: float, max_per_parent: int
) -> Iterator[tuple[int, int]]:
    """(better, worse) node indices, parent by parent."""
    for siblings in children_of(tree):
        # No malformed steps: a scorer would learn to see the form, and nothing else.
        known = [i for i in siblings if worth[i] is not None and not tree.nodes[i].error]
        pairs = [(a, b) for a in known for b in known if worth[a] - worth[b] > margin]
        pairs.sort(key=lambda pair: worth[pair[1]] - worth[pair[0]])  # stable: ties by index
        yield from pairs[: max_per_parent or None]


def sibling_preferences(
    tree: Tree, *, ends: tuple[int, ...], margin: float = 0.0, max_per_parent: int = 0
) -> list[PreferencePair]:
    """Pairs as `step_pairs` has them, but by the mean terminal value of the leaves, as preferences: the
    prompt is the prefix, the answers are single steps."""
    # A policy may well prefer the step below which more tests pass, though no program there passes all.
    worth = [label.mean_value if label.n_leaves else None for label in label_nodes(tree)]
    return [
        PreferencePair(
            id=pair.id,
            problem_id=pair.problem_id,
            prompt_ids=pair.prefix_ids,
            chosen_ids=pair.chosen_ids,
            rejected_ids=pair.rejected_ids,
            margin=pair.chosen_value - pair.rejected_value,
        )
        for pair in _pairs(tree, worth, ends, margin, max_per_parent)
    ]


def path_preferences(
    tree: Tree, *, ends: tuple[int, ...], max_per_problem: int, seed: int = 0
) -> list[PreferencePair]:
    """Passing paths (different programs) against well-formed failing ones of the same problem, whole answers.

    At most `max_per_problem` (0: all), drawn by seed from all of them, without repetition.
    """
    failing = [node for node in tree.nodes if node.verdict is not None and not node.passed]
    pairs = itertools.product(_distinct_passing(tree), failing)
    return [
        PreferencePair(
            id=f"{tree.problem_id}#{good.index}>{bad.index}",
            problem_id=tree.problem_id,
            prompt_ids=tree.prompt_ids,
            chosen_ids=_answer_ids(tree, good, ends),
            rejected_ids=_answer_ids(tree, bad, ends),
            margin=good.value - bad.value,
        )
        for good, bad in drawn(pairs, max_per_problem, seed, "path_preferences", tree.problem_id)
    ]


def _distinct_passing(tree: Tree) -> list[Node]:
    """The passing leaf with the shortest path for every different program, in index order."""
    # Of many paths to one program one is kept: else what search found often would outweigh what is hard.
    shortest: dict[str, Node] = {}
    for node in sorted(passing_leaves(tree), key=lambda leaf: _length(tree, leaf)):
        shortest.setdefault(program_of(node), node)
    return sorted(shortest.values(), key=lambda leaf: leaf.index)


def _length(tree: Tree, leaf: Node) -> tuple[int, int]:
    """What paths are sorted by: their tokens, then the order in which they were found."""
    return len(path_ids(tree.nodes, leaf.index)), leaf.index


def program_of(leaf: Node) -> str:
    """The Python source of an action-3 node."""
    return pseudocode.parse_step(leaf.text, leaf.depth).text


def _answer_ids(tree: Tree, leaf: Node, ends: tuple[int, ...]) -> tuple[int, ...]:
    """The path's tokens, ending with the token that trained answers end with."""
    # An expansion stops before it, and a model that imitates such a path would never learn to stop.
    return (*without_eos(path_ids(tree.nodes, leaf.index), ends), ends[0])
