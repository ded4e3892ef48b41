"""Step 3, the training phase: a policy imitates the paths that pass, for a number of trained tokens.

Inputs: policy; found_<k>: search or sample stages; references and pool_references: problems whose
reference programs are trained on too (the warm-up's in every round, the pool's in no self-play); problems:
those that were searched, for prompt "bare"; prm: a process reward model, for the steps of failing answers.

The loss is SFT's, of examples in one mixture: found paths, references, and, where their weights are not 0,
failing answers whose steps gain or lose value (credit.py): steps that gain are imitated too, and those that
lose are made less likely. With the last two at 0 it is SFT. Samples nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from etils import epath
from pydantic import Field, NonNegativeInt, PositiveInt

from o1jax.batches.encode import (
    Example,
    encode_pushed,
    encode_sft,
    keep_short,
    with_column,
    without_pushes,
)
from o1jax.batches.stream import Batches, Rotation
from o1jax.parallel.mesh import make_mesh
from o1jax.policy import found
from o1jax.policy.credit import Credit, CreditedAnswer, Negatives, Progress, credited_answers
from o1jax.policy.found import BOTH, Answers, ReferencePrompts
from o1jax.prompts.chat import Tokenizer
from o1jax.prompts.fence import Style
from o1jax.records import InputError
from o1jax.stages import provenance, training
from o1jax.stages.manifest import StageResult
from o1jax.stages.problems import read_problems
from o1jax.stages.provenance import Provenance
from o1jax.stages.together import made_once
from o1jax.train import objectives
from o1jax.train.checkpoint import Policy
from o1jax.train.reference import token_log_probs_of


@dataclasses.dataclass(frozen=True)
class Settings:
    """The answers to learn from, their mixture, and how they are trained on."""

    train_tokens: PositiveInt  # tokens to train on, padding not counted, in as many epochs as that takes
    train: training.TrainSettings = training.TrainSettings()
    max_per_problem: NonNegativeInt = 2  # found paths of a problem, drawn by seed (0: all)
    # What found paths are trained under: the prompt that they were sampled under, or the one without worked
    # examples.
    prompt: Literal["as_sampled", "bare"] = "as_sampled"
    # A problem's paths weigh sqrt((1 - p) / p), between 1 / this and this; 0: all the same.
    hardness_bound: Annotated[float, Field(ge=0)] = 0.0
    # The references' share of the trained tokens: they take turns in the epochs of all other examples, as
    # many as that makes. 0: all of them in every epoch. About a fifth to a quarter was best in probes at nano
    # size, where all of them under both prompts, two thirds of the tokens, cost most of the gain.
    reference_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    reference_prompts: ReferencePrompts = BOTH  # that references are trained under
    variants: PositiveInt = 1  # reasoning chains, and programs, of each reference problem
    style: Style = "full"  # of the references' prompts, and of bare ones: as search had it
    progress: Progress = Progress()
    negatives: Negatives = Negatives()
    credit: Credit = Credit()  # of both

    def __post_init__(self):
        if 0 < self.hardness_bound < 1:
            raise InputError(f"hardness_bound: saw {self.hardness_bound}, wanted 0 (off) or at least 1")
        if not self.reference_prompts:
            raise InputError("reference_prompts: saw none, wanted 'pseudocode', 'direct' or both")

    @property
    def credits(self) -> bool:
        """Whether failing answers are trained on."""
        return self.progress.weight > 0 or self.negatives.weight > 0


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: found (answers), found_problems, references, references_an_epoch, dropped_long, steps,
    trained_tokens; with progress or negatives failing (answers that are learned from) and, of those,
    gaining_steps and losing_steps."""
    check(settings, inputs)
    tokenizer = training.open_tokenizer(inputs["policy"])
    answers, failing = examined(out, settings, inputs, tokenizer, seed)
    if not answers.all():
        raise InputError(f"{out}: nothing to train on: no path passed and no references were given")
    length = settings.train.row_length
    rows = found.provenance_of(answers, inputs, tokenizer, length)
    provenance.write(out, rows + credit_provenance(failing, inputs, length))
    policy = training.open_policy(inputs["policy"])
    training.check_model("policy_sft", settings.train.model, policy)
    policy = training.as_trained(policy, settings.train, seed)
    examples, rotation, dropped = mixture(answers, failing, settings, policy)
    objective = objectives.sft
    if examples and "push" in examples[0].columns:
        objective = objectives.sft_with_pushes(settings.negatives.clip)
    fitted = training.train_tokens(
        out, "policy_sft", policy, objective, examples, settings, seed, rotation=rotation
    )
    figures = {
        "found": len(answers.found),
        "found_problems": len({sample.problem_id for sample in answers.found}),
        "references": sum(map(len, answers.references.values())),
        "references_an_epoch": rotation.count if rotation else sum(map(len, answers.references.values())),
    }
    if settings.credits:
        advantages = [advantage for answer in failing for advantage in answer.advantages]
        figures["failing"] = len(failing)
        figures["gaining_steps"] = sum(advantage > 0 for advantage in advantages)
        figures["losing_steps"] = sum(advantage < 0 for advantage in advantages)
    return training.result(fitted, figures, dropped)


