"""What failing answers teach: each step's value, its advantage over the step before, and what to do with it.

The value of a step is how much an answer that goes on from it is expected to pass: the mean pass rate MC of
the n distinct judged leaves below it, drawn towards a prior as if that were kappa leaves more,

    V_j = (n MC + kappa prior) / (n + kappa),   A_j = V_j - V_{j-1}.

The prior is the process reward model's score, or without one the value of the step before, so that one
leaf alone says little; a judged or dead step's value is its own pass rate. A step of a failing answer that
gains value is imitated, one that clearly loses it is made less likely. Every step counts once, however many
answers go through it. Answers that were sampled whole are read as a tree, too. Trains nothing.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from etils import epath
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from o1jax.concurrency import run_in_order
from o1jax.engine.step_scorer import StepScorer
from o1jax.parallel.seeds import drawn
from o1jax.policy.found import Played, refuse_hidden
from o1jax.prompts.chat import Tokenizer
from o1jax.prompts.ends import end_ids
from o1jax.records import InputError, Node, Rollout, Tree
from o1jax.search.samples import label_nodes
from o1jax.search.steps import PROGRAM, cut, path_of
from o1jax.search.tree import ROOT, GrowingTree, path_to
from o1jax.stages.workers import open_scorer

Share = Annotated[float, Field(ge=0, le=1)]
TREES_AT_ONCE = 64  # enough to fill the scorer's slots


@dataclasses.dataclass(frozen=True)
class Progress:
    """Steps of failing answers that gain value: weight * A_j is what their tokens weigh in the likelihood,
    where a found path's weigh 1."""

    weight: NonNegativeFloat = 0.0  # 0: none
    threshold: Share = 0.0  # A_j must be more


@dataclasses.dataclass(frozen=True)
class Negatives:
    """Steps that lose value: their tokens are made less likely, with weight * |A_j|."""

    weight: NonNegativeFloat = 0.0  # 0: none
    threshold: Share = 0.1  # |A_j| must be more: below it lies the noise of a few leaves
    clip: Share = 0.2  # a token is let go of once its probability is 1 - clip of what it was
    # What it was: by the policy that sampled it, whichever round that was in, or by the one that training
    # starts from. The first needs steps that were sampled at temperature 1 under the prompt trained with.
    was: Literal["sampled", "start"] = "sampled"


@dataclasses.dataclass(frozen=True)
class Credit:
    """How steps are valued, and how many failing answers are trained on."""

    kappa: NonNegativeFloat = 1.0  # leaves that the prior counts for
    max_per_problem: NonNegativeInt = 4  # answers, drawn by seed from all rounds (0: all)
    scorer_slots: PositiveInt = 16  # paths in one forward pass of the process reward model


@dataclasses.dataclass(frozen=True)
class CreditedAnswer:
    """A failing answer up to the last step that teaches something."""

    id: str  # <k>/<problem id>#<node>, or <k>/<rollout id>, with k the index of its stage
    problem_id: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    log_probs: tuple[float, ...]  # nats, as sampled; one a token
    weights: tuple[float, ...]  # of the likelihood of each token
    pushes: tuple[float, ...]  # how much each is made less likely
    numbers: tuple[int, ...]  # of the steps that count here, from 1; the others count in another answer
    advantages: tuple[float, ...]  # A_j of each of those


