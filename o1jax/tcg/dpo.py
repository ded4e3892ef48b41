"""Step 1, second half: DPO of a test-case generator on true cases against false ones (O1-CODER, 3.1).

Inputs: tcg (of tcg_sft, also the reference model), problems (check_problems, as tcg_sft's). What is
rejected is made in tcg_rejected.py; the reference's log-probs are computed once.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Literal

from etils import epath
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from o1jax.batches.encode import encode_pair
from o1jax.concurrency import run_in_order
from o1jax.engine.interface import Engine
from o1jax.parallel.processes import place
from o1jax.parallel.seeds import fold_seed
from o1jax.prompts import chat
from o1jax.records import InputError, PreferencePair, Problem
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Judge, Limits
from o1jax.stages import provenance
from o1jax.stages.manifest import StageResult
from o1jax.stages.problems import read_problems
from o1jax.stages.provenance import Provenance, text_source
from o1jax.stages.together import made_once
from o1jax.stages.training import (
    TrainSettings,
    check_model,
    open_policy,
    tokens_per_second,
    train_preferences,
    with_adapters,
)
from o1jax.stages.workers import EngineSettings, open_workers
from o1jax.tcg import cases as tcg_cases
from o1jax.tcg.cases import CaseSet, CaseSettings
from o1jax.tcg.gate import distinct, is_degenerate, true_cases
from o1jax.tcg.mutants import mutants
from o1jax.tcg.prompt import CASES, Case, canonical, is_renderable
from o1jax.tcg.traces import traced_cases
from o1jax.tcg.writing import WriteSettings, write_answers
from o1jax.train.checkpoint import Policy

# The pairs of the generator's DPO: three true cases, and three with the same inputs that are false.
#
# shuffled: the chosen outputs in another order, none in its place (O1-CODER, section 3.1; traces stay
# where they are). near_miss: the outputs, and traces, of one mutant of the program. sampled: an answer of
# the generator itself; what is chosen are the true cases of its inputs. A pair is kept only if what is
# rejected is really false on the reference program: all three cases of a shuffle, at least one of the others.

Rejected = Literal["shuffled", "near_miss", "sampled"]
Cases = tuple[Case, ...]
CONCURRENCY = 64
MUTANTS = 6  # tried, in random order, until one gives a near miss


async def chosen_and_rejected(
    judge: Judge, sets: Sequence[CaseSet], kind: Literal["shuffled", "near_miss"], limits: Limits, seed: int
) -> list[tuple[Cases, Cases] | None]:
    """For each set, in order, its cases and rejected ones; None where there are none really false."""
    one = {"shuffled": _shuffled, "near_miss": _near_miss}[kind]

    async def work(case_set: CaseSet) -> tuple[Cases, Cases] | None:
        rng = random.Random(fold_seed(seed, "rejected", case_set.id))
        rejected = await one(judge, case_set, limits, rng)
        return None if rejected is None else (case_set.cases, rejected)

    return await run_in_order(work, sets, CONCURRENCY)


async def chosen_and_sampled(
    engine: Engine,
    judge: Judge,
    tokenizer: chat.Tokenizer,
    sets: Sequence[CaseSet],
    write: WriteSettings,
    limits: Limits,
    seed: int,
) -> list[tuple[Cases, Cases] | None]:
    """For each set's prompt, the true cases of an answer's inputs and that answer's cases; None where
    they are all true, not three of different inputs, or a true one is degenerate or has no trace, and where
    the prompt fills the engine's context."""

    async def work(case_set: CaseSet) -> tuple[Cases, Cases] | None:
        source = case_set.source if case_set.shown else None
        answers = await write_answers(
            engine, tokenizer, case_set.problem, source, write, fold_seed(seed, case_set.id)
        )
        return await _corrected(judge, case_set, answers[0].cases, limits) if answers else None

    return await run_in_order(work, sets, CONCURRENCY)


async def _corrected(
    judge: Judge, case_set: CaseSet, sampled: Cases, limits: Limits
) -> tuple[Cases, Cases] | None:
    problem = case_set.problem
    if len(distinct([case.test for case in sampled], problem.form)) < CASES:
        return None
    inputs = [case.test.input for case in sampled]
    true = await traced_cases(judge, problem, case_set.source, inputs, limits)
    useful = [case for case in true if _is_usable(problem, case) and not is_degenerate(problem, case.test)]
    if len(useful) < len(true) or all(await _true(judge, case_set, sampled, limits)):
        return None
    return tuple(canonical(case, problem.form) for case in useful), sampled


