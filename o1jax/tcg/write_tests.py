"""A generator's tests for problems, gated on their reference programs (D6), to judge search and RL by.

Inputs: tcg (a test-case generator), problems (check_problems). Writes problems.parquet, which search and
later stages read in place of the problems, and cases.parquet with every case and its fate. A problem whose
cases do not pass the gate is no failure, unless that leaves no problem. Trains nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from etils import epath

from o1jax.records import InputError, Problem, TestCase
from o1jax.stages.manifest import StageResult
from o1jax.stages.problems import read_problems, write_problems
from o1jax.stages.workers import EngineSettings, sampling_workers
from o1jax.store import write_records
from o1jax.tcg.gate import (
    GateSettings,
    WrittenCase,
    WrittenTests,
    distinct,
    fates,
    unfit_counts,
    write_and_gate,
)
from o1jax.tcg.writing import WriteSettings

RewardTests = Literal["own", "generated", "both"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How tests are written and gated, and which of them a problem has from then on."""

    write: WriteSettings = WriteSettings()
    gate: GateSettings = GateSettings()
    # A problem for which no case was written, or none passed the gate, keeps its own tests under "both" and
    # is left out under "generated".
    reward_tests: RewardTests = "both"
    engine: EngineSettings = EngineSettings()


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: problems, with_tests, skipped (no case passed the gate), unfit (why -> problems without a
    reference program or tests to gate by), long_prompts (longer than the engine's context), tests, fates,
    generated_tokens."""
    problems = read_problems(inputs["problems"])

    async def write() -> tuple[list[WrittenTests], dict[str, float]]:
        async with sampling_workers(inputs["tcg"], settings.engine) as workers:
            tests = await write_and_gate(workers, problems, own_tests, settings.write, settings.gate, seed)
            return tests, workers.timings()

    tests, timings = asyncio.run(write())
    cases = [
        WrittenCase(test.problem.id, case.input, case.output, fate)
        for test in tests
        for case, fate in zip(test.written.cases, test.gated.fates, strict=True)
    ]
    write_records(out / "cases.parquet", WrittenCase, cases)
    generated = {test.problem.id: test.gated.kept for test in tests}
    every = [_with_tests(p, generated.get(p.id, ()), settings.reward_tests) for p in problems]
    kept = [problem for problem in every if problem.tests]
    if not kept:
        raise InputError(
            f"write_tests.reward_tests: saw {settings.reward_tests!r}, which leaves none of {len(problems)} "
            f"problems a test (cases: {fates(tests)}); take 'both', or a generator that writes true cases"
        )
    write_problems(out, kept)
    gated = [len(test.gated.kept) for test in tests]
    figures = {
        "problems": len(kept),
        "with_tests": sum(map(bool, gated)),
        "skipped": sum(not n for n in gated),
        "unfit": unfit_counts(problems, own_tests),
        "long_prompts": sum(test.written.long_prompts for test in tests),
        "tests": sum(gated),
        "fates": fates(tests),
        "generated_tokens": sum(test.written.generated_tokens for test in tests),
    }
    return StageResult(figures, timings)


def own_tests(problem: Problem) -> tuple[TestCase, ...]:
    """Those that may judge search and RL: never the hidden ones."""
    # By hidden tests more mutants would be known as wrong, and what they tell would leak into the gate.
    return problem.tests


def _with_tests(problem: Problem, generated: Sequence[TestCase], which: RewardTests) -> Problem:
    """The problem with the tests that are to judge, the first of each input."""
    # Own ones first: a person wrote them, so of two with the same input theirs stays.
    tests = (*(problem.tests if which != "generated" else ()), *(generated if which != "own" else ()))
    return dataclasses.replace(problem, tests=tuple(distinct(tests, problem.form)))
