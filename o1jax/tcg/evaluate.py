"""What a test-case generator is worth, on held-out problems: its cases before and after the gate.

Inputs: tcg, problems (check_problems, held out), and optionally wrong (an evaluate stage on the same
problems, whose failing programs are the policy's own wrong ones) with its policy. Before the gate: parse
rate, validity, degenerate share, distinct inputs, for the prompt that shows the reference program and
the one that does not. After it: false accepts and false rejects, beside those of the problems' own
tests and of random inputs of the ladder. tallies.parquet has the counts by problem. Trains nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath
from pydantic import NonNegativeInt

from o1jax.concurrency import run_in_order
from o1jax.intervals import mean_with_interval, ratio_with_interval
from o1jax.parallel.seeds import fold_seed
from o1jax.problems.ladder import problems as ladder
from o1jax.records import Problem, Rollout, TestCase
from o1jax.rewards.outcome import final_tests
from o1jax.stages.manifest import StageResult
from o1jax.stages.problems import read_problems
from o1jax.stages.training import open_policy
from o1jax.stages.workers import EngineSettings, Workers, open_workers
from o1jax.store import read_records, write_records
from o1jax.tcg.gate import (
    GateSettings,
    Tally,
    WrittenTests,
    fates,
    killed,
    tally,
    unfit_counts,
    write_and_gate,
)
from o1jax.tcg.writing import WriteSettings, Written, write_cases


@dataclasses.dataclass(frozen=True)
class Settings:
    """What of a generator is measured on held-out problems."""

    write: WriteSettings = WriteSettings()
    gate: GateSettings = GateSettings(mutants=20)
    question_only: bool = True  # whether the prompt without a program is measured too
    random_tests: bool = False  # ladder: as many tests of its own generator as passed the gate stand beside
    max_wrong: NonNegativeInt = 8  # of the policy's wrong programs a problem
    engine: EngineSettings = EngineSettings()


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: problems, before {program, question}, after {generated, own (of the problems that have
    visible tests), random}, with_tests, fates, unfit (why -> problems left out), long_prompts (longer than
    the engine's context), generated_tokens."""
    problems = read_problems(inputs["problems"])
    figures, timings, tallies = asyncio.run(_evaluate(settings, inputs, problems, seed))
    write_records(out / "tallies.parquet", Tally, tallies)
    return StageResult({"problems": len(problems), **figures}, timings)


async def _evaluate(
    settings: Settings, inputs: Mapping[str, epath.Path], problems: Sequence[Problem], seed: int
) -> tuple[dict[str, Any], dict[str, float], list[Tally]]:
    async with open_workers(open_policy(inputs["tcg"]), settings.engine) as workers:
        tests = await write_and_gate(workers, problems, final_tests, settings.write, settings.gate, seed)
        tallies = {"program": [await _tally(workers, settings, test) for test in tests]}
        written = [test.written for test in tests]
        if settings.question_only:
            fit = [test.problem for test in tests]
            tallies["question"], question_only = await _question_only(workers, settings, fit, seed)
            written += question_only
        wrong = policy_wrong(inputs, settings.max_wrong) if "wrong" in inputs else {}
        after = await _after(workers, settings, tests, wrong, seed)
        figures = {
            "before": {prompt: before_figures(of_prompt, seed) for prompt, of_prompt in tallies.items()},
            "after": after,
            "with_tests": sum(bool(test.gated.kept) for test in tests),
            "fates": fates(tests),
            "unfit": unfit_counts(problems, final_tests),
            "long_prompts": sum(one.long_prompts for one in written),
            "generated_tokens": sum(one.generated_tokens for one in written),
        }
        return figures, workers.timings(), [one for of_prompt in tallies.values() for one in of_prompt]


async def _tally(workers: Workers, settings: Settings, test: WrittenTests) -> Tally:
    return await tally(workers.judge, test.problem, "program", test.written, settings.gate.limits)


async def _question_only(
    workers: Workers, settings: Settings, problems: Sequence[Problem], seed: int
) -> tuple[list[Tally], list[Written]]:
    async def one(problem: Problem) -> tuple[Tally, Written]:
        written = await write_cases(
            workers.engine, workers.tokenizer, problem, None, settings.write, fold_seed(seed, "question")
        )
        counts = await tally(workers.judge, problem, "question", written, settings.gate.limits)
        return counts, written

    pairs = await run_in_order(one, problems, settings.gate.concurrency)
    return [counts for counts, _ in pairs], [written for _, written in pairs]


