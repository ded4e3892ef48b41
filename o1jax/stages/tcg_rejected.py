"""The rejected side of the generator's DPO: the chosen cases' inputs with outputs that are false.

shuffled: the three outputs in another order, none in its place (O1-CODER, section 3.1; traces stay
where they are). near_miss: the outputs, and traces, of one mutant of the program. A set is kept only
if what is rejected is really false on the reference program: all three cases of a shuffle, at least
one of a near miss. Chooses no chosen cases.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Literal

from o1jax.parallel.seeds import fold_seed
from o1jax.problems.mutants import mutants
from o1jax.prompts.test_cases import CASES, Case, is_renderable
from o1jax.rewards.generated_tests import true_cases
from o1jax.rewards.traces import traced_cases
from o1jax.sandbox.interface import Judge, Limits
from o1jax.search.bounded import run_in_order
from o1jax.stages.tcg_cases import CaseSet

Rejected = Literal["shuffled", "near_miss"]
CONCURRENCY = 64
MUTANTS = 6  # tried, in random order, until one gives a near miss


async def rejected_cases(
    judge: Judge, sets: Sequence[CaseSet], kind: Rejected, limits: Limits, seed: int
) -> list[tuple[Case, ...] | None]:
    """For each set, in order, its rejected cases; None where there are none that are really false."""
    one = {"shuffled": _shuffled, "near_miss": _near_miss}[kind]

    async def work(case_set: CaseSet) -> tuple[Case, ...] | None:
        rng = random.Random(fold_seed(seed, "rejected", case_set.id))
        return await one(judge, case_set, limits, rng)

    return await run_in_order(work, sets, CONCURRENCY)


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
    inputs = [case.test.input for case in case_set.cases]
    for mutant in mutants(case_set.source, MUTANTS, rng.randrange(1 << 31)):
        cases = await traced_cases(judge, case_set.problem, mutant, inputs, limits)
        usable = [case for case in cases if case is not None and is_renderable(case)]
        if len(usable) == CASES and not all(await _true(judge, case_set, usable, limits)):
            return tuple(usable)
    return None


async def _true(judge: Judge, case_set: CaseSet, cases: Sequence[Case], limits: Limits) -> list[bool]:
    tests = [case.test for case in cases]
    return await true_cases(judge, case_set.problem, case_set.source, tests, limits)
