"""Programs of TACO and APPS are judged as the sets' own checkers judge them."""

import asyncio

import pytest

from o1jax.problems.formats import taco
from o1jax.records import InputError, Problem, Status, TestCase
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Job, Limits, job_of

LIMITS = Limits(cpu_s=2.0, wall_s=60.0)
NAMES = """collections fractions heapq itertools math random sys time List Tuple Counter OrderedDict deque
defaultdict ChainMap lru_cache accumulate product permutations combinations sqrt sin cos tan ceil fabs floor
gcd exp log log2 heappush heappop heapify nlargest nsmallest merge""".split()


def verdict_of(runner, judge, source, problem):
    return runner.run(judge.judge(job_of(problem, source, problem.tests, LIMITS)))


def called(*tests, entry_point="f", grader=""):
    tests = tuple(TestCase(*test) for test in tests)
    return Problem("taco", "q", "call", tests, entry_point=entry_point, prelude=taco.PRELUDE, grader=grader)


def test_a_program_may_count_on_the_checkers_imports_in_both_forms(runner, judge):
    uses = f"[{', '.join(NAMES)}]"
    assert verdict_of(runner, judge, f"def f(): return len({uses})", called(("[]", f"{len(NAMES)}"))).passed
    printed = Problem("p", "q", "stdin", (TestCase("7\n", "7 1\n"),), prelude=taco.STDIN_PRELUDE)
    source = f"{uses}\nstdout.write(stdin.readline().strip() + ' ' + str(gcd(2, 3)))"
    assert verdict_of(runner, judge, source, printed).passed


def test_annotations_of_a_class_solution_may_count_on_them(runner, judge):
    source = "class Solution:\n    def f(self, x: List[int]) -> Tuple[int]: return tuple(accumulate(x))"
    assert verdict_of(runner, judge, source, called(("[[1, 2]]", "[1, 3]"))).passed


def test_a_programs_own_names_win(runner, judge):
    source = "def gcd(a, b): return -1\ndef f(x): return gcd(x, x)"
    assert verdict_of(runner, judge, source, called(("[4]", "-1"))).passed


@pytest.mark.parametrize(
    "source, passes",
    [
        ("def gcd(a, b): return 3", True),
        ("from math import gcd", True),
        ("from math import *", True),
        ("class Solution:\n    def gcd(self, a, b): return gcd(a, b)", True),
        ("def another(a, b): return 3", False),
    ],
)
def test_an_entry_point_in_the_name_of_an_import_is_the_programs_own(runner, judge, source, passes):
    verdict = verdict_of(runner, judge, source, called(("[6, 9]", "3"), entry_point="gcd"))
    assert verdict.passed is passes
    assert passes or verdict.cases[0].status is Status.NORESULT


def test_lines_and_syntax_errors_are_the_programs_own(runner, judge):
    broken = verdict_of(runner, judge, "x = 1\ndef f(:", called(("[]", "1")))
    assert not broken.compiled and "line 2" in broken.cases[0].detail
    late = "from __future__ import annotations\ndef f(x: Nothing): return x"
    assert verdict_of(runner, judge, late, called(("[1]", "1"))).passed


def test_other_problems_have_no_such_imports(runner, judge, call_cases, stdin_case):
    assert verdict_of(runner, judge, "def f(): return gcd(2, 4)", called(("[]", "2"))).passed
    assert "NameError" in call_cases("def f(): return gcd(2, 4)", ("[]", "2"))[0].detail
    assert "NameError" in stdin_case("print(gcd(2, 4))", "", "2").detail


def test_numpy_is_there_where_the_judge_has_it():
    async def go(*packages):
        async with ForkJudge(slots=1, packages=packages) as judge:
            problem = called(("[]", "[3, 3]"))
            source = "def f(): return np.full(2, 3).tolist()"
            return await judge.judge(job_of(problem, source, problem.tests, LIMITS))

    assert asyncio.run(go("numpy")).passed
    assert "NameError: name 'np'" in asyncio.run(go()).cases[0].detail


@pytest.mark.parametrize(
    "grader, stated, returned, passes",
    [
        ("value_or_list", "2", "2", True),
        ("value_or_list", "2", "[2]", True),
        ("value_or_list", "2", "(2,)", True),
        ("value_or_list", "2", "[[2]]", False),
        ("value_or_list", "[2]", "2", False),
        ("value_or_item", "[[4]]", "[4]", True),
        ("value_or_item", "[[4]]", "[[4]]", True),
        ("value_or_item", "[[4]]", "4", False),
        ("value_or_item", "[2, 4]", "[2, 4]", True),
        ("value_or_item", "[2, 4]", "2", False),  # or the least item would pass for the sorted list
        ("value_or_item", "2", "[2]", False),
        ("value_or_item", "1", "True", True),
        ("value_or_item", "True", "1", True),
        ("value_or_list", "False", "[0]", True),
        ("value_or_item", "[True, 0]", "(1, False)", True),
        ("value_or_item", "'1'", "1", False),
        ("", "1", "True", False),
        ("", "[2]", "2", False),
    ],
)
def test_a_stated_value_may_be_in_a_list_of_one(runner, judge, grader, stated, returned, passes):
    problem = called(("[]", stated), grader=grader)
    assert verdict_of(runner, judge, f"def f(): return {returned}", problem).passed is passes


def test_a_prelude_that_is_no_python_is_the_problems_fault(runner, judge):
    job = Job("print(1)", (TestCase("", "1"),), "stdin", prelude="import (")
    with pytest.raises(InputError, match="a prelude is not Python"):
        runner.run(judge.judge(job))
