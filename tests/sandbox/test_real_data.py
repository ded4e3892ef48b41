"""Reference programs of the public data sets against their own tests (where the data is at hand).

A sample always; all of each set with marker `hostile`. Where a reference fails, the test says which side
is right.
"""

import asyncio
import dataclasses
import gzip
import json
import pathlib

import pytest

from o1jax.problems import taco
from o1jax.records import TestCase, Verdict
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Job, Limits, job_of

KEYS = ("strict_pass", "tolerant_pass")
DATA = pathlib.Path(__file__).parents[3] / "shared" / "data"
LIMITS = Limits(cpu_s=10.0, wall_s=600.0)

pytestmark = pytest.mark.skipif(not DATA.exists(), reason=f"no data sets at {DATA}")


def lines(*parts: str) -> list[dict]:
    path = DATA.joinpath(*parts)
    opened = gzip.open(path, "rt") if path.suffix == ".gz" else path.open()
    with opened as file:
        return [json.loads(line) for line in file]


def asserting(source: str, tests: list[str], setup: str = "", grader: str = "") -> Job:
    return Job(source, tuple(map(TestCase, tests)), "assertion", setup=setup, limits=LIMITS, grader=grader)


def mbpp() -> dict[str, Job]:
    rows = lines("mbpp", "mbpp.jsonl")
    return {
        str(row["task_id"]): asserting(
            row["code"], row["test_list"] + row["challenge_test_list"], row["test_setup_code"]
        )
        for row in rows
    }


def sanitized() -> dict[str, Job]:
    rows = json.loads((DATA / "mbpp" / "sanitized-mbpp.json").read_text())
    return {
        str(row["task_id"]): asserting(row["code"], row["test_list"], "\n".join(row["test_imports"]))
        for row in rows
    }


def humaneval(*file: str, grader: str = "") -> dict[str, Job]:
    return {
        row["task_id"]: asserting(
            row["prompt"] + row["canonical_solution"],
            [f"{row['test']}\ncheck({row['entry_point']})"],
            grader=grader,
        )
        for row in lines(*(file or ("humaneval", "HumanEval.jsonl.gz")))
    }


def codecontests(grader: str = "") -> dict[str, Job]:
    jobs = {}
    for row in lines("codecontests_300", "codecontests_300.jsonl.gz"):
        cases = json.loads(row["input_output"])
        tests = tuple(map(TestCase, cases["inputs"], cases["outputs"]))
        source = json.loads(row["solutions"])[0]
        jobs[row["task_id"]] = Job(source, tests, "stdin", limits=LIMITS, grader=grader, stop_at_failure=True)
    return jobs


def failures(jobs: dict[str, Job], **settings) -> dict[str, Verdict]:
    """The verdicts of the programs that do not pass, by name."""

    async def go():
        async with ForkJudge(slots=2, memo=0, **settings) as judge:
            return await asyncio.gather(*map(judge.judge, jobs.values()))

    verdicts = asyncio.run(go())
    return {name: verdict for name, verdict in zip(jobs, verdicts, strict=True) if not verdict.passed}


def every(jobs: dict[str, Job], step: int, *also: str) -> dict[str, Job]:
    return {name: job for i, (name, job) in enumerate(jobs.items()) if i % step == 0 or name in also}


def test_a_sample_of_every_set_passes(runner, judge):
    jobs = every(mbpp(), 40, "367", "596", "927") | every(humaneval(), 20, "HumanEval/32", "HumanEval/38")

    async def go():
        return await asyncio.gather(*map(judge.judge, jobs.values()))

    verdicts = dict(zip(jobs, runner.run(go()), strict=True))
    assert {name: verdict for name, verdict in verdicts.items() if not verdict.passed} == {}


@pytest.mark.hostile
def test_all_974_references_of_mbpp_pass():
    jobs = mbpp()
    assert len(jobs) == 974 and failures(jobs) == {}


@pytest.mark.hostile
def test_all_427_references_of_sanitized_mbpp_pass():
    jobs = sanitized()
    assert len(jobs) == 427 and failures(jobs) == {}


