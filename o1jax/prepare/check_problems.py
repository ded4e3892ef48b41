"""Problems from a source, their reference programs run against their tests: what later stages read.

Inputs: problems (a finished check_problems or write_tests stage) where there is no source. Writes
problems.parquet, and card.json and card.md, which say what was kept, what was left out and why. A selection
that leaves no problem is refused. Does not judge the policy.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from etils import epath
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from o1jax.parallel.seeds import fold_seed
from o1jax.prepare.choose import Filter, Nearness, as_calls, choose, with_tests
from o1jax.prepare.reference_checks import Judging, check_references
from o1jax.problems.ladder import problems as ladder
from o1jax.problems.load import LADDER, Loaded, accepted, collect, load_problems
from o1jax.records import GRADERS, InputError, Problem
from o1jax.sandbox import wire
from o1jax.sandbox.interface import Limits, job_of
from o1jax.stages.manifest import StageResult, write_json
from o1jax.stages.problems import read_problems, write_problems
from o1jax.writing import write_whole

LISTED = 50  # lines of each list in card.md; card.json has all


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which problems of a source are kept, and in what form."""

    source: str = ""  # "ladder:<split>", or what problems/load.py reads; "": the problems of the input
    # ladder: rung_<k> -> problems
    counts: Mapping[str, NonNegativeInt] = dataclasses.field(default_factory=dict)
    strict: bool = False  # refuses a malformed record, which is else left out and counted
    # ladder: at most so many tests with small inputs, for a generator to learn from
    small_tests: NonNegativeInt = 0
    drawn_tests: NonNegativeInt = 0  # ladder: so many new tests in place of its own, to audit rewards by
    calls: bool = False  # assertion problems are put in call form where that says the same
    filter: Filter = Filter()
    keep_apart: tuple[str, ...] = ()  # sources of which no kept problem may be `near` to one (evaluation's)
    near: Nearness = Nearness()
    max_problems: NonNegativeInt = 0  # the first so many that are wanted (0: all)
    max_tests: NonNegativeInt = 0  # of each kind, of a problem (0: all)
    shown_tests: NonNegativeInt = 0  # where all tests are hidden, search may see so many of them
    max_solutions: NonNegativeInt = 10  # references of a problem, of which "consistent" keeps those that pass
    # "consistent" drops problems of whose references none passes every test; "all" drops none.
    keep: Literal["consistent", "all"] = "consistent"
    # Whose rules decide a pass ("": the problem's own). One of records.GRADERS is the kept problems' own from
    # then on; the data sets' graders measure their parity here and judge nothing later.
    grader: str = ""
    judge_slots: PositiveInt = 2  # programs at once
    judge_packages: tuple[str, ...] = ()  # that they may import
    cpu_s: PositiveFloat = 2.0  # limits of one execution
    memory_mb: PositiveInt = 512
    output_mb: PositiveInt = 1


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: read (records), malformed, unwanted {reason: problems}, near_duplicates, over (max_problems),
    problems (those checked), kept, references, references_passed, inconsistent (ids). InputError where no
    problem is left."""
    loaded = load(settings, inputs, seed)
    apart = [problem for source in settings.keep_apart for problem in load_problems(source).problems]
    chosen = choose(loaded, settings.filter, apart, settings.near, settings.max_problems)
    limits = Limits(settings.cpu_s, 4 * settings.cpu_s, settings.memory_mb, settings.output_mb << 20)
    judging = Judging(
        settings.judge_slots, settings.max_solutions, settings.grader, settings.judge_packages, limits
    )
    checks, rate = asyncio.run(check_references(chosen.problems, out / "checks", judging))
    kept = list(chosen.problems)
    if settings.keep == "consistent":
        pairs = zip(chosen.problems, checks, strict=True)
        kept = [
            dataclasses.replace(problem, solutions=tuple(problem.solutions[i] for i in check.passing))
            for problem, check in pairs
            if check.is_consistent
        ]
    failing = [check for check in checks if check.references_passed < check.references]
    figures = {
        **chosen.counts(),
        "kept": len(kept),
        "references": sum(check.references for check in checks),
        "references_passed": sum(check.references_passed for check in checks),
        "inconsistent": sorted(check.id for check in checks if not check.is_consistent),
    }
    left_out = {**chosen.left_out(), "References that fail": [check.line() for check in failing]}
    write_card(out, dataclasses.asdict(settings), figures, kept, left_out)
    if not kept:
        raise InputError(
            f"check_problems.keep: saw 'consistent', but no reference of {len(checks)} problems passes its "
            f"tests ({failing[0].line()}); 'all' keeps such problems, {out / 'card.md'} lists them"
        )
    write_problems(out, kept)
    return StageResult(figures=figures, timings={"problems_a_second": rate})


def load(settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> Loaded:
    """The source's problems, before any choice and check."""
    if bool(settings.source) == ("problems" in inputs):
        raise InputError(
            f"check_problems: saw source {settings.source!r}, inputs {sorted(inputs)}; wanted one of the two"
        )
    shape = functools.partial(_shaped, settings=settings, seed=seed)
    if not settings.source:
        given = str(inputs["problems"])
        loaded = collect(given, read_problems(inputs["problems"]), lambda problem, i, where: problem, shape)
        return accepted(given, loaded, settings.strict)
    if not settings.source.startswith(LADDER):
        return load_problems(settings.source, shape, strict=settings.strict)
    counts = {name.removeprefix("rung_"): n for name, n in settings.counts.items()}
    if not all(rung.isdecimal() for rung in counts) or not any(counts.values()):
        raise InputError(
            f"check_problems.counts: saw {dict(settings.counts)}, wanted how many problems of which rungs of "
            f"{settings.source}, as {{'rung_2': 50}}"
        )
    split = settings.source.removeprefix(LADDER)
    made = ladder.make_problems(split, {int(rung): n for rung, n in counts.items()}, seed)
    return Loaded(tuple(map(shape, made)))