def credited_answers(
    played: Sequence[Played],
    inputs: Mapping[str, epath.Path],
    tokenizer: Tokenizer,
    settings: tuple[Progress, Negatives, Credit],
    context: int,
    seed: int,
) -> list[CreditedAnswer]:
    """The failing answers of all stages that teach something, problem by problem. Their steps are scored by
    inputs["prm"], where there is one, if they end within `context` tokens; without it answers that were
    sampled whole are left out, of which the outcome would be blamed on the first step alone."""
    refuse_hidden(played, "policy_sft", "progress.weight and negatives.weight 0, or another style")
    progress, negatives, credit = settings
    scored = "prm" in inputs
    named = [
        (number, tree, ids)
        for number, of_stage in enumerate(played)
        for tree, ids in trees_of(of_stage, tokenizer, with_rollouts=scored)
    ]
    scores = asyncio.run(_scores([tree for _, tree, _ in named], inputs, tokenizer, credit, context))
    by_problem: dict[str, list[CreditedAnswer]] = collections.defaultdict(list)
    for (number, tree, ids), of_tree in zip(named, scores, strict=True):
        if negatives.weight and negatives.was == "sampled" and tree.temperature != 1:
            raise InputError(
                f"negatives.was: saw 'sampled' and steps sampled at temperature {tree.temperature}; wanted "
                "'start', or temperature 1: by another the log-probs are not the trainer's"
            )
        advantages = advantages_of(step_values(tree, of_tree, credit.kappa), tree)
        for answer in of_tree_credited(tree, advantages, progress, negatives):
            node = int(answer.id)
            id = f"{number}/{ids[node] if ids else f'{tree.problem_id}#{node}'}"
            by_problem[tree.problem_id].append(dataclasses.replace(answer, id=id))
    return [
        answer
        for problem_id, answers in sorted(by_problem.items())
        for answer in drawn(answers, credit.max_per_problem, seed, "credit", problem_id)
    ]


def step_values(tree: Tree, scores: Mapping[int, float], kappa: float) -> list[float | None]:
    """V of every node, in [0, 1]; None where no leaf was judged or dead at or below it. `scores`: node index
    -> the process reward model's, where it was asked. The root's prior is the mean of its steps' scores."""
    labels = label_nodes(tree)
    first = [scores[node.index] for node in tree.nodes if node.parent == ROOT and node.index in scores]
    values: list[float | None] = []
    for node, label in zip(tree.nodes, labels, strict=True):
        prior = scores.get(node.index)
        if node.index == ROOT:
            prior = sum(first) / len(first) if first else None
        elif prior is None:
            prior = values[node.parent]
        weight = 0.0 if node.value is not None or prior is None else kappa
        total = label.n_leaves + weight
        known = label.n_leaves > 0
        values.append((label.n_leaves * label.soft + weight * (prior or 0.0)) / total if known else None)
    return values


def advantages_of(values: Sequence[float | None], tree: Tree) -> list[float | None]:
    """A of every node; None of the root, and where a value is not known."""
    pairs = [(values[node.index], None if node.index == ROOT else values[node.parent]) for node in tree.nodes]
    return [None if own is None or before is None else own - before for own, before in pairs]


def of_tree_credited(
    tree: Tree, advantages: Sequence[float | None], progress: Progress, negatives: Negatives
) -> list[CreditedAnswer]:
    """The failing answers of a tree that teach something; their id is the index of their last node."""
    taken: set[int] = set()
    answers = []
    for leaf in tree.nodes:
        if leaf.value is None or leaf.passed:
            continue
        path = path_to(tree.nodes, leaf.index)
        # A step that another answer has already is context here, with weight 0: it is one sample of what the
        # policy does there, and counts once.
        own = {node.index: _weights(node, advantages, progress, negatives) for node in path}
        own = {index: pair for index, pair in own.items() if any(pair) and index not in taken}
        if own:
            taken |= own.keys()
            answers.append(_answer(tree, path, own, advantages))
    return answers


def _weights(
    node: Node, advantages: Sequence[float | None], progress: Progress, negatives: Negatives
) -> tuple[float, float]:
    """(weight of the likelihood, push) of a step's tokens."""
    advantage = advantages[node.index]
    if advantage is None:
        return 0.0, 0.0
    # A program that fails is never imitated, however many tests it passes, and a malformed step neither.
    if advantage > progress.threshold and node.action != PROGRAM and not node.error:
        return progress.weight * advantage, 0.0
    return 0.0, negatives.weight * -advantage if -advantage > negatives.threshold else 0.0


