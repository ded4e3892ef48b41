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
from o1jax.policy.found import provenance_of, read_answers
from o1jax.prompts.fence import Style
from o1jax.records import InputError
from o1jax.stages import provenance, training
from o1jax.stages.manifest import StageResult
from o1jax.train import objectives


@dataclasses.dataclass(frozen=True)
class Settings:
    """The paths to imitate, and how they are trained on."""

    train_tokens: PositiveInt  # tokens to train on, padding not counted, in as many epochs as that takes
    train: training.TrainSettings = training.TrainSettings()
    max_per_problem: NonNegativeInt = 4  # found paths of a problem, drawn by seed (0: all)
    variants: PositiveInt = 1  # reasoning chains, and programs, of each reference problem
    style: Style = "full"  # of the references' prompts: as search had it


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: found (answers), found_problems, references, dropped_long, steps, trained_tokens."""
    policy = training.open_policy(inputs["policy"])
    training.check_model("policy_sft", settings.train.model, policy)
    policy = training.with_adapters(policy, settings.train.lora, seed)
    capped = {"max_per_problem": settings.max_per_problem, "variants": settings.variants}
    answers = read_answers(inputs, policy.tokenizer, seed, style=settings.style, **capped)
    if not answers.all():
        raise InputError(f"{out}: nothing to train on: no path passed and no references were given")
    provenance.write(out, provenance_of(answers, inputs, policy.tokenizer, settings.train.row_length))
    # How large a share the references are decides more than the found paths do: in a probe at nano size the
    # same paths gave .171 with all references under both prompts, and .226 with a quarter of them under one.
    examples, dropped = keep_short(
        [encode_sft(sample) for sample in answers.all()], settings.train.row_length
    )
    fitted = training.train_tokens(out, "policy_sft", policy, objectives.sft, examples, settings, seed)
    figures = {
        "found": len(answers.found),
        "found_problems": len({sample.problem_id for sample in answers.found}),
        "references": sum(map(len, answers.references.values())),
    }
    return training.result(fitted, figures, dropped)
