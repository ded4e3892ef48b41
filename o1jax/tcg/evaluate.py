"""What a test-case generator is worth, on held-out problems: its cases before and after the gate.

Inputs: tcg, problems (check_problems, held out), and optionally wrong (an evaluate stage on the same
problems, whose failing programs are the policy's own wrong ones). Before the gate: parse rate, validity (the
paper's one figure), degenerate share, distinct inputs, for the prompt that shows the reference program and
the one that does not. After it: false accepts and false rejects, beside those of the problems' own tests and
of random inputs of the ladder. tallies.parquet has the counts by problem. Trains nothing.
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
from o1jax.records import InputError, Problem, Rollout, TestCase
from o1jax.rewards.outcome import final_tests
from o1jax.sandbox.interface import Judge, Limits, unless_lost
from o1jax.stages.manifest import StageResult
from o1jax.stages.problems import read_problems
from o1jax.stages.workers import EngineSettings, Workers, sampling_workers
from o1jax.store import read_records, write_records
from o1jax.tcg.gate import (
    GateSettings,
    WrittenTests,
    fates,
    is_degenerate,
    killed,
    true_cases,
    unfit_counts,
    write_and_gate,
)
from o1jax.tcg.writing import WriteSettings, Written, write_cases
from o1jax.train.metrics import ProgressLine


@dataclasses.dataclass(frozen=True)
class Settings:
    """What of a generator is measured on held-out problems."""

    write: WriteSettings = WriteSettings()
    gate: GateSettings = GateSettings(mutants=20)
    question_only: bool = True  # whether the prompt without a program is measured too
    random_tests: bool = False  # ladder: as many tests of its own generator as passed the gate stand beside
    max_wrong: NonNegativeInt = 8  # of the policy's wrong programs a problem
    engine: EngineSettings = EngineSettings()


@dataclasses.dataclass(frozen=True)
class Tally:
    """One problem's cases, counted before any gate."""

    problem_id: str
    prompt: str  # "program", or "question" for the prompt that shows no program
    asked: int
    parsed: int  # well-formed
    true: int
    degenerate: int
    true_not_degenerate: int
    distinct_inputs: int
    dropped: tuple[str, ...] = ()  # why other text was no case


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: problems, before {program, question}, after {generated, own (of the problems that have
    visible tests), random}, with_tests, fates, unfit (why -> problems left out), long_prompts (longer than
    the engine's context), generated_tokens."""
    problems = read_problems(inputs["problems"])
    wrong = policy_wrong(inputs, settings.max_wrong) if "wrong" in inputs else {}
    if wrong and not wrong.keys() & {problem.id for problem in problems}:
        raise InputError(
            f"{inputs['wrong']}: wrong programs of {len(wrong)} problems, of none of those in "
            f"{inputs['problems']}; give an evaluation of them"
        )
    figures, timings, tallies = asyncio.run(_evaluate(settings, inputs["tcg"], problems, wrong, seed))
    write_records(out / "tallies.parquet", Tally, tallies)
    return StageResult({"problems": len(problems), **figures}, timings)


async def _evaluate(
    settings: Settings,
    tcg: epath.Path,
    problems: Sequence[Problem],
    wrong: Mapping[str, Sequence[str]],
    seed: int,
) -> tuple[dict[str, Any], dict[str, float], list[Tally]]:
    async with sampling_workers(tcg, settings.engine) as workers:
        # By the final tests, hidden ones too: here they only say which mutants are wrong, and nothing is
        # trained on what they say.
        tests = await write_and_gate(workers, problems, final_tests, settings.write, settings.gate, seed)
        written = [(test.problem, "program", test.written) for test in tests]
        if settings.question_only:
            problem_of, seed_of = [test.problem for test in tests], fold_seed(seed, "question")
            unshown = await run_in_order(
                lambda problem: write_cases(workers, problem, None, settings.write, seed_of),
                problem_of,
                settings.gate.concurrency,
                ended=ProgressLine("write tests, no program shown", len(tests)).count,
            )
            written += [(p, "question", cases) for p, cases in zip(problem_of, unshown, strict=True)]
        tallied = await run_in_order(
            lambda one: unless_lost(tally(workers.judge, *one, settings.gate.limits), None),
            written,
            settings.gate.concurrency,
            ended=ProgressLine("judge tests", len(written)).count,
        )
        tallies = [one for one in tallied if one is not None]
        figures = {
            "before": {
                prompt: before_figures([one for one in tallies if one.prompt == prompt], seed)
                for prompt in dict.fromkeys(one.prompt for one in tallies)
            },
            "after": await _after(workers, settings, tests, wrong, seed),
            "with_tests": sum(bool(test.gated.kept) for test in tests),
            "fates": fates(tests),
            "unfit": unfit_counts(problems, final_tests),
            "long_prompts": sum(one.long_prompts for _, _, one in written),
            "generated_tokens": sum(one.generated_tokens for _, _, one in written),
        }
        return figures, workers.timings(), tallies


async def tally(judge: Judge, problem: Problem, prompt: str, written: Written, limits: Limits) -> Tally:
    """Counts of what was written, true by the first reference program."""
    true_C = await true_cases(judge, problem, problem.solutions[0], written.cases, limits)
    degenerate_C = [is_degenerate(problem, case) for case in written.cases]
    return Tally(
        problem_id=problem.id,
        prompt=prompt,
        asked=written.asked,
        parsed=len(written.cases),
        true=sum(true_C),
        degenerate=sum(degenerate_C),
        true_not_degenerate=sum(t and not d for t, d in zip(true_C, degenerate_C, strict=True)),
        distinct_inputs=len({case.input.strip() for case in written.cases}),
        dropped=written.dropped,
    )


def before_figures(tallies: Sequence[Tally], seed: int) -> dict[str, Any]:
    """Shares over all cases, with 95 % intervals over problems. validity: true / parsed, the paper's
    figure; useful: true and not degenerate / asked, what is left to judge by before the gate."""
    # Problems, not cases, are what was drawn at random: cases of one problem are true or false together.

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
    wrong: dict[str, dict[str, None]] = {}
    for rollout in read_records(inputs["wrong"] / "rollouts" / "pseudocode.parquet", Rollout):
        if rollout.verdict is not None and not (rollout.verdict.passed or rollout.verdict.lost):
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
    # All on the same problems: one without generated tests is as a rule a hard one for any tests.
    kept = [test for test in tests if test.gated.kept]
    sets: dict[str, list[tuple[WrittenTests, Sequence[TestCase]]]] = {
        "generated": [(test, test.gated.kept) for test in kept],
        "own": [(test, test.problem.tests) for test in kept if test.problem.tests],
        "random": [],
    }
    for test in kept if settings.random_tests else ():
        # As many as passed the gate, for the more tests a set has, the more it rejects.
        drawn = fold_seed(seed, "random", test.problem.id)
        sets["random"].append((test, ladder.generate_tests(test.problem.id, len(test.gated.kept), drawn)))
    return {
        name: await _accepts(workers, settings, pairs, wrong, seed) for name, pairs in sets.items() if pairs
    }


async def _accepts(
    workers: Workers,
    settings: Settings,
    pairs: Sequence[tuple[WrittenTests, Sequence[TestCase]]],
    wrong: Mapping[str, Sequence[str]],
    seed: int,
) -> dict[str, Any]:
    """Of problems, each with cases to judge by: the cases of one; the share of wrong programs that pass every
    case, of right ones that fail one."""
    judge, limits, concurrency = workers.judge, settings.gate.limits, settings.gate.concurrency

    async def share(programs_of: Callable[[WrittenTests], Sequence[str]], passing: bool) -> dict[str, Any]:
        killed_P_R_C = await run_in_order(
            lambda one: unless_lost(killed(judge, one[0].problem, programs_of(one[0]), one[1], limits), []),
            pairs,
            concurrency,
        )
        hits = [sum(any(killed_C) != passing for killed_C in killed_R_C) for killed_R_C in killed_P_R_C]
        return ratio_with_interval(hits, [len(killed_R_C) for killed_R_C in killed_P_R_C], seed)

    return {
        "cases_a_problem": mean_with_interval([len(cases) for _, cases in pairs], seed),
        "false_accept_mutants": await share(lambda t: t.mutants, True),
        "false_accept_policy": await share(lambda t: wrong.get(t.problem.id, ()), True),
        "false_reject": await share(lambda t: t.problem.solutions[1:], False),
    }
