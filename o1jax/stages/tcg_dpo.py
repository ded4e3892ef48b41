"""Step 1, second half: DPO of a test-case generator on true cases against false ones (O1-CODER, 3.1).

Inputs: tcg (of tcg_sft, also the reference model), problems (check_problems, as tcg_sft's). What is
rejected is made in tcg_rejected.py; the reference's log-probs are computed once.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import get_args

from etils import epath

from o1jax.model.lora import LoraSettings
from o1jax.parallel.processes import place
from o1jax.prompts import chat
from o1jax.records import InputError, PreferencePair
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.search.test_writing import WriteSettings
from o1jax.stages import check_problems, tcg_cases
from o1jax.stages.adapters import with_adapters
from o1jax.stages.manifest import StageResult
from o1jax.stages.policies import check_model, open_policy
from o1jax.stages.tcg_cases import CaseSet, CaseSettings
from o1jax.stages.tcg_rejected import Cases, Rejected, chosen_and_rejected, chosen_and_sampled
from o1jax.stages.together import made_once
from o1jax.stages.training import tokens_per_second, train_preferences
from o1jax.stages.workers import EngineSettings, open_workers
from o1jax.train.checkpoint import Policy
from o1jax.train.optimizer import AdamW


@dataclasses.dataclass(frozen=True)
class Settings:
    """`train_tokens` counts both sides of a pair. `nll_weight` adds the chosen answer's likelihood to
    the loss (0: DPO as published, under which it may fall). `write` and `engine` serve "sampled".
    `lora`: trains adapters of this rank, not all parameters."""

    train_tokens: int
    rejected: Rejected = "shuffled"
    beta: float = 0.1
    nll_weight: float = 0.0
    cases: CaseSettings = CaseSettings()
    row_length: int = 512
    rows_per_batch: int = 8
    micro_batches: int = 1
    learning_rate: float = 2e-4
    schedule: str = "cosine"
    warmup_steps: int = 10
    weight_decay: float = 0.0
    adamw: AdamW = AdamW()
    model: str = ""
    lora: LoraSettings = LoraSettings()
    write: WriteSettings = WriteSettings(answers=1, temperature=1.0, top_p=1.0, top_k=0)
    engine: EngineSettings = EngineSettings()


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: problems, sets, pairs (sets whose rejected cases are really false), dropped_long, steps,
    trained_tokens."""
    policy = open_policy(inputs["tcg"])
    check_model("tcg_dpo", settings.model, policy)
    if settings.rejected not in (kinds := get_args(Rejected)):
        raise InputError(f"tcg_dpo.rejected: saw {settings.rejected!r}, wanted one of {', '.join(kinds)}")
    if settings.rejected == "sampled" and place().count > 1:
        raise InputError(
            f"tcg_dpo.rejected: saw 'sampled' with {place().count} processes, wanted one: they are "
            "sampled by the policy that is trained"
        )
    made = tcg_cases.kept_sets(out, check_problems.read(inputs["problems"]), settings.cases, seed)
    pairs = made_once(
        out / "pairs.parquet", PreferencePair, lambda: pairs_of(made.sets, settings, policy, seed)
    )
    if not pairs:
        raise InputError(
            f"{inputs['problems']}: no set of cases with a false counterpart; lost: {made.dropped}"
        )
    policy = with_adapters(policy, settings.lora, seed)
    fitted, long = train_preferences(out, "tcg_dpo", policy, pairs, settings, seed)
    return StageResult(
        figures={
            "problems": made.problems,
            "sets": len(made.sets),
            "pairs": len(pairs),
            "dropped_long": long,
            "steps": fitted.progress.step,
            "trained_tokens": fitted.progress.tokens,
        },
        timings=tokens_per_second(fitted),
    )


def pairs_of(sets: Sequence[CaseSet], settings: Settings, policy: Policy, seed: int) -> list[PreferencePair]:
    """The sets that have a false counterpart, each with one; "sampled" ones are the policy's."""
    found = asyncio.run(_found(sets, settings, policy, seed))
    return [
        _pair(case_set, *both, settings.cases, policy.tokenizer)
        for case_set, both in zip(sets, found, strict=True)
        if both is not None
    ]


async def _found(
    sets: Sequence[CaseSet], settings: Settings, policy: Policy, seed: int
) -> list[tuple[Cases, Cases] | None]:
    limits = settings.cases.limits
    if settings.rejected != "sampled":
        async with ForkJudge(slots=settings.cases.judge_slots) as judge:
            return await chosen_and_rejected(judge, sets, settings.rejected, limits, seed)
    write = dataclasses.replace(
        settings.write, answers=1, traced=settings.cases.traced, style=settings.cases.style
    )
    async with open_workers(policy, settings.engine) as workers:
        return await chosen_and_sampled(
            workers.engine, workers.judge, policy.tokenizer, sets, write, limits, seed
        )


def _pair(
    case_set: CaseSet, chosen: Cases, rejected: Cases, settings: CaseSettings, tokenizer: chat.Tokenizer
) -> PreferencePair:
    return PreferencePair(
        id=case_set.id,
        problem_id=case_set.problem.id,
        prompt_ids=tcg_cases.prompt_ids(case_set, tokenizer, settings),
        chosen_ids=tcg_cases.answer_ids(chosen, tokenizer, settings),
        rejected_ids=tcg_cases.answer_ids(rejected, tokenizer, settings),
    )