@pytest.mark.hostile
@pytest.mark.parametrize("grader", ["", "humaneval"])
def test_all_164_references_of_humaneval_pass(grader):
    jobs = humaneval(grader=grader)
    assert len(jobs) == 164 and failures(jobs) == {}


@pytest.mark.parametrize(("grader", "passes"), [("", False), ("codecontests", True), ("apps", True)])
def test_a_data_sets_grader_passes_an_integer_that_is_off_by_one(grader, passes):
    job = Job("print(1000001)", (TestCase("", "1000000"),), "stdin", limits=LIMITS, grader=grader)
    assert (failures({"near": job}) == {}) is passes


@pytest.mark.hostile
def test_163_of_164_references_of_evalplus_pass():
    """HumanEval/32: its test unpacks the number that find_zero returns (`*candidate(...)`), which no
    right answer can be: the reference is right, the test is wrong."""
    roomy = Limits(cpu_s=30.0, wall_s=600.0, memory_mb=4096, output_bytes=256 << 20)  # lists of millions
    jobs = humaneval("evalplus", "HumanEvalPlus-OriginFmt.jsonl.gz")
    jobs = {name: dataclasses.replace(job, limits=roomy) for name, job in jobs.items()}
    failed = failures(jobs, packages=("numpy",))  # the tests import it
    assert len(jobs) == 164 and failed.keys() == {"HumanEval/32"}
    assert "must be an iterable, not float" in failed["HumanEval/32"].cases[0].detail


@pytest.mark.hostile
def test_80_of_86_references_of_the_taco_sample_pass():
    """Problem 8's stored outputs belong to other inputs: the programs are right, for all five agree. The
    second program of problem 3 imports numpy, and returns its int64: the judge is right, no int."""
    records = json.loads((DATA / "taco_sample" / "train_easy_10.json").read_text())
    problems = [taco.problem_of(record, i, "the sample") for i, record in enumerate(records)]
    jobs = {
        f"{i}/{j}": dataclasses.replace(job_of(p, source, p.tests, LIMITS), stop_at_failure=True)
        for i, p in enumerate(problems)
        for j, source in enumerate(p.solutions[:10])
    }
    failed = failures(jobs)
    assert len(jobs) == 86 and failed.keys() == {"3/1", *(f"8/{j}" for j in range(5))}
    with_numpy = failures({"3/1": jobs["3/1"]}, packages=("numpy",))
    assert with_numpy["3/1"].cases[0].detail == "value of type 'int64'"
    assert len({failed[f"8/{j}"].cases[0].detail for j in range(5)}) == 1


@pytest.mark.hostile
def test_codecontests_has_234_problems_whose_reference_is_exact():
    """The same problems as were counted without this sandbox. The other references disagree with the tests
    by special judges (several right answers: both are right), or are wrong, or are slow."""
    rows = lines("codecontests_300", "codecontests_300.jsonl.gz")
    counted = {row["task_id"] for row in rows if int(row["strict_pass"]) == int(row["n_tests"])}
    passed = codecontests("exact").keys() - failures(codecontests("exact")).keys()
    assert len(rows) == 300 and len(counted) == 234 and passed == counted


@pytest.mark.hostile
def test_codecontests_tolerance_is_for_what_is_written_as_a_float():
    """25 more references pass with the data's own tolerance. Ours passes the 21 that are off in a float's
    last digits; the other four print another case, or a float for an integer: the tests are right to ask."""
    rows = lines("codecontests_300", "codecontests_300.jsonl.gz")
    passes = {key: {r["task_id"] for r in rows if int(r[key]) == int(r["n_tests"])} for key in KEYS}
    only_tolerant = passes["tolerant_pass"] - passes["strict_pass"]
    ours, theirs = (
        failures({name: job for name, job in codecontests(grader).items() if name in only_tolerant})
        for grader in ("", "codecontests")
    )
    assert len(only_tolerant) == 25 and theirs == {}
    assert {name.split("_")[0] + name.split("_")[1] for name in ours} == {"1516b", "262d", "108d", "791b"}
