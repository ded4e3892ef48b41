"""Step 3 by preference: DPO of a policy on better against worse steps, or whole answers, of searched trees.

Inputs: policy, which it starts from and is compared with (the reference); found_<k>: search stages. Run
after every round of search with the policy of the round before, it is iterative DPO. The reference's
log-probs are computed once. Searches nothing, and pairs no nodes itself (search/samples.py).
"""

from __future__ import annotations

import collections
import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from etils import epath
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from o1jax.parallel.seeds import fold_seed
from o1jax.policy.found import places_of, trees_of
from o1jax.records import InputError, PreferencePair, Tree
from o1jax.search.samples import path_preferences, sibling_preferences
from o1jax.stages.manifest import StageResult
from o1jax.stages.training import (
    TrainSettings,
    check_model,
    keep_unchanged,
    open_policy,
    tokens_per_second,
    train_preferences,
    with_adapters,
)

Kind = Literal["siblings", "paths"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which pairs of the searches are compared, and how DPO trains on them."""

    train_tokens: PositiveInt  # tokens to train on, both sides of a pair counted, padding not
    # sibling steps whose soft labels differ, answers that pass against answers that fail, or both
    pairs: Literal["siblings", "paths", "both"] = "both"
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.0  # only pairs whose values differ by more count
    max_per_parent: NonNegativeInt = 1  # of a parent's pairs of siblings, the widest apart (0: all)
    max_per_problem: NonNegativeInt = 8  # of each kind, drawn by seed from all rounds (0: all)
    beta: PositiveFloat = 0.1  # of DPO: how far the policy may go from its reference
    nll_weight: NonNegativeFloat = 0.0  # of the chosen answer's likelihood in the loss; 0: as published
    train: TrainSettings = TrainSettings(
        row_length=512, rows_per_batch=8, learning_rate=2e-4, weight_decay=0.0
    )


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: pairs, pairs_by_kind, problems (that have one), dropped_long, steps, trained_tokens. Without
    a pair the policy is saved unchanged, after 0 steps."""
    policy = open_policy(inputs["policy"])
    check_model("policy_dpo", settings.train.model, policy)
    if not places_of(inputs):
        raise InputError("policy_dpo: saw no input found_0; give at least one search stage")
    rounds = [trees_of(place) for place in places_of(inputs)]
    by_kind = pairs_by_kind(rounds, settings, policy.tokenizer.eos_token_id, seed)
    pairs = [pair for found in by_kind.values() for pair in found]
    found = {
        "pairs": len(pairs),
        "pairs_by_kind": {kind: len(of_kind) for kind, of_kind in by_kind.items()},
        "problems": len({pair.problem_id for pair in pairs}),
    }
    if not pairs:
        return StageResult(found | keep_unchanged(out, policy, _nothing(settings, rounds)), {})
    policy = with_adapters(policy, settings.train.lora, seed)
    fitted, long = train_preferences(out, "policy_dpo", policy, pairs, settings, seed)
    trained = {
        "dropped_long": long,
        "steps": fitted.progress.step,
        "trained_tokens": fitted.progress.tokens,
    }
    return StageResult(found | trained, tokens_per_second(fitted))


def pairs_by_kind(
    rounds: Sequence[Sequence[Tree]], settings: Settings, eos_id: int, seed: int
) -> dict[Kind, list[PreferencePair]]:
    """pairs_of each kind that is asked for."""
    return {kind: pairs_of(rounds, kind, settings, eos_id, seed) for kind in _kinds(settings)}


def pairs_of(
    rounds: Sequence[Sequence[Tree]], kind: Kind, settings: Settings, eos_id: int, seed: int
) -> list[PreferencePair]:
    """The pairs of one kind, each once, problem by problem; `rounds` are the trees of every search stage.

    The cap keeps problems with many failing answers from drowning the others.
    """
    by_problem: dict[str, list[tuple[int, Tree]]] = collections.defaultdict(list)
    for number, trees in enumerate(rounds):
        for tree in trees:
            by_problem[tree.problem_id].append((number, tree))
    drawn = []
    for problem_id, numbered in sorted(by_problem.items()):
        pairs = _different(numbered, kind, settings, eos_id, seed)
        random.Random(fold_seed(seed, "policy_dpo", kind, problem_id)).shuffle(pairs)
        drawn += pairs[: settings.max_per_problem or None]
    return drawn


def _different(
    numbered: Sequence[tuple[int, Tree]], kind: Kind, settings: Settings, eos_id: int, seed: int
) -> list[PreferencePair]:
    """The pairs of one problem's trees, named by round and kind; equal ones once."""
    pairs: dict[tuple, PreferencePair] = {}
    for number, tree in numbered:
        for pair in _of_tree(tree, kind, settings, eos_id, seed):
            key = (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids)
            pairs.setdefault(key, dataclasses.replace(pair, id=f"{number}/{kind}/{pair.id}"))
    return list(pairs.values())


def _of_tree(tree: Tree, kind: Kind, settings: Settings, eos_id: int, seed: int) -> list[PreferencePair]:
    if kind == "siblings":
        limits = {"margin": settings.margin, "max_per_parent": settings.max_per_parent}
        return sibling_preferences(tree, eos_id=eos_id, **limits)
    every = len(tree.nodes) ** 2
    pairs = path_preferences(tree, eos_id=eos_id, max_per_problem=every, seed=seed)
    return [pair for pair in pairs if pair.margin > settings.margin]


def _kinds(settings: Settings) -> tuple[Kind, ...]:
    return ("siblings", "paths") if settings.pairs == "both" else (settings.pairs,)


def _nothing(settings: Settings, rounds: Sequence[Sequence[Tree]]) -> str:
    trees = [tree for found in rounds for tree in found]
    solved = sum(tree.solved for tree in trees)
    return (
        f"no pair of {' or '.join(_kinds(settings))} in {len(trees)} trees, "
        f"{solved} of them with a passing path; search more, or with more samples a step"
    )