def before_figures(tallies: Sequence[Tally], seed: int) -> dict[str, Any]:
    """Shares over all cases, with 95 % intervals over problems. validity: true / parsed, the paper's
    figure; useful: true and not degenerate / asked, what is left to judge by before the gate."""

    def share(of: Callable[[Tally], int], among: Callable[[Tally], int]) -> dict[str, Any]:
        return ratio_with_interval([of(t) for t in tallies], [among(t) for t in tallies], seed)

    return {
        "asked": sum(t.asked for t in tallies),
        "parse_rate": share(lambda t: t.parsed, lambda t: t.asked),
        "validity": share(lambda t: t.true, lambda t: t.parsed),
        "validity_not_degenerate": share(lambda t: t.true_not_degenerate, lambda t: t.parsed - t.degenerate),
        "degenerate_share": share(lambda t: t.degenerate, lambda t: t.parsed),
        "distinct_inputs": share(lambda t: t.distinct_inputs, lambda t: t.parsed),
        "useful": share(lambda t: t.true_not_degenerate, lambda t: t.asked),
    }


def policy_wrong(inputs: Mapping[str, epath.Path], most: int) -> dict[str, list[str]]:
    """Problem id -> at most `most` different programs of an evaluation that fail its final tests."""
    rollouts = read_records(inputs["wrong"] / "rollouts" / "pseudocode.parquet", Rollout)
    wrong: dict[str, dict[str, None]] = {}
    for rollout in rollouts:
        if rollout.verdict is not None and not rollout.verdict.passed:
            wrong.setdefault(rollout.problem_id, {})[rollout.program] = None
    return {problem_id: list(programs)[:most] for problem_id, programs in wrong.items()}


async def _after(
    workers: Workers,
    settings: Settings,
    tests: Sequence[WrittenTests],
    wrong: Mapping[str, Sequence[str]],
    seed: int,
) -> dict[str, Any]:
    """The same measures for three sets of tests, each on the problems for which some case passed (the own
    ones on those of them that have any)."""
    kept = [test for test in tests if test.gated.kept]
    if not kept:
        return {}
    sets = {"generated": [(test, test.gated.kept) for test in kept]}
    if own := [(test, test.problem.tests) for test in kept if test.problem.tests]:
        sets["own"] = own
    if settings.random_tests:
        sets["random"] = [(test, _random_tests(test, seed)) for test in kept]
    return {name: await _accepts(workers, settings, pairs, wrong, seed) for name, pairs in sets.items()}


def _random_tests(test: WrittenTests, seed: int) -> list[TestCase]:
    """As many as passed the gate, of the ladder's generator."""
    seed = fold_seed(seed, "random", test.problem.id)
    return ladder.generate_tests(test.problem.id, len(test.gated.kept), seed)


async def _accepts(
    workers: Workers,
    settings: Settings,
    pairs: Sequence[tuple[WrittenTests, Sequence[TestCase]]],
    wrong: Mapping[str, Sequence[str]],
    seed: int,
) -> dict[str, Any]:
    """Of problems, each with cases to judge by: the cases of one; the share of wrong programs that pass every
    case, of right ones that fail one."""

    async def failing(item: tuple[WrittenTests, Sequence[TestCase], Sequence[str]]) -> list[bool]:
        test, cases, programs = item
        rows = await killed(workers.judge, test.problem, programs, cases, settings.gate.limits)
        return [any(row) for row in rows]

    async def share(programs_of: Callable[[WrittenTests], Sequence[str]], passing: bool) -> dict[str, Any]:
        items = [(test, cases, programs_of(test)) for test, cases in pairs]
        failing_P_R = await run_in_order(failing, items, settings.gate.concurrency)
        hits = [sum(failed != passing for failed in row) for row in failing_P_R]
        return ratio_with_interval(hits, [len(row) for row in failing_P_R], seed)

    return {
        "cases_a_problem": mean_with_interval([len(cases) for _, cases in pairs], seed),
        "false_accept_mutants": await share(lambda t: t.mutants, True),
        "false_accept_policy": await share(lambda t: wrong.get(t.problem.id, ()), True),
        "false_reject": await share(lambda t: t.problem.solutions[1:], False),
    }