def check(settings: Settings, inputs: Mapping[str, epath.Path]) -> None:
    """InputError for settings and inputs that do not fit."""
    if settings.prompt == "bare" and "problems" not in inputs:
        raise InputError("policy_sft.prompt: saw 'bare' without an input problems; give those of found_<k>")
    if settings.prompt == "bare" and settings.negatives.weight and settings.negatives.was == "sampled":
        raise InputError(
            "policy_sft.negatives.was: saw 'sampled' with prompt 'bare', wanted 'start': they were sampled "
            "under another prompt"
        )
    if "prm" in inputs and not settings.credits:
        raise InputError(
            "policy_sft: saw an input prm, which values steps, with progress.weight and negatives.weight 0; "
            "give one of them a weight, or no prm"
        )


def examined(
    out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], tokenizer: Tokenizer, seed: int
) -> tuple[Answers, list[CreditedAnswer]]:
    """What is imitated, and the failing answers that teach something."""
    played, bare = found.read_played(inputs), None
    if settings.prompt == "bare":
        bare = found.bare_prompts(read_problems(inputs["problems"]), tokenizer, settings.style)
    paths = found.passing_paths(played, tokenizer, settings.max_per_problem, seed, bare)
    if settings.hardness_bound and paths:
        paths = found.weighted_by_hardness(paths, played, settings.hardness_bound)
    of_references = settings.variants, settings.style, settings.reference_prompts
    answers = Answers(paths, found.read_references(inputs, tokenizer, *of_references))
    if not settings.credits:
        return answers, []

    def make() -> list[CreditedAnswer]:
        of_steps = settings.progress, settings.negatives, settings.credit
        return credited_answers(played, inputs, tokenizer, of_steps, settings.train.row_length, seed)

    # Once: a model's scores may differ in their last bits where a stage goes on that was killed.
    failing = made_once(out / "failing.parquet", CreditedAnswer, make)
    if bare is not None:
        failing = [
            dataclasses.replace(answer, prompt_ids=found.bare_prompt(bare, answer.problem_id))
            for answer in failing
        ]
    return answers, failing


def mixture(
    answers: Answers, failing: Sequence[CreditedAnswer], settings: Settings, policy: Policy
) -> tuple[list[Example], Rotation | None, int]:
    """All examples that fit a row, the references last, how those take turns, and how many were too long."""
    length = settings.train.row_length
    paths, long_paths = keep_short([encode_sft(sample) for sample in answers.found], length)
    pushed, long_failing = keep_short([_encode(answer) for answer in failing], length)
    references, long_references = keep_short(
        [encode_sft(sample) for samples in answers.references.values() for sample in samples], length
    )
    if settings.negatives.was == "start":
        pushed = _compared_with_start(pushed, settings, policy)
    if pushed:
        paths, references = ([without_pushes(e) for e in of_kind] for of_kind in (paths, references))
    others, rotation = [*paths, *pushed], None
    if others and references and settings.reference_share:
        odds = settings.reference_share / (1 - settings.reference_share)
        mean = tokens_of(references) / len(references)
        rotation = Rotation(len(others), max(1, round(odds * tokens_of(others) / mean)))
    return [*others, *references], rotation, long_paths + long_failing + long_references


def tokens_of(examples: Sequence[Example]) -> int:
    """With their prompts, as trained tokens are counted."""
    return sum(len(example.token_ids) for example in examples)


def _encode(answer: CreditedAnswer) -> Example:
    ids = answer.prompt_ids, answer.answer_ids
    return encode_pushed(answer.id, *ids, answer.weights, answer.pushes, answer.log_probs)


def _compared_with_start(examples: Sequence[Example], settings: Settings, policy: Policy) -> list[Example]:
    """The examples with what the policy says now in the place of what the sampler said."""
    if not examples:
        return []
    batches = Batches(examples, seed=0, **settings.train.shape)
    values = token_log_probs_of(policy.graphdef, policy.all_params, batches, make_mesh())
    return [with_column(e, "behaviour", v.tolist()) for e, v in zip(examples, values, strict=True)]


def credit_provenance(
    failing: Sequence[CreditedAnswer], inputs: Mapping[str, epath.Path], row_length: int
) -> list[Provenance]:
    """A row for every failing answer that is learned from: which of its steps count, and by which A."""
    directories, rows = found.found_directories(inputs), []
    for answer in failing:
        facts: dict[str, Any] = {
            f"advantage of step {number}": round(advantage, 4)
            for number, advantage in zip(answer.numbers, answer.advantages, strict=True)
        }
        sources = found.found_sources(answer.id, directories)
        rows.append(
            provenance.row(answer, "steps of a failing answer", sources, _encode(answer), row_length, facts)
        )
    return rows
