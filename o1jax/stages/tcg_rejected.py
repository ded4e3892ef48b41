"""The pairs of the generator's DPO: three true cases, and three with the same inputs that are false.

shuffled: the chosen outputs in another order, none in its place (O1-CODER, section 3.1; traces stay
where they are). near_miss: the outputs, and traces, of one mutant of the program. sampled: an answer of
the generator itself; what is chosen are the true cases of its inputs. A pair is kept only if what is
rejected is really false on the reference program: all three cases of a shuffle, at least one of the others.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Literal

from o1jax.engine.interface import Engine
from o1jax.parallel.seeds import fold_seed
from o1jax.problems.mutants import mutants
from o1jax.prompts import chat
from o1jax.prompts.test_cases import CASES, Case, canonical, is_renderable
from o1jax.records import Problem
from o1jax.rewards.generated_tests import distinct, is_degenerate, true_cases
from o1jax.rewards.traces import traced_cases
from o1jax.sandbox.interface import Judge, Limits
from o1jax.search.bounded import run_in_order
from o1jax.search.test_writing import WriteSettings, write_answers
from o1jax.stages.tcg_cases import CaseSet

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
