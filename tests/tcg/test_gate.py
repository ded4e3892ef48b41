"""The gate of generated cases, through a real judge, on honest and hostile cases."""

import asyncio

import pytest

from o1jax.problems.ladder.problems import make_problems
from o1jax.records import CaseResult, InputError, Problem, Status, TestCase, Verdict
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Limits, SandboxError, unless_lost
from o1jax.tcg.gate import Gated, distinct, gate, is_degenerate, killed, true_cases, wrong_mutants
from o1jax.tcg.mutants import mutants

LIMITS = Limits(cpu_s=0.3, wall_s=3.0, memory_mb=256)
STDIN, CALL = Problem("stdin", "q", "stdin"), Problem("call", "q", "call", entry_point="f")
DOUBLE, DOUBLE_F = "print(int(input()) * 2)", "def f(x): return x * 2"
SQUARE, SQUARE_F = "print(int(input()) ** 2)", "def f(x): return x ** 2"
LOOP, LOOP_F = "while True: pass", "def f(x):\n    while x > 5: pass\n    return x * 2"
ALWAYS_F = "def f(x):\n    while True: pass"
HUGE = "1" + "0" * 9_999


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def judge(runner):
    judge = ForkJudge(slots=2)
    runner.run(judge.__aenter__())
    yield judge
    runner.run(judge.close())


def cases(*pairs):
    return [TestCase(*pair) for pair in pairs]


def test_truth_is_the_references_verdict(runner, judge):
    made = cases(("1\n", "2\n"), ("1", "2"), ("2\n", "5\n"), ("x\n", "2\n"), ("", ""))
    assert runner.run(true_cases(judge, STDIN, DOUBLE, made, LIMITS)) == [True, True, False, False, False]
    says_and_stops = "import sys\nprint(input())\nsys.exit(0)"
    assert runner.run(true_cases(judge, STDIN, says_and_stops, cases(("a", "a")), LIMITS)) == [True]


def test_malformed_and_hostile_cases_are_false_and_harm_no_other(runner, judge):
    made = cases(
        ("[1]", "2"),
        ("[1]", "__import__('os')"),
        ("[__import__('os').system('true')]", "0"),
        ("7", "14"),
        ("[1", "2"),
        ("[1]", ""),
        ("[1]", "(" * 300),
        ("['\\ud800']", "'\\ud800\\ud800'"),
        ("[5]", HUGE),
        ("['a', 3]", "'aa'"),
        ("[3]", "6"),
    )
    found = runner.run(true_cases(judge, CALL, DOUBLE_F, made, LIMITS))
    assert [i for i, true in enumerate(found) if true] == [0, 7, 10]
    assert runner.run(true_cases(judge, CALL, "def f(): return 10 ** 9_999", cases(("[]", HUGE)), LIMITS))[0]


def test_a_case_on_which_the_reference_never_ends_leaves_the_next_one_true(runner, judge):
    made = cases(("[1]", "2"), ("[9]", "18"), ("[2]", "4"))
    assert runner.run(true_cases(judge, CALL, LOOP_F, made, LIMITS)) == [True, False, True]
    assert runner.run(killed(judge, CALL, [LOOP_F], made, LIMITS)) == [[False, True, False]]


@pytest.mark.parametrize(
    ("problem", "programs", "made"),
    [
        (STDIN, [DOUBLE, SQUARE, LOOP, "print("], cases(("0", "0"), ("2", "4"), ("3", "6"))),
        (CALL, [DOUBLE_F, SQUARE_F, ALWAYS_F, "("], cases(("[0]", "0"), ("[2]", "4"), ("[3]", "6"))),
    ],
)  # fmt: skip
def test_a_program_is_killed_by_wrong_answers_by_time_and_by_syntax(runner, judge, problem, programs, made):
    matrix = runner.run(killed(judge, problem, programs, made, LIMITS))
    assert matrix == [[False] * 3, [False, False, True], [True] * 3, [True] * 3]
    wrong = runner.run(wrong_mutants(judge, problem, programs, made, LIMITS))
    assert wrong == programs[1:]
    assert runner.run(wrong_mutants(judge, problem, programs, made[:2], LIMITS)) == programs[2:]
    assert runner.run(killed(judge, problem, programs[:2], [], LIMITS)) == [[], []]


