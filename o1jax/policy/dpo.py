"""Step 3 by preference: DPO of a policy on better against worse steps, or whole answers, of searched trees.

Inputs: policy, which it starts from and is compared with (the reference); found_<k>: search stages. Run
after every round of search with the policy of the round before, it is iterative DPO. The reference's
log-probs are computed once. Searches nothing, and pairs no nodes itself (search/samples.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Annotated, Literal

from etils import epath
from pydantic import Field, NonNegativeInt

from o1jax.batches.encode import encode_pair
from o1jax.policy.found import Played, drawn_of_rounds, found_directories, refuse_hidden, search_trees
from o1jax.prompts.ends import end_ids
from o1jax.records import InputError, PreferencePair, Tree
from o1jax.search.samples import path_preferences, sibling_preferences
from o1jax.stages import provenance, training
from o1jax.stages.manifest import StageResult

Kind = Literal["siblings", "paths"]


@dataclasses.dataclass(frozen=True)
class Settings(training.PreferenceSettings):
    """Which pairs of the searches are compared, and how DPO trains on them."""

    # sibling steps whose soft labels differ, answers that pass against answers that fail, or both
    pairs: Literal["siblings", "paths", "both"] = "both"
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.0  # only pairs whose values differ by more count
    max_per_parent: NonNegativeInt = 1  # of a parent's pairs of siblings, the widest apart (0: all)
    max_per_problem: NonNegativeInt = 8  # of each kind, drawn by seed from all rounds (0: all)


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: pairs, pairs_by_kind, problems (that have one), dropped_long, steps, trained_tokens. Without
    a pair the policy is saved unchanged, after 0 steps."""
    policy = training.open_policy(inputs["policy"])
    training.check_model("policy_dpo", settings.train.model, policy)
    found = found_directories(inputs)
    if not found:
        raise InputError("policy_dpo: saw no input found_0; give at least one search stage")
    rounds = [search_trees(directory) for directory in found.values()]
    refuse_hidden([Played(trees, []) for trees in rounds], "policy_dpo", "trees of another style")
    kinds: tuple[Kind, ...] = ("siblings", "paths") if settings.pairs == "both" else (settings.pairs,)
    ends = end_ids(policy.tokenizer)
    by_kind = {k: pairs_of(rounds, k, settings, ends, seed) for k in kinds}
    length = settings.train.row_length
    rows = [
        provenance.node_row(p, f"preference of {k}", found, encode_pair(p), length, {"margin": p.margin})
        for k, pairs in by_kind.items()
        for p in pairs
    ]
    # Also without a pair: the file then says that there was none.
    provenance.write(out, rows)
    pairs = [pair for pairs in by_kind.values() for pair in pairs]
    figures = {
        "pairs": len(pairs),
        "pairs_by_kind": {kind: len(of_kind) for kind, of_kind in by_kind.items()},
        "problems": len({pair.problem_id for pair in pairs}),
    }
    if not pairs:
        # A round that teaches nothing must not end a run of many.
        trees = [tree for found in rounds for tree in found]
        why = (
            f"no pair of {' or '.join(kinds)} in {len(trees)} trees, {sum(tree.solved for tree in trees)} of "
            "them with a passing path; search more, or with more samples a step"
        )
        return StageResult(figures | training.keep_unchanged(out, policy, why), {})
    # The policy is its own reference also with adapters: new ones add nothing.
    policy = training.as_trained(policy, settings.train, seed)
    fitted, long = training.train_preferences(out, "policy_dpo", policy, pairs, settings, seed)
    return training.result(fitted, figures, long)


def pairs_of(
    rounds: Sequence[Sequence[Tree]], kind: Kind, settings: Settings, ends: tuple[int, ...], seed: int
) -> list[PreferencePair]:
    """The pairs of one kind, each once, problem by problem; `rounds` are the trees of every search stage, and
    an id begins with its round's index and the kind."""
    pairs = [[p for t in trees for p in _tree_pairs(t, kind, settings, ends, seed)] for trees in rounds]
    key, most = attrgetter("prompt_ids", "chosen_ids", "rejected_ids"), settings.max_per_problem
    # One passing answer pairs with every failing one: hence the cap.
    return drawn_of_rounds(pairs, key, most, seed, "policy_dpo", kind)


def _tree_pairs(
    tree: Tree, kind: Kind, settings: Settings, ends: tuple[int, ...], seed: int
) -> list[PreferencePair]:
    if kind == "siblings":
        limits = {"margin": settings.margin, "max_per_parent": settings.max_per_parent}
        pairs = sibling_preferences(tree, ends=ends, **limits)
    else:
        # All of them, although there is a limit to give: the caller draws, from all rounds.
        pairs = path_preferences(tree, ends=ends, max_per_problem=0, seed=seed)
        pairs = [pair for pair in pairs if pair.margin > settings.margin]
    return [dataclasses.replace(pair, id=f"{kind}/{pair.id}") for pair in pairs]
