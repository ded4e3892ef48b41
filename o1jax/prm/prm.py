"""The process reward model (PRM): a policy that says of each step whether it leads to a pass (D9).

What is trained is a head on the frozen policy (head.py), or the whole body. Inputs: policy, which it starts
from, or prm, an earlier PRM whose body to go on with; found_<k>: search stages whose trees give the labels;
and perhaps, of other problems, searched alike,
  calibration  a search stage on whose trees the scores are calibrated (calibrate.py),
  held_out     one whose trees give the figures.
The policy is to be the one that searched, never one that SFT has since trained on the same problems' passing
paths: that one knows them by heart (leakage.py). The stages behind it tell: it is warned of, and the figure
start_saw says of how many problems; a calibration, or figures, of problems that it was trained on are
refused. A PRM is a policy directory like any other. Searches nothing, and labels no tree itself
(search/samples.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from etils import epath
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from o1jax.batches.encode import (
    Example,
    LabelWeight,
    encode_step_labels,
    encode_step_pair,
    independent,
    keep_short,
)
from o1jax.engine.step_scorer import StepScorer, score_ids
from o1jax.losses.prm import calibrated
from o1jax.model.init import abstract_params
from o1jax.parallel.mesh import make_mesh, own_devices
from o1jax.parallel.seeds import drawn
from o1jax.policy.found import found_directories, search_trees
from o1jax.prm.calibrate import fit_calibration
from o1jax.prm.figures import held_out_figures
from o1jax.prm.head import HeadInputs, fit_head, prompt_states
from o1jax.prm.leakage import learned_by, refuse_leakage, warn_of_memory
from o1jax.prm.nodes import LabelKind, Nodes, node_logits, nodes_of
from o1jax.prompts.ends import end_ids
from o1jax.records import InputError, StepLabel, StepPair, Tree
from o1jax.search.samples import step_labels, step_pairs
from o1jax.stages import provenance, training
from o1jax.stages.manifest import StageResult
from o1jax.train import objectives
from o1jax.train.checkpoint import Policy, load_policy, save_policy

USES = {"calibration": "used for the calibration", "held_out": "held out"}  # input -> what its problems are


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a process reward model learns of searched paths, and how."""

    train_tokens: PositiveInt  # tokens to train a body on, padding not counted
    # A head on the frozen policy, which is fitted in a minute, or the body, by train.*. Of a few hundred
    # problems a head tells more (tests/benchmarks/RESULTS.md).
    trains: Literal["head", "body"] = "head"
    # Cross-entropy with the soft or the hard label of every step, or Bradley-Terry on pairs of siblings. The
    # scores of "pair" compare siblings and nothing else: not steps of different problems.
    objective: Literal["soft", "hard", "pair"] = "soft"
    # Of a trained body: the weight of a program's log-likelihood, by the same model, in its score (0: none).
    # A head fits its own.
    likelihood: float = 0.0
    # What a label counts: "one" on each path that its step is on, so that a step counts about as often as it
    # has leaves, or by its "leaves" (batches.encode.independent), on however many paths it is. Not of pairs.
    label_weight: LabelWeight = "leaves"
    pair_margin: NonNegativeFloat = 0.0  # pairs are of siblings whose soft labels differ by more
    max_pairs_per_parent: NonNegativeInt = 0  # the widest apart (0: all)
    max_paths_per_problem: NonNegativeInt = 0  # labelled paths, drawn by seed (0: all)
    train: training.TrainSettings = training.TrainSettings(learning_rate=1e-3, weight_decay=0.01)
    scorer_slots: PositiveInt = 16  # paths in one forward pass where nothing is trained

    def __post_init__(self):
        if self.trains == "head" and self.objective == "pair":
            raise InputError("prm: saw objective 'pair' with trains 'head'; set prm.trains to 'body'")

    @property
    def label_kind(self) -> LabelKind:
        """The labels that scores are compared with; of pairs the soft ones, which order them."""
        return "hard" if self.objective == "hard" else "soft"


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: objective, examples, problems, start_saw (to how many of these the start had learned answers),
    dropped_long, steps, trained_tokens (both 0 of a head), score_calibration, and held_out (figures.py)."""
    start = _start(settings, inputs)
    policy = training.open_policy(start)
    training.check_model("prm", settings.train.model, policy)
    found = found_directories(inputs)
    rounds = [search_trees(directory) for directory in found.values()]
    trees = [tree for found_trees in rounds for tree in found_trees]
    other_trees = {name: search_trees(inputs[name]) for name in USES if name in inputs}
    learned = learned_by(start)
    refuse_leakage({"trained on": trees} | {USES[name]: of for name, of in other_trees.items()}, learned)
    start_saw = warn_of_memory(trees, learned)
    policy = _scoring(policy, settings.likelihood)
    samples = samples_of(rounds, settings, end_ids(policy.tokenizer), seed)
    examples, dropped = _examples(out, samples, settings, found)
    rows = nodes_of(trees, end_ids(policy.tokenizer))
    if settings.trains == "head":
        policy = _with_head(policy, settings, start, trees, rows)
        trained, timings = {"dropped_long": dropped, "steps": 0, "trained_tokens": 0}, {}
        save_policy(out / "policy", policy.config, policy.params, policy.tokenizer)
    else:
        policy = training.as_trained(policy, settings.train, seed)
        make_objective = objectives.prm_pairwise if settings.objective == "pair" else objectives.prm_pointwise
        title, objective = f"prm {settings.objective}", make_objective(*score_ids(policy.tokenizer))
        fitted = training.train_tokens(out, title, policy, objective, examples, settings, seed)
        trained, timings = dataclasses.astuple(training.result(fitted, {}, dropped))
        policy = dataclasses.replace(policy, params=fitted.params)
    scored = _score(out, settings, start, other_trees)
    calibration = scored.calibration or policy.config.score_calibration
    if calibration != policy.config.score_calibration:
        # Part of the model's config, as the likelihood's weight is: whoever loads this model scores alike.
        config = dataclasses.replace(policy.config, score_calibration=calibration)
        save_policy(out / "policy", config, policy.params, policy.tokenizer)
    held_out = None
    if scored.nodes is not None:
        held_out = held_out_figures(rows, scored.nodes, scored.scores, settings.label_kind, seed)
    figures = {
        "objective": settings.objective,
        "examples": len(examples),
        "problems": len({tree.problem_id for tree in trees}),
        "start_saw": start_saw,
        "score_calibration": [[round(x, 4) for x in of] for of in calibration],
        "held_out": held_out,
    }
    return StageResult({**figures, **trained}, timings)


def _start(settings: Settings, inputs: Mapping[str, epath.Path]) -> epath.Path:
    """The directory whose weights the model begins with."""
    # A head is fitted anew from all labels, on the newest policy: an earlier one's body is an older policy.
    if "prm" in inputs and (settings.trains == "body" or "policy" not in inputs):
        return inputs["prm"]
    return inputs["policy"]


def _with_head(
    policy: Policy, settings: Settings, start: epath.Path, trees: Sequence[Tree], rows: Nodes
) -> Policy:
    """The policy of `start` with a head that is fitted to the labels of these trees' rows, and calibrated on
    them."""
    model = training.open_policy(start, own_devices())
    states_PD = prompt_states(model, [tree.prompt_ids for tree in trees], settings.scorer_slots)
    sum_N = _logits(_likelihood_of(model), settings, {"found": trees})["found"]
    # A step that was judged is a program.
    inputs = HeadInputs(
        states_PD[rows.tree_N], np.where(rows.is_leaf_N, sum_N, 0.0), np.where(rows.is_leaf_N, 0.0, sum_N)
    )
    label_N, numbers = rows.labels_N(settings.label_kind), rows.number_N
    weight_N = np.ones(len(rows))
    if settings.label_weight == "leaves":
        weight_N = np.array([independent(n) for n in rows.n_leaves_N.tolist()])
    head = fit_head(inputs, numbers, label_N, weight_N, rows.problem_N)
    # Of problems that it was fitted to; a calibration on others takes this one's place.
    own = fit_calibration(inputs.logits(head), numbers, label_N)
    config = dataclasses.replace(
        policy.config,
        score_prompt=head.score_prompt,
        score_likelihood=head.score_likelihood,
        score_step_likelihood=head.score_step_likelihood,
        score_calibration=own,
    )
    return dataclasses.replace(policy, config=config)


def _likelihood_of(policy: Policy) -> Policy:
    """The policy in a model whose logits are the sums of the log-probs of the steps' tokens."""
    nothing = (0.0,) * policy.config.d_model
    config = dataclasses.replace(
        policy.config, score_prompt=nothing, score_likelihood=1.0, score_step_likelihood=1.0
    )
    return dataclasses.replace(policy, config=config)


