"""The process reward model (PRM): a policy trained to say of each step whether it leads to a pass (D9).

Inputs: policy, which it starts from, or prm, an earlier PRM to go on with; found_<k>: search stages whose
trees give the labels; perhaps held_out: a search stage whose trees, of other problems, give the figures.
A PRM is a policy directory like any other. Searches nothing, and labels no tree itself (search/samples.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from etils import epath
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from o1jax.batches.encode import encode_step_labels, encode_step_pair, keep_short
from o1jax.engine.step_scorer import score_ids
from o1jax.model.init import abstract_params
from o1jax.parallel.mesh import make_mesh, own_devices
from o1jax.parallel.seeds import drawn
from o1jax.policy.found import found_directories, search_trees
from o1jax.prm.figures import held_out_figures
from o1jax.prm.nodes import nodes_of, score_nodes
from o1jax.prompts.ends import end_ids
from o1jax.records import InputError, StepLabel, StepPair, Tree
from o1jax.search.samples import step_labels, step_pairs
from o1jax.stages import provenance, training
from o1jax.stages.manifest import StageResult
from o1jax.stages.workers import scorer_of
from o1jax.train import objectives
from o1jax.train.checkpoint import Policy, load_policy


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a process reward model learns of searched paths, and how."""

    train_tokens: PositiveInt  # tokens to train on, padding not counted
    # Cross-entropy with the soft or the hard label of every step, or Bradley-Terry on pairs of siblings. The
    # scores of "pair" compare siblings and nothing else.
    objective: Literal["soft", "hard", "pair"] = "soft"
    likelihood: float = (
        0.0  # the weight of a step's log-likelihood, by the same model, in its score (0: none)
    )
    pair_margin: NonNegativeFloat = 0.0  # pairs are of siblings whose soft labels differ by more
    max_pairs_per_parent: NonNegativeInt = 0  # the widest apart (0: all)
    max_paths_per_problem: NonNegativeInt = 0  # labelled paths, drawn by seed (0: all)
    train: training.TrainSettings = training.TrainSettings(learning_rate=1e-3, weight_decay=0.01)
    scorer_slots: PositiveInt = 16  # paths in one forward pass of the held-out figures


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: examples, problems, dropped_long, steps, trained_tokens, and held_out (figures.py)."""
    policy = training.open_policy(inputs["prm"] if "prm" in inputs else inputs["policy"])
    training.check_model("prm", settings.train.model, policy)
    policy = training.with_adapters(_scoring(policy, settings.likelihood), settings.train.lora, seed)
    found = found_directories(inputs)
    rounds = [search_trees(directory) for directory in found.values()]
    trees = [tree for found_trees in rounds for tree in found_trees]
    held_out = search_trees(inputs["held_out"]) if "held_out" in inputs else []
    refuse_leakage(trees, held_out)
    samples = samples_of(rounds, settings, end_ids(policy.tokenizer), seed)
    encoded = [
        encode_step_pair(s) if isinstance(s, StepPair) else encode_step_labels(s, settings.objective)
        for s in samples
    ]
    kind, length = f"steps with {settings.objective} labels", settings.train.row_length
    rows = [provenance.node_row(s, kind, found, e, length) for s, e in zip(samples, encoded, strict=True)]
    provenance.write(out, rows)
    examples, dropped = keep_short(encoded, settings.train.row_length)
    if not examples:
        what = "pair of siblings" if settings.objective == "pair" else "labelled path"
        raise InputError(
            f"{out}: nothing to train on: no {what} in {len(trees)} trees ({dropped} were longer than "
            f"row_length {settings.train.row_length}); search more, or with more samples a step"
        )
    make_objective = objectives.prm_pairwise if settings.objective == "pair" else objectives.prm_pointwise
    objective = make_objective(*score_ids(policy.tokenizer))
    fitted = training.train_tokens(
        out, f"prm {settings.objective}", policy, objective, examples, settings, seed
    )
    figures = {
        "objective": settings.objective,
        "examples": len(examples),
        "problems": len({tree.problem_id for tree in trees}),
        "held_out": _held_out(out, settings, trees, held_out, seed) if held_out else None,
    }
    return training.result(fitted, figures, dropped)


def refuse_leakage(trees: Sequence[Tree], held_out: Sequence[Tree]) -> None:
    """InputError that names a problem, or a prompt, which is both trained on and held out."""
    # By prompt too: two data sets may have the same problem under different ids.
    trained = {tree.problem_id for tree in trees} | {tree.prompt_ids for tree in trees}
    for tree in held_out:
        if tree.problem_id in trained or tree.prompt_ids in trained:
            raise InputError(
                f"prm: problem {tree.problem_id} is both trained on and held out, so its figures would "
                "mean nothing; give a held_out search of other problems"
            )


def samples_of(
    rounds: Sequence[Sequence[Tree]], settings: Settings, ends: tuple[int, ...], seed: int
) -> list[StepLabel] | list[StepPair]:
    """The labelled paths, or the pairs, of all trees; `rounds` are the trees of every search stage, and an id
    begins with its round's index."""
    numbered = [(number, tree) for number, trees in enumerate(rounds) for tree in trees]
    if settings.objective == "pair":
        # Pairs are capped by parent, not by problem: a cap by problem would keep those of wide parents.
        limits = {"margin": settings.pair_margin, "max_per_parent": settings.max_pairs_per_parent}
        return [
            dataclasses.replace(pair, id=f"{number}/{pair.id}")
            for number, tree in numbered
            for pair in step_pairs(tree, ends=ends, **limits)
        ]
    by_problem: dict[str, list[StepLabel]] = {}
    for number, tree in numbered:
        # A path that two rounds found stays twice: the trees around it differ, and so may its labels.
        by_problem.setdefault(tree.problem_id, []).extend(
            dataclasses.replace(label, id=f"{number}/{label.id}") for label in step_labels(tree, ends=ends)
        )
    most = settings.max_paths_per_problem
    return [
        label
        for problem_id, labels in sorted(by_problem.items())
        for label in drawn(labels, most, seed, "prm_paths", problem_id)
    ]


def _scoring(policy: Policy, likelihood: float) -> Policy:
    """The policy's parameters in a model whose scores count likelihood so."""
    # The weight is part of the model's config, and so of the graph: whoever loads this model scores alike.
    config = dataclasses.replace(policy.config, score_likelihood=likelihood)
    graphdef, _ = abstract_params(config, make_mesh())
    return dataclasses.replace(policy, config=config, graphdef=graphdef)


def _held_out(
    out: epath.Path, settings: Settings, trees: Sequence[Tree], held_out: Sequence[Tree], seed: int
) -> dict[str, Any]:
    """The figures of the model that was saved, on one device of each process."""
    # Read back, and not taken from the training: what is measured is what search will load.
    prm = load_policy(out / "policy", own_devices())
    ends = end_ids(prm.tokenizer)

    async def scores() -> np.ndarray:
        scorer = scorer_of(prm, slots=settings.scorer_slots, context=prm.config.max_context, owned=True)
        try:
            return await score_nodes(held_out, scorer, ends)
        finally:
            await scorer.close()

    return held_out_figures(nodes_of(trees, ends), nodes_of(held_out, ends), asyncio.run(scores()), seed)
