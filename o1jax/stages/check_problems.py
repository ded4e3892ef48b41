"""Problems from a source, their reference programs run against their tests, the inconsistent listed.

Inputs: problems (a finished check_problems or write_tests stage) where there is no source. Writes
problems.jsonl (what later stages read) and inconsistent.json. Does not judge the policy.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping

from etils import epath

from o1jax.parallel.seeds import fold_seed
from o1jax.problems import jsonl, ladder
from o1jax.problems.load import load_problems
from o1jax.records import InputError, Problem, Verdict
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Judge, Limits, job_of
from o1jax.stages.manifest import StageResult, write_json

LADDER = "ladder:"


@dataclasses.dataclass(frozen=True)
class Settings:
    """`source`: "ladder:<split>" with `counts` {rung_<k>: problems}, a file, or a public data set's name; ""
    for the problems of the input.

    Ladder only, in place of a problem's own tests: at most `small_tests` with small inputs, what a test-case
    generator learns from; or `drawn_tests` new ones, what rewards are audited by.

    `keep`: "consistent" drops problems of whose references none passes every test; "all" drops none.
    """

    source: str = ""
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    small_tests: int = 0
    drawn_tests: int = 0
    max_problems: int = 0  # 0: all
    max_solutions: int = 10
    keep: str = "consistent"
    judge_slots: int = 2
    cpu_s: float = 2.0


def read(out: epath.Path) -> list[Problem]:
    """The problems that a finished check_problems stage kept."""
    return jsonl.load(out / "problems.jsonl")


def load(settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> list[Problem]:
    """The source's problems, before any check."""
    if bool(settings.source) == ("problems" in inputs):
        raise InputError(
            f"check_problems: saw source {settings.source!r}, inputs {sorted(inputs)}; wanted one of the two"
        )
    if not settings.source:
        problems = read(inputs["problems"])
    elif settings.source.startswith(LADDER):
        counts = {int(rung.removeprefix("rung_")): n for rung, n in settings.counts.items()}
        problems = ladder.make_problems(settings.source.removeprefix(LADDER), counts, seed)
    else:
        problems = load_problems(settings.source)
    return [_with_tests(problem, settings, seed) for problem in problems[: settings.max_problems or None]]


def _with_tests(problem: Problem, settings: Settings, seed: int) -> Problem:
    if settings.small_tests:
        tests = ladder.small_tests(problem.id, settings.small_tests, seed)
    elif settings.drawn_tests:
        tests = ladder.generate_tests(problem.id, settings.drawn_tests, fold_seed(seed, problem.id))
    else:
        return problem
    return dataclasses.replace(problem, tests=tuple(tests))


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: problems, kept, references, references_passed, inconsistent (ids)."""
    if settings.keep not in ("consistent", "all"):
        raise InputError(f"check_problems.keep: saw {settings.keep!r}, wanted 'consistent' or 'all'")
    problems = load(settings, inputs, seed)
    verdicts_P_R = asyncio.run(_judge_all(problems, settings))
    report = [_line(problem, verdicts) for problem, verdicts in zip(problems, verdicts_P_R, strict=True)]
    bad = {line["id"] for line in report if line["references"] and not line["references_passed"]}
    kept = [p for p in problems if settings.keep == "all" or p.id not in bad]
    write_json(
        out / "inconsistent.json", [line for line in report if line["references_passed"] < line["references"]]
    )
    jsonl.save(out / "problems.jsonl", kept)
    return StageResult(
        figures={
            "problems": len(problems),
            "kept": len(kept),
            "references": sum(line["references"] for line in report),
            "references_passed": sum(line["references_passed"] for line in report),
            "inconsistent": sorted(bad),
        },
        timings={},
    )


async def _judge_all(problems: list[Problem], settings: Settings) -> list[list[Verdict]]:
    judge = ForkJudge(slots=settings.judge_slots)
    limits = Limits(cpu_s=settings.cpu_s, wall_s=4 * settings.cpu_s)
    try:
        return await asyncio.gather(
            *(_judge_references(judge, p, limits, settings.max_solutions) for p in problems)
        )
    finally:
        await judge.close()


async def _judge_references(judge: Judge, problem: Problem, limits: Limits, most: int) -> list[Verdict]:
    tests = (*problem.tests, *problem.hidden_tests)
    jobs = [job_of(problem, source, tests, limits) for source in problem.solutions[:most]]
    return await asyncio.gather(*(judge.judge(job) for job in jobs))


def _line(problem: Problem, verdicts: list[Verdict]) -> dict:
    failures = [
        f"reference {i}, test {j}: {case.status} {case.detail}".strip()
        for i, verdict in enumerate(verdicts)
        for j, case in enumerate(verdict.cases)
        if not case.passed
    ]
    return {
        "id": problem.id,
        "tests": len(problem.tests) + len(problem.hidden_tests),
        "references": len(verdicts),
        "references_passed": sum(verdict.passed for verdict in verdicts),
        "first_failure": failures[0] if failures else "",
    }
