"""The process reward model (PRM): a policy trained to say of each step whether it leads to a pass (D9).

Inputs: policy, which it starts from, or prm, an earlier PRM to go on with; found_<k>: search stages whose
trees give the labels; held_out: a search stage whose trees, of other problems, give the figures. A PRM
is a policy directory like any other. Searches nothing, and labels no tree itself (search/samples.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from etils import epath

from o1jax.batches.encode import Example, encode_step_labels, encode_step_pair, keep_short
from o1jax.parallel.seeds import fold_seed
from o1jax.records import InputError, StepLabel, Tree
from o1jax.rewards.process import score_ids
from o1jax.search.samples import step_labels, step_pairs
from o1jax.search.store import read_trees
from o1jax.stages.manifest import StageResult
from o1jax.stages.policies import check_model, open_policy
from o1jax.stages.prm_figures import held_out_figures
from o1jax.stages.prm_nodes import nodes_of, score_nodes
from o1jax.stages.scorers import scorer_of
from o1jax.stages.training import tokens_per_second, train_tokens
from o1jax.train import objectives
from o1jax.train.checkpoint import Policy


@dataclasses.dataclass(frozen=True)
class Settings:
    """`objective`: cross-entropy with the soft or the hard labels of paths, or Bradley-Terry on pairs of
    siblings whose soft labels differ by more than `pair_margin`, at most `max_pairs_per_parent` of each
    parent's (0: all); the scores of the last compare siblings and nothing else. `max_paths_per_problem`
    labelled paths are drawn by seed (0: all). `train_tokens`: tokens to train on, padding not counted.
    `model`: the preset that the policy must have the shape of, where it is given. `scorer_slots`: paths
    a forward pass of the held-out figures."""

    train_tokens: int
    objective: Literal["soft", "hard", "pair"] = "soft"
    row_length: int = 256
    rows_per_batch: int = 16
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_steps: int = 10
    weight_decay: float = 0.01
    pair_margin: float = 0.0
    max_pairs_per_parent: int = 0
    max_paths_per_problem: int = 0
    model: str = ""
    scorer_slots: int = 16


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: examples, problems, dropped_long, steps, trained_tokens, and held_out (prm_figures)."""
    policy = open_policy(inputs["prm"] if "prm" in inputs else inputs["policy"])
    check_model("prm", settings.model, policy)
    trees = [tree for name in sorted(inputs) if name.startswith("found_") for tree in trees_of(inputs[name])]
    held_out = trees_of(inputs["held_out"])
    refuse_leakage(trees, held_out)
    examples, dropped = keep_short(
        examples_of(trees, settings, policy.tokenizer.eos_token_id, seed), settings.row_length
    )
    if not examples:
        what = "pair of siblings" if settings.objective == "pair" else "labelled path"
        raise InputError(
            f"{out}: nothing to train on: no {what} in {len(trees)} trees ({dropped} were longer than "
            f"row_length {settings.row_length}); search more, or with more samples a step"
        )
    make_objective = objectives.prm_pairwise if settings.objective == "pair" else objectives.prm_pointwise
    objective = make_objective(*score_ids(policy.tokenizer))
    fitted = train_tokens(out, f"prm {settings.objective}", policy, objective, examples, settings, seed)
    prm = dataclasses.replace(policy, params=fitted.params)
    return StageResult(
        figures={
            "objective": settings.objective,
            "examples": len(examples),
            "problems": len({tree.problem_id for tree in trees}),
            "dropped_long": dropped,
            "steps": fitted.progress.step,
            "trained_tokens": fitted.progress.tokens,
            "held_out": _held_out(settings, prm, trees, held_out, seed),
        },
        timings=tokens_per_second(fitted),
    )


def trees_of(place: epath.Path) -> list[Tree]:
    """The trees of a search stage; InputError if it has none."""
    trees = read_trees(place / "trees")
    if not trees:
        raise InputError(f"{place}: no trees there; wanted a search stage, which keeps them in trees/")
    return trees


def refuse_leakage(trees: Sequence[Tree], held_out: Sequence[Tree]) -> None:
    """InputError that names a problem, or a prompt, which is both trained on and held out."""
    trained = {tree.problem_id for tree in trees} | {tree.prompt_ids for tree in trees}
    for tree in held_out:
        if tree.problem_id in trained or tree.prompt_ids in trained:
            raise InputError(
                f"prm: problem {tree.problem_id} is both trained on and held out, so its figures would "
                "mean nothing; give a held_out search of other problems"
            )


def examples_of(trees: Sequence[Tree], settings: Settings, eos_id: int, seed: int) -> list[Example]:
    """The labelled paths, or the pairs, of all trees."""
    if settings.objective == "pair":
        limits = {"margin": settings.pair_margin, "max_per_parent": settings.max_pairs_per_parent}
        return [
            encode_step_pair(pair) for tree in trees for pair in step_pairs(tree, eos_id=eos_id, **limits)
        ]
    by_problem: dict[str, list[StepLabel]] = {}
    for tree in trees:
        by_problem.setdefault(tree.problem_id, []).extend(step_labels(tree, eos_id=eos_id))
    for problem_id, labels in by_problem.items():
        random.Random(fold_seed(seed, "prm_paths", problem_id)).shuffle(labels)
    most = settings.max_paths_per_problem or None
    return [
        encode_step_labels(label, settings.objective)
        for _, labels in sorted(by_problem.items())
        for label in labels[:most]
    ]


def _held_out(
    settings: Settings, prm: Policy, trees: Sequence[Tree], held_out: Sequence[Tree], seed: int
) -> dict[str, Any]:
    eos_id = prm.tokenizer.eos_token_id

    async def scores() -> np.ndarray:
        scorer = scorer_of(prm, slots=settings.scorer_slots, context=prm.config.max_context)
        try:
            return await score_nodes(held_out, scorer, eos_id)
        finally:
            await scorer.close()

    return held_out_figures(nodes_of(trees, eos_id), nodes_of(held_out, eos_id), asyncio.run(scores()), seed)