def test_malformed_cases_kill_nobody(runner, judge):
    with pytest.raises(InputError):
        runner.run(killed(judge, CALL, [DOUBLE_F], cases(("[1]", "os")), LIMITS))
    with pytest.raises(ValueError, match="no tests"):
        runner.run(wrong_mutants(judge, CALL, [DOUBLE_F], [], LIMITS))


def test_the_gate_keeps_true_cases_once(runner, judge):
    made = cases(("3", "5"), ("3", "6"), ("3\n", "6\n"), ("2", "4"), ("y", "1"))
    gated = runner.run(gate(judge, STDIN, DOUBLE, [DOUBLE, SQUARE], made, LIMITS))
    assert gated.fates == ("false", "kept", "duplicate", "kept", "false")
    assert gated.kept == (made[1], made[3])


def test_the_gate_skips_a_problem_whose_cases_kill_no_mutant(runner, judge):
    made = cases(("[0]", "0"), ("[ 0 ]", "0"), ("[2]", "4"), ("[1]", "x"))
    expected = Gated((), ("kills nothing", "duplicate", "kills nothing", "false"))
    assert runner.run(gate(judge, CALL, DOUBLE_F, [SQUARE_F], made, LIMITS)) == expected
    assert runner.run(gate(judge, CALL, DOUBLE_F, [], made, LIMITS)) == expected
    assert runner.run(gate(judge, CALL, DOUBLE_F, [SQUARE_F], [], LIMITS)) == Gated((), ())


def test_the_same_case_twice_is_one_case(runner, judge):
    case = TestCase("3", "6")
    assert distinct([case, case, TestCase("3\n", "7")]) == [case]
    assert distinct(cases(("[1,2]", ""), ("[1, 2]", "")), "call") == [TestCase("[1,2]", "")]
    assert len(distinct(cases(("[1,2]", ""), ("[1, 2]", "")))) == 2
    assert runner.run(gate(judge, STDIN, DOUBLE, [SQUARE], [case, case], LIMITS)).fates == (
        "kept",
        "duplicate",
    )


def test_degenerate_outputs_are_seen():
    for output in ("", " \n", "0\n", "[]", "None", "''", '""', "()"):
        assert is_degenerate(STDIN, TestCase("1", output)) and is_degenerate(CALL, TestCase("[1]", output))
    for output in ("10", "[0]", "'0'", "False", "-1"):
        assert not is_degenerate(CALL, TestCase("[1]", output))
    assert not is_degenerate(Problem("a", "q", "assertion"), TestCase("assert f(1) == 0"))


def test_infrastructure_failure_is_never_a_result(runner):
    async def ask(work, *arguments):
        judge = ForkJudge(slots=1)
        await judge.close()
        return await work(judge, CALL, *arguments, LIMITS)

    made = cases(("[1]", "2"))
    for work, arguments in (
        (true_cases, (DOUBLE_F, made)),
        (killed, ([DOUBLE_F], made)),
        (gate, (DOUBLE_F, [SQUARE_F], made)),
        (wrong_mutants, ([SQUARE_F], made)),
    ):
        with pytest.raises(SandboxError):
            runner.run(ask(work, *arguments))


def test_hidden_tests_of_the_ladder_kill_most_mutants(runner, judge):
    """Measured: 152 of 160; of the 8 that live, 5 do what the reference does and 3 differ on one value."""
    made = wrong = 0
    for problem in make_problems("held_out", {2: 10, 3: 10}, seed=0):
        found = mutants(problem.solutions[1], 8, seed=0)
        told = runner.run(wrong_mutants(judge, problem, found, problem.hidden_tests, LIMITS))
        made, wrong = made + len(found), wrong + len(told)
    assert made >= 120 and wrong >= 0.85 * made


def test_a_lost_program_is_no_result_either():
    class LosingJudge:
        async def judge(self, job):
            return Verdict(False, (CaseResult(Status.SANDBOX_ERROR, "gone"),) * len(job.tests))

    made = cases(("[1]", "2"))
    for work in (
        true_cases(LosingJudge(), CALL, DOUBLE_F, made, LIMITS),
        killed(LosingJudge(), CALL, [DOUBLE_F], made, LIMITS),
        wrong_mutants(LosingJudge(), CALL, [SQUARE_F], made, LIMITS),
    ):
        assert asyncio.run(unless_lost(work, "lost")) == "lost"