def _examples(
    out: epath.Path,
    samples: Sequence[StepLabel | StepPair],
    settings: Settings,
    found: Mapping[str, epath.Path],
) -> tuple[list[Example], int]:
    """The samples that fit into a row, encoded, and how many do not. Writes the provenance of all. InputError
    if none fits."""
    encoded = [
        encode_step_pair(s)
        if isinstance(s, StepPair)
        else encode_step_labels(s, settings.label_kind, settings.label_weight)
        for s in samples
    ]
    kind, length = f"steps with {settings.objective} labels", settings.train.row_length
    rows = [provenance.node_row(s, kind, found, e, length) for s, e in zip(samples, encoded, strict=True)]
    provenance.write(out, rows)
    examples, dropped = keep_short(encoded, length)
    if not examples:
        what = "pair of siblings" if settings.objective == "pair" else "labelled path"
        raise InputError(
            f"{out}: nothing to train on: no {what} in the trees ({dropped} were longer than row_length "
            f"{length}); search more, or with more samples a step"
        )
    return examples, dropped


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
    """The policy's parameters in a model whose scores count likelihood so, not yet calibrated."""
    # The weight is part of the model's config, and so of the graph: whoever loads this model scores alike. A
    # head or calibration that an earlier model had is of its states and logits, not of those to come.
    config = dataclasses.replace(
        policy.config,
        score_likelihood=likelihood,
        score_step_likelihood=0.0,
        score_prompt=(),
        score_calibration=(),
    )
    graphdef, _ = abstract_params(config, make_mesh())
    return dataclasses.replace(policy, config=config, graphdef=graphdef)