def _answer(
    tree: Tree,
    path: Sequence[Node],
    own: Mapping[int, tuple[float, float]],
    advantages: Sequence[float | None],
) -> CreditedAnswer:
    """The path up to the last step of `own`."""
    last = max(own)
    path = path[: [node.index for node in path].index(last) + 1]
    pairs = [own.get(node.index, (0.0, 0.0)) for node in path for _ in node.token_ids]
    return CreditedAnswer(
        id=str(last),
        problem_id=tree.problem_id,
        prompt_ids=tree.prompt_ids,
        answer_ids=tuple(token for node in path for token in node.token_ids),
        log_probs=tuple(value for node in path for value in node.log_probs),
        weights=tuple(weight for weight, _ in pairs),
        pushes=tuple(push for _, push in pairs),
        numbers=tuple(node.depth for node in path if node.index in own),
        advantages=tuple(advantages[node.index] for node in path if node.index in own),
    )


def trees_of(
    played: Played, tokenizer: Tokenizer, *, with_rollouts: bool
) -> list[tuple[Tree, dict[int, str]]]:
    """The trees of a stage; of one that sampled, a tree of every problem's answers to the pseudocode prompt,
    and with it each node's answer: the id of the first rollout that goes through it."""
    trees: list[tuple[Tree, dict[int, str]]] = [(tree, {}) for tree in played.trees]
    groups: dict[tuple, list[Rollout]] = collections.defaultdict(list)
    for rollout in played.rollouts if with_rollouts else ():
        if rollout.prompt == "pseudocode":
            groups[rollout.problem_id, rollout.prompt_ids, rollout.temperature].append(rollout)
    return trees + [_grown(rollouts, tokenizer) for rollouts in groups.values()]


def _grown(rollouts: Sequence[Rollout], tokenizer: Tokenizer) -> tuple[Tree, dict[int, str]]:
    growing, ids = GrowingTree(end_ids(tokenizer)), {}
    for rollout in rollouts:
        parent = ROOT
        for step in cut(tokenizer, rollout, 1, len(rollout.token_ids) + 1):
            verdict = rollout.verdict if step.program else None
            # One that the token limit cut off between two steps has no leaf.
            value = verdict.pass_rate if verdict else 0.0 if step.error else None
            parent = growing.add(parent, step, value, verdict)
            ids.setdefault(parent, rollout.id)
    one = rollouts[0]
    spent = sum(len(rollout.token_ids) for rollout in rollouts)
    programs = sum(node.verdict is not None for node in growing.nodes)
    nodes, n = tuple(growing.nodes), len(rollouts)
    return Tree(one.problem_id, one.prompt_ids, nodes, 0, one.temperature, n, spent, programs), ids


async def _scores(
    trees: Sequence[Tree],
    inputs: Mapping[str, epath.Path],
    tokenizer: Tokenizer,
    credit: Credit,
    context: int,
) -> list[dict[int, float]]:
    """Node index -> score, of every tree; nothing without inputs["prm"]."""
    ends = end_ids(tokenizer)
    async with open_scorer(inputs, tokenizer, slots=credit.scorer_slots, context=context) as scorer:
        if scorer is None:
            return [{} for _ in trees]
        return await run_in_order(lambda tree: _tree_scores(tree, scorer, ends), trees, TREES_AT_ONCE)


async def _tree_scores(tree: Tree, scorer: StepScorer, ends: tuple[int, ...]) -> dict[int, float]:
    # Malformed steps and those that fit no row are not scored: their prior is the step before.
    fitting = {}
    for node in tree.nodes[1:]:
        path = path_to(tree.nodes, node.index)
        scored = path_of(tree.prompt_ids, path, ends)
        if not node.error and len(scored.token_ids) <= scorer.context:
            fitting[node.index] = path, scored
    # A path's scores are those of all its steps, so only the longest ones are asked for.
    inner = {tree.nodes[index].parent for index in fitting}
    longest = [pair for index, pair in fitting.items() if index not in inner]
    scores = await scorer.score([scored for _, scored in longest])
    return {
        node.index: score
        for (path, _), of_path in zip(longest, scores, strict=True)
        for node, score in zip(path, of_path, strict=True)
    }
