"""Reference programs of the public data sets pass their own tests (a sample; where the data is at hand)."""

import asyncio
import gzip
import json
import pathlib

import pytest

from o1jax.records import TestCase
from o1jax.sandbox.interface import Job, Limits

DATA = pathlib.Path(__file__).parents[3] / "shared" / "data"
LIMITS = Limits(cpu_s=6.0, wall_s=60.0)


def mbpp_jobs() -> list[Job]:
    lines = (DATA / "mbpp" / "mbpp.jsonl").read_text().splitlines()
    rows = [
        row for row in map(json.loads, lines) if row["task_id"] % 16 == 0 or row["task_id"] in (367, 414, 927)
    ]
    return [
        Job(
            row["code"],
            tuple(map(TestCase, row["test_list"])),
            "assertion",
            setup=row["test_setup_code"],
            limits=LIMITS,
        )
        for row in rows
    ]


def humaneval_jobs() -> list[Job]:
    rows = [json.loads(line) for line in gzip.open(DATA / "humaneval" / "HumanEval.jsonl.gz")][::8]
    return [
        Job(
            row["prompt"] + row["canonical_solution"],
            (TestCase(f"{row['test']}\ncheck({row['entry_point']})"),),
            "assertion",
            limits=LIMITS,
        )
        for row in rows
    ]


@pytest.mark.parametrize("jobs", [mbpp_jobs, humaneval_jobs])
def test_reference_programs_pass(runner, judge, jobs):
    if not DATA.exists():
        pytest.skip(f"no data sets at {DATA}")

    async def go():
        return await asyncio.gather(*map(judge.judge, jobs()))

    verdicts = runner.run(go())
    assert [verdict for verdict in verdicts if not verdict.passed] == []