@dataclasses.dataclass(frozen=True)
class Scored:
    """What the trained model says of steps of other problems."""

    calibration: tuple[tuple[float, float], ...] = ()  # of a trained body () without trees to fit it on
    nodes: Nodes | None = None  # of the held-out trees, if there are any
    # Their scores: "prm" as stored, "uncalibrated" where that differs, "likelihood" of the model it began as
    scores: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def _score(
    out: epath.Path, settings: Settings, start: epath.Path, trees: Mapping[str, Sequence[Tree]]
) -> Scored:
    """The saved model on the trees of USES that there are, on one device of each process."""
    if not trees:
        return Scored()
    # Read back, and not taken from the training: what is measured is what search will load.
    prm = load_policy(out / "policy", own_devices())
    nodes = {name: nodes_of(of, end_ids(prm.tokenizer)) for name, of in trees.items()}

    def fitted(value_N: Mapping[str, np.ndarray]) -> tuple[tuple[float, float], ...]:
        if "calibration" not in nodes:
            return ()
        rows = nodes["calibration"]
        return fit_calibration(value_N["calibration"], rows.number_N, rows.labels_N(settings.label_kind))

    logits = _logits(prm, settings, trees)
    calibration = fitted(logits) or prm.config.score_calibration
    if "held_out" not in nodes:
        return Scored(calibration)
    held_out = nodes["held_out"]
    scores = {"prm": calibrated(logits["held_out"], held_out.number_N, calibration)}
    if calibration:
        scores["uncalibrated"] = calibrated(logits["held_out"], held_out.number_N, ())
    # How likely its own steps are to the start tells how well they can be ranked before any label is seen.
    # Calibrated like the model: a mean over a program's tokens and one over a plan's are not comparable.
    sums = _logits(_likelihood_of(training.open_policy(start, own_devices())), settings, trees)
    means = {name: sums[name] / nodes[name].step_tokens_N for name in sums}
    ab = fitted(means)
    scores["likelihood"] = calibrated(means["held_out"], held_out.number_N, ab) if ab else means["held_out"]
    return Scored(calibration, held_out, scores)


def _logits(model: Policy, settings: Settings, trees: Mapping[str, Sequence[Tree]]) -> dict[str, np.ndarray]:
    """logit_N of the steps of each name's trees, not calibrated. The model's parameters are let go of."""
    config, ends = model.config, end_ids(model.tokenizer)
    shape = {"slots": settings.scorer_slots, "context": config.max_context}

    async def work() -> dict[str, np.ndarray]:
        ids = score_ids(model.tokenizer)
        scorer = StepScorer(config, model.graphdef, model.params, *ids, owned=True, **shape)
        try:
            return {name: await node_logits(of, scorer, ends) for name, of in trees.items()}
        finally:
            await scorer.close()

    return asyncio.run(work())