def _is_usable(problem: Problem, case: Case | None) -> bool:
    return case is not None and is_renderable(case, problem.form)


async def _shuffled(
    judge: Judge, case_set: CaseSet, limits: Limits, rng: random.Random
) -> tuple[Case, ...] | None:
    cases = deranged(case_set.cases, rng)
    return cases if not any(await _true(judge, case_set, cases, limits)) else None


def deranged(cases: Sequence[Case], rng: random.Random) -> tuple[Case, ...]:
    """The cases with their outputs moved round by 1 to n - 1 places: of three, the two derangements
    (a uniform shuffle would be the identity one time in six)."""
    shift = rng.randrange(1, len(cases))
    moved = [cases[(i + shift) % len(cases)].test.output for i in range(len(cases))]
    return tuple(
        dataclasses.replace(case, test=dataclasses.replace(case.test, output=output))
        for case, output in zip(cases, moved, strict=True)
    )


async def _near_miss(
    judge: Judge, case_set: CaseSet, limits: Limits, rng: random.Random
) -> tuple[Case, ...] | None:
    inputs, form = [case.test.input for case in case_set.cases], case_set.problem.form
    for mutant in mutants(case_set.source, MUTANTS, rng.randrange(1 << 31)):
        cases = await traced_cases(judge, case_set.problem, mutant, inputs, limits)
        usable = [canonical(case, form) for case in cases if _is_usable(case_set.problem, case)]
        if len(usable) == CASES and not all(await _true(judge, case_set, usable, limits)):
            return tuple(usable)
    return None


async def _true(judge: Judge, case_set: CaseSet, cases: Sequence[Case], limits: Limits) -> list[bool]:
    tests = [case.test for case in cases]
    return await true_cases(judge, case_set.problem, case_set.source, tests, limits)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What false cases the true ones are compared with, and how DPO trains on them."""

    train_tokens: PositiveInt  # tokens to train on, both sides of a pair counted, padding not
    rejected: Rejected = "shuffled"  # how false cases are made; "shuffled" is the paper's
    beta: PositiveFloat = 0.1  # of DPO: how far the generator may go from its reference
    nll_weight: NonNegativeFloat = 0.0  # of the true cases' likelihood in the loss; 0: as published
    cases: CaseSettings = CaseSettings()
    train: TrainSettings = TrainSettings(
        row_length=512, rows_per_batch=8, learning_rate=2e-4, weight_decay=0.0
    )
    # how false cases are sampled, for "sampled" alone
    write: WriteSettings = WriteSettings(answers=1, temperature=1.0, top_p=1.0, top_k=0)
    engine: EngineSettings = EngineSettings()


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: problems, sets, pairs (sets whose rejected cases are really false), dropped_long, steps,
    trained_tokens."""
    policy = open_policy(inputs["tcg"])
    check_model("tcg_dpo", settings.train.model, policy)
    if settings.rejected == "sampled" and place().count > 1:
        raise InputError(
            f"tcg_dpo.rejected: saw 'sampled' with {place().count} processes, wanted one: they are "
            "sampled by the policy that is trained"
        )
    made = tcg_cases.kept_sets(out, read_problems(inputs["problems"]), settings.cases, seed)
    pairs = made_once(
        out / "pairs.parquet", PreferencePair, lambda: pairs_of(made.sets, settings, policy, seed)
    )
    if not pairs:
        raise InputError(
            f"{inputs['problems']}: no set of cases with a false counterpart; lost: {made.dropped}"
        )
    provenance.write(out, _provenance(pairs, made.sets, settings, policy.tokenizer))
    policy = with_adapters(policy, settings.train.lora, seed)
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


def _provenance(
    pairs: Sequence[PreferencePair], sets: Sequence[CaseSet], settings: Settings, tokenizer: chat.Tokenizer
) -> list[Provenance]:
    of_id, rows = {case_set.id: case_set for case_set in sets}, []
    false, sampled_by = f"{settings.rejected} ones", "tcg" if settings.rejected == "sampled" else ""
    for pair in pairs:
        sources = [
            text_source("problems", "true cases", pair.chosen_ids, tokenizer, "chosen"),
            text_source("problems", false, pair.rejected_ids, tokenizer, "rejected", sampled_by),
        ]
        facts = {"program": of_id[pair.id].source, "program_shown": of_id[pair.id].shown}
        length = settings.train.row_length
        rows.append(provenance.row(pair, "true and false cases", sources, encode_pair(pair), length, facts))
    return rows


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
