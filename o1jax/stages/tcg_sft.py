"""Step 1, first half: SFT of a test-case generator on true cases (O1-CODER, section 3.1).

Inputs: policy (what it starts from; a TCG is a policy directory like any), problems (check_problems,
whose tests are learned from). DPO follows in tcg_dpo.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from etils import epath

from o1jax.batches.encode import encode_sft, keep_short
from o1jax.batches.stream import Batches
from o1jax.parallel.mesh import make_mesh
from o1jax.records import InputError, SftSample
from o1jax.stages import check_problems, tcg_cases
from o1jax.stages.manifest import StageResult
from o1jax.stages.policies import check_model, open_policy
from o1jax.stages.policy_sft import steps_for
from o1jax.stages.tcg_cases import CaseSet, CaseSettings
from o1jax.train import objectives
from o1jax.train.checkpoint import save_policy
from o1jax.train.loop import FitSettings, fit
from o1jax.train.optimizer import OptimizerSettings


@dataclasses.dataclass(frozen=True)
class Settings:
    """`train_tokens`: tokens to train on, padding not counted. `model`: the preset that the policy must
    have the shape of, where it is given."""

    train_tokens: int
    cases: CaseSettings = CaseSettings()
    row_length: int = 256
    rows_per_batch: int = 16
    learning_rate: float = 2e-3
    schedule: str = "cosine"
    warmup_steps: int = 10
    weight_decay: float = 0.1
    model: str = ""


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: problems, sets, dropped (reasons), dropped_long, steps, trained_tokens, loss."""
    policy = open_policy(inputs["policy"])
    check_model("tcg_sft", settings.model, policy)
    made = tcg_cases.make_sets(check_problems.read(inputs["problems"]), settings.cases, seed)
    if not made.sets:
        raise InputError(
            f"{inputs['problems']}: no problem has a reference program and three tests to learn from; "
            f"lost: {made.dropped}"
        )
    samples = [_sample(case_set, policy.tokenizer, settings.cases) for case_set in made.sets]
    examples, long = keep_short([encode_sft(sample) for sample in samples], settings.row_length)
    batches = Batches(
        examples, row_length=settings.row_length, rows_per_batch=settings.rows_per_batch, seed=seed
    )
    steps = steps_for(batches, settings.train_tokens)
    optimizer = OptimizerSettings(
        learning_rate=settings.learning_rate,
        total_steps=steps,
        schedule=settings.schedule,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
    )
    fitted = fit(
        out / "fit",
        policy.graphdef,
        policy.params,
        objectives.sft,
        batches,
        optimizer,
        FitSettings(steps),
        mesh=make_mesh(),
        title="tcg_sft",
    )
    save_policy(out / "policy", policy.config, fitted.params, policy.tokenizer)
    return StageResult(
        figures={
            "problems": made.problems,
            "sets": len(made.sets),
            "dropped": made.dropped,
            "dropped_long": long,
            "steps": steps,
            "trained_tokens": fitted.progress.tokens,
        },
        timings={"tokens_per_second": round(fitted.progress.tokens / fitted.seconds)},
    )


def _sample(case_set: CaseSet, tokenizer, settings: CaseSettings) -> SftSample:
    answer = tcg_cases.answer_ids(case_set.cases, tokenizer, settings)
    return SftSample(
        id=case_set.id,
        problem_id=case_set.problem.id,
        prompt_ids=tcg_cases.prompt_ids(case_set, tokenizer, settings),
        answer_ids=answer,
        is_trained=(True,) * len(answer),
    )
