"""Preparing problems: what is left out is counted and named, checks outlive a kill, nothing else changes."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from etils import epath

from o1jax.records import InputError, Problem, TestCase
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import SandboxError
from o1jax.stages import run
from o1jax.stages.manifest import StageSpec
from o1jax.stages.problems import read_problems

ROOT = pathlib.Path(__file__).parents[2]
QUESTIONS = (
    "Read a number and print twice the number, on a line of its own.",
    "Sort the words of the only line by their length and print the longest.",
    "Count the letters of the text that are vowels, in either case.",
    "Print the day of the week on which the given date falls.",
)


def twice(i, **changes):
    fields = {
        "id": f"p{i}",
        "question": QUESTIONS[i % len(QUESTIONS)],
        "form": "stdin",
        "tests": (TestCase("3\n", "6\n"), TestCase("4\n", "8\n")),
        "solutions": ("print(2 * int(input()))",),
        "difficulty": "EASY",
    }
    return Problem(**{**fields, **changes})


def saved(path, *problems, extra=""):
    path.write_text("".join(json.dumps(dataclasses.asdict(problem)) + "\n" for problem in problems) + extra)
    return str(path)


def prepared(tmp_path, source, **settings):
    spec = StageSpec("check_problems", {"source": source, **settings}, 0, {})
    return run.run(epath.Path(tmp_path / "out"), spec)["figures"]


def test_every_record_is_kept_or_counted_by_why_it_is_not(tmp_path):
    problems = [
        twice(0),
        twice(1, difficulty="HARD"),
        twice(2, solutions=("print(7)",)),
        twice(3, question=QUESTIONS[3].upper()),
        twice(4, question="Is it prime?"),
        twice(5, question="Turn the matrix by a quarter."),
    ]
    source = saved(tmp_path / "train.jsonl", *problems, extra='{"id": "bad", "question": "?", "form": "x"}\n')
    apart = saved(tmp_path / "test.jsonl", twice(3))
    figures = prepared(
        tmp_path,
        source,
        filter={"difficulties": ("EASY",)},
        keep_apart=(apart,),
        max_problems=3,
        max_tests=1,
    )
    assert figures == {
        "read": 7,
        "malformed": 1,
        "unwanted": {"difficulty": 1},
        "near_duplicates": 1,
        "over": 1,
        "problems": 3,
        "kept": 2,
        "references": 3,
        "references_passed": 2,
        "inconsistent": ["p2"],
    }
    kept = read_problems(epath.Path(tmp_path / "out"))
    assert [p.id for p in kept] == ["p0", "p4"] and all(len(p.tests) == 1 for p in kept)


def test_the_card_says_what_was_left_out_and_why(tmp_path):
    source = saved(tmp_path / "a.jsonl", twice(0), twice(2, solutions=("print(7)",)), extra='{"id": "bad"}\n')
    prepared(tmp_path, source)
    page = (tmp_path / "out" / "card.md").read_text()
    for line in (
        "| records read | 3 |",
        "| malformed | 1 |",
        "| kept | 1 |",
        "record 2 field 'question': missing or empty",
        "- p2: 0 of 1 pass; reference 0, test 0: WA",
    ):
        assert line in page, page
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["figures"]["kept"] == 1 and card["kept"] == {
        "difficulties": {"EASY": 1}, "forms": {"stdin": 1}, "hidden_tests": 0, "tests": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    "change, words",
    [
        ({"question": "Print \ud800."}, "problem 'p0': half of a surrogate pair"),
        ({"tests": (), "solutions": ()}, "problem p0: no tests, hidden tests or solutions"),
        (
            {"form": "call", "entry_point": "f", "tests": (TestCase("[x]", "1"),)},
            "p0: a test is not a Python lit",
        ),
        (
            {"form": "call", "entry_point": "f", "tests": (TestCase("1", "1"),)},
            "p0: a call-form input must be",
        ),
        ({"form": "assertion", "tests": (TestCase("assert f(", ""),)}, "problem p0: "),
        ({"time_limit_s": 0.001}, "p0: limit cpu_s: saw 0.001, which no program keeps"),
        ({"memory_limit_mb": 1}, "p0: limit memory_mb: saw 1, which no program keeps"),
    ],
)
def test_what_no_later_stage_could_write_or_judge_is_left_out_by_name(tmp_path, change, words):
    source = saved(tmp_path / "problems.jsonl", twice(0, **change), twice(1))
    figures = prepared(tmp_path, source)
    assert (figures["malformed"], figures["kept"]) == (1, 1)
    assert words in (tmp_path / "out" / "card.md").read_text()


def test_a_grader_of_ours_judges_what_was_kept_by_it_later_too(tmp_path):
    loud = twice(0, tests=(TestCase("3\n", "SIX\n"),), solutions=("print('six')",))
    source = saved(tmp_path / "problems.jsonl", loud)
    assert prepared(tmp_path, source, grader="fold_case")["kept"] == 1
    assert read_problems(epath.Path(tmp_path / "out"))[0].grader == "fold_case"


def test_a_malformed_record_is_refused_if_strict(tmp_path):
    source = saved(tmp_path / "a.jsonl", twice(0), extra='{"id": "bad"}\n')
    with pytest.raises(InputError, match="record 1 field 'question'.*1 malformed"):
        prepared(tmp_path, source, strict=True)


RIGHT, ALSO_RIGHT = "print(2 * int(input()))", "n = int(input())\nprint(n + n)"


@pytest.mark.parametrize(
    "keep,solutions",
    [("consistent", (RIGHT, ALSO_RIGHT)), ("all", ("print(7)", RIGHT, "print 3", ALSO_RIGHT))],
)
def test_one_right_reference_keeps_a_problem_and_wrong_ones_do_not_stay_with_it(tmp_path, keep, solutions):
    mixed = twice(0, solutions=("print(7)", RIGHT, "print 3", ALSO_RIGHT))
    without = twice(1, solutions=())
    figures = prepared(tmp_path, saved(tmp_path / "a.jsonl", mixed, without), keep=keep)
    assert (figures["kept"], figures["references"], figures["references_passed"]) == (2, 4, 2)
    kept = read_problems(epath.Path(tmp_path / "out"))
    assert [problem.solutions for problem in kept] == [solutions, ()]


def test_references_that_were_not_run_are_not_kept(tmp_path):
    source = saved(tmp_path / "a.jsonl", twice(0, solutions=(RIGHT, "print(7)")))
    assert prepared(tmp_path, source, max_solutions=1)["references"] == 1
    assert read_problems(epath.Path(tmp_path / "out"))[0].solutions == (RIGHT,)


def test_calls_and_shown_tests_are_what_later_stages_read(tmp_path):
    hidden = (TestCase("assert f(1) == 2"), TestCase("assert f(2) == 4"))
    asked = Problem("a", "?", "assertion", hidden_tests=hidden, entry_point="f", json_values=False)
    asked = dataclasses.replace(asked, solutions=("def f(x):\n    return 2 * x",))
    prepared(tmp_path, saved(tmp_path / "a.jsonl", asked), calls=True, shown_tests=1)
    (kept,) = read_problems(epath.Path(tmp_path / "out"))
    assert kept.form == "call" and kept.tests == (TestCase("[1]", "2"),) and len(kept.hidden_tests) == 2


def test_a_prepared_directory_is_a_source(tmp_path):
    prepared(tmp_path, saved(tmp_path / "a.jsonl", twice(0), twice(1)))
    spec = StageSpec("check_problems", {"source": str(tmp_path / "out"), "max_problems": 1}, 0, {})
    figures = run.run(epath.Path(tmp_path / "again"), spec)["figures"]
    assert figures["read"] == 2 and figures["over"] == 1


def test_a_file_with_other_contents_is_another_preparation(tmp_path):
    source = saved(tmp_path / "problems.jsonl", twice(0))
    assert prepared(tmp_path, source) == prepared(tmp_path, source)
    saved(tmp_path / "problems.jsonl", twice(0), twice(1))
    with pytest.raises(InputError, match=r"inputs.source_0 was '\w{16}', now '\w{16}'"):
        prepared(tmp_path, source)
    apart = tmp_path / "apart.jsonl"
    config = {
        "source": f"mbpp:{source}:test",
        "keep_apart": (saved(apart, twice(2)), "mbpp:test", "ladder:pool"),
    }
    assert run.with_files(StageSpec("check_problems", config, 0, {})).files == {
        "source_0": source,
        "source_1": str(apart),
    }


def test_checks_that_are_written_are_not_run_again(tmp_path, monkeypatch):
    source = saved(tmp_path / "a.jsonl", *(twice(i) for i in range(9)))
    judge, asked = ForkJudge.judge, []

    async def breaks(self, job):
        asked.append(job)
        if len(asked) == 6:
            raise SandboxError("the machine is gone")
        return await judge(self, job)

    monkeypatch.setattr(ForkJudge, "judge", breaks)
    with pytest.raises(SandboxError):
        prepared(tmp_path, source, judge_slots=1)
    assert not (tmp_path / "out" / "manifest.json").exists()
    figures = prepared(tmp_path, source, judge_slots=1)
    assert figures["kept"] == 9 and len(asked) <= 6 + 6


@pytest.mark.hostile
def test_a_killed_preparation_goes_on(tmp_path):
    slow = ["import time\ntime.sleep(2)\nprint(2 * int(input()))"]
    problems = [twice(i, solutions=tuple(slow), tests=(TestCase(f"{i}\n", f"{2 * i}\n"),)) for i in range(30)]
    source = saved(tmp_path / "a.jsonl", *problems)
    command = [sys.executable, "launch/prepare.py", f"--config.check_problems.source={source}"]
    command += [f"--workdir={tmp_path / 'out'}", "--config.check_problems.cpu_s=20"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    while not list((tmp_path / "out" / "checks").glob("*.parquet")):
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    second = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    figures = json.loads((tmp_path / "out" / "manifest.json").read_text())["figures"]
    assert figures["kept"] == figures["problems"] == 30
    assert "check 1/30" not in second.stderr


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"filter": {"ids": ("p9",)}}, r"ids: saw 'p9', which none of 4 problems has.*there are 'p0', 'p1'"),
        ({"filter": {"ids": ("p0", "p9")}}, r"filter\.ids: saw 'p9'"),
        ({"filter": {"difficulties": ("HARD",)}}, r"filter: saw difficulties \('HARD',\).*difficulty 'EASY'"),
        ({"filter": {"forms": ("call",)}}, r"filter: saw forms \('call',\), which none of 4.*form 'stdin'"),
        ({"filter": {"max_characters": 9}}, r"filter: saw max_characters 9.*too long 4.*and 63 characters"),
        ({"filter": {"tags": ("dp",), "ids": ("p1",)}}, r"left out by id 3, tags 1"),
        ({"keep_apart": ("SOURCE",)}, r"keep_apart: all 4 problems are near to one of the 4 .*'p0' is 1\.00"),
        ({"max_problems": -1}, r"max_problems: saw -1, wanted at least 0"),
        ({"filter": {"forms": ("script",)}}, r"filter\.forms: saw 'script', wanted one of stdin, call"),
        ({"source": "ladder:pool"}, r"counts: saw \{\}, wanted how many"),
        ({"source": "ladder:pool", "counts": {"rung_2": 0}}, r"counts: saw \{'rung_2': 0\}"),
        ({"source": "ladder:pool", "counts": {"first": 3}}, r"counts: saw \{'first': 3\}"),
    ],
)
def test_a_selection_that_selects_nothing_names_its_setting(tmp_path, settings, words):
    source = saved(tmp_path / "a.jsonl", *(twice(i) for i in range(4)))
    if "keep_apart" in settings:
        settings = {"keep_apart": (source,)}
    with pytest.raises(InputError, match=words) as error:
        prepared(tmp_path, **{"source": source, **settings})
    assert "\n" not in str(error.value) and not (tmp_path / "out" / "manifest.json").exists()


def test_problems_none_of_whose_references_passes_are_refused_and_listed(tmp_path):
    source = saved(tmp_path / "a.jsonl", *(twice(i, solutions=("print(7)",)) for i in range(2)))
    with pytest.raises(InputError, match=r"keep: saw 'consistent', but no reference of 2 .*p0: 0 of 1 pass"):
        prepared(tmp_path, source)
    assert "- p1: 0 of 1 pass" in (tmp_path / "out" / "card.md").read_text()
    assert prepared(tmp_path / "all", source, keep="all")["kept"] == 2


def test_problems_of_a_stage_are_shaped_and_those_that_cannot_be_are_counted(tmp_path):
    prepared(tmp_path, saved(tmp_path / "a.jsonl", twice(0), twice(1)))
    inputs = {"problems": str(tmp_path / "out")}
    spec = StageSpec("check_problems", {"filter": {"ids": ("p1",)}, "max_tests": 1}, 0, inputs)
    assert run.run(epath.Path(tmp_path / "again"), spec)["figures"]["unwanted"] == {"id": 1}
    assert [len(p.tests) for p in read_problems(epath.Path(tmp_path / "again"))] == [1]
    spec = StageSpec("check_problems", {"drawn_tests": 3}, 0, inputs)
    with pytest.raises(InputError, match="'p0' is not a ladder id"):
        run.run(epath.Path(tmp_path / "drawn"), spec)