def _shaped(problem: Problem, settings: Settings, seed: int) -> Problem:
    """The problem with the tests that the settings ask for; InputError for what no later stage could write or
    judge."""
    if settings.calls:
        problem = as_calls(problem)
    tests = problem.tests
    if settings.small_tests:
        tests = ladder.small_tests(problem.id, settings.small_tests, seed)
    elif settings.drawn_tests:
        tests = ladder.generate_tests(problem.id, settings.drawn_tests, fold_seed(seed, problem.id))
    problem = dataclasses.replace(problem, tests=tuple(tests))
    if problem.form == "stdin" and settings.grader in GRADERS:
        problem = dataclasses.replace(problem, grader=settings.grader)
    problem = with_tests(problem, shown=settings.shown_tests, most=settings.max_tests)
    try:
        json.dumps(dataclasses.asdict(problem), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"problem {problem.id!r}: half of a surrogate pair in it, wanted text") from error
    if not (problem.tests or problem.hidden_tests or problem.solutions):
        raise InputError(f"problem {problem.id}: no tests, hidden tests or solutions: nothing could judge it")
    job = job_of(problem, "", (*problem.tests, *problem.hidden_tests), Limits())
    try:
        wire.check(dataclasses.replace(job, grader=settings.grader or problem.grader))
    except InputError as error:
        raise InputError(f"problem {problem.id}: {error}") from error
    return problem


def write_card(
    out: epath.Path,
    config: Mapping[str, Any],
    figures: Mapping[str, Any],
    kept: Sequence[Problem],
    left_out: Mapping[str, Sequence[str]],
) -> None:
    """Writes card.json and card.md. `left_out`: a title -> a line for each record."""
    contents = {
        "forms": dict(Counter(problem.form for problem in kept)),
        "difficulties": dict(Counter(problem.difficulty or "none" for problem in kept)),
        "tests": sum(len(problem.tests) for problem in kept),
        "hidden_tests": sum(len(problem.hidden_tests) for problem in kept),
    }
    card = {"config": config, "figures": figures, "kept": contents, "left_out": left_out}
    write_json(out / "card.json", card)
    counts = {
        "records read": figures["read"],
        "malformed": figures["malformed"],
        **{f"not wanted ({reason})": n for reason, n in figures["unwanted"].items()},
        "near-duplicates of evaluation problems": figures["near_duplicates"],
        "past max_problems": figures["over"],
        "references disagree with the tests": len(figures["inconsistent"]),
        "kept": figures["kept"],
    }
    sections = [
        f"# Problems of `{config['source'] or 'another stage'}`",
        _table("", "problems", counts),
        f"{contents['tests']} tests and {contents['hidden_tests']} hidden ones. Of {figures['references']} "
        f"references run, {figures['references_passed']} pass every test.",
        _table("form", "kept", contents["forms"]),
        _table("difficulty", "kept", contents["difficulties"]),
        *(_listed(title, lines) for title, lines in left_out.items() if lines),
        f"## Settings\n\n```json\n{json.dumps(config, indent=1)}\n```",
    ]
    write_whole(out / "card.md", "\n\n".join(sections) + "\n")


def _table(left: str, right: str, rows: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([f"| {left} | {right} |", "| --- | --- |", *lines])


def _listed(title: str, lines: Sequence[str]) -> str:
    more = [f"- and {len(lines) - LISTED} more, in card.json"] if len(lines) > LISTED else []
    return "\n".join([f"## {title}", "", *(f"- {line}" for line in lines[:LISTED]), *more])
