"""Step 3: SFT of a policy on the paths that pass, for a number of trained tokens.

Inputs: policy; found_<k>: search or sample stages; references and pool_references: problems whose
reference programs are trained on too (the warm-up's in every round, the pool's in no self-play).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from etils import epath
from pydantic import NonNegativeInt, PositiveInt

from o1jax.batches.encode import encode_sft, keep_short
from o1jax.policy import found
from o1jax.policy import found as references
from o1jax.prompts.chat import Tokenizer
from o1jax.prompts.fence import Style
from o1jax.records import InputError, SftSample
from o1jax.stages.manifest import StageResult
from o1jax.stages.problems import read_problems
from o1jax.stages.training import (
    TrainSettings,
    check_model,
    open_policy,
    tokens_per_second,
    train_tokens,
    with_adapters,
)
from o1jax.train import objectives


@dataclasses.dataclass(frozen=True)
class Settings:
    """The paths to imitate, and how they are trained on."""

    train_tokens: PositiveInt  # tokens to train on, padding not counted, in as many epochs as that takes
    train: TrainSettings = TrainSettings()
    max_per_problem: NonNegativeInt = 4  # found paths of a problem, drawn by seed (0: all)
    variants: PositiveInt = 1  # reasoning chains, and programs, of each reference problem
    style: Style = "full"  # of the references' prompts: as search had it


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: found (answers), found_problems, references, dropped_long, steps, trained_tokens."""
    policy = open_policy(inputs["policy"])
    check_model("policy_sft", settings.train.model, policy)
    policy = with_adapters(policy, settings.train.lora, seed)
    found_samples, reference_samples = samples_of(settings, inputs, policy.tokenizer, seed)
    examples = [encode_sft(sample) for sample in (*found_samples, *reference_samples)]
    if not examples:
        raise InputError(f"{out}: nothing to train on: no path passed and no references were given")
    examples, dropped = keep_short(examples, settings.train.row_length)
    fitted = train_tokens(out, "policy_sft", policy, objectives.sft, examples, settings, seed)
    return StageResult(
        figures={
            "found": len(found_samples),
            "found_problems": len({sample.problem_id for sample in found_samples}),
            "references": len(reference_samples),
            "dropped_long": dropped,
            "steps": fitted.progress.step,
            "trained_tokens": fitted.progress.tokens,
        },
        timings=tokens_per_second(fitted),
    )


def samples_of(
    settings: Settings, inputs: Mapping[str, epath.Path], tokenizer: Tokenizer, seed: int
) -> tuple[list[SftSample], list[SftSample]]:
    """The answers that were found, and those of the references."""
    places = found.places_of(inputs)
    found_samples = found.passing_paths(places, tokenizer, settings.max_per_problem, seed)
    names = [name for name in ("references", "pool_references") if name in inputs]
    problems = [problem for name in names for problem in read_problems(inputs[name])]
    return found_samples, references.samples(problems, tokenizer, settings.variants, settings.style)
