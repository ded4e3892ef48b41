"""Terminal values and RL rewards, from a scripted judge."""

import asyncio
import math

import pytest

from o1jax.records import CaseResult, Problem, Rollout, Status, TestCase, Verdict
from o1jax.rewards.outcome import is_lost, judge_program, outcome_of, share_passed, terminal_value
from o1jax.sandbox.interface import Limits, SandboxError

HALF = Verdict(True, (CaseResult(Status.AC), CaseResult(Status.WA)))
FULL = Verdict(True, (CaseResult(Status.AC), CaseResult(Status.PE)))
BROKEN = Verdict(False, (CaseResult(Status.CE),) * 2)
PROBLEM = Problem("p", "q", "stdin", tests=(TestCase("1", "1"), TestCase("2", "2")), time_limit_s=3.0)


class ScriptedJudge:
    isolation = "scripted"

    def __init__(self, answer):
        self.answer, self.jobs = answer, []

    async def judge(self, job):
        self.jobs.append(job)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def close(self):
        pass


def ask(answer, tests=PROBLEM.tests):
    judge = ScriptedJudge(answer)
    return asyncio.run(judge_program(judge, PROBLEM, "print(1)", tests, Limits())), judge


@pytest.mark.parametrize(("verdict", "value"), [(FULL, 1.0), (HALF, 0.1 + 0.9 * 0.5), (BROKEN, 0.0)])
def test_value_is_the_weighted_sum_of_compile_and_pass(verdict, value):
    said, _ = ask(verdict)
    assert terminal_value(said, 0.1) == pytest.approx(value) and said == verdict


def test_no_program_is_worth_nothing():
    assert terminal_value(None, 0.1) == outcome_of(None) == outcome_of(None, "fraction") == 0.0


def test_what_differs_from_run_to_run_is_not_kept():
    case = CaseResult(Status.RE, "<f object at 0x7f00beef>", cpu_s=0.3, output="1")
    said, _ = ask(Verdict(True, (case,)))
    assert said == Verdict(True, (CaseResult(Status.RE, "<f object at 0x>", output="1"),))


def test_the_problems_own_time_limit_wins():
    _, judge = ask(FULL)
    assert judge.jobs[0].limits.cpu_s == 3.0 and judge.jobs[0].limits.wall_s >= 12.0


def test_infrastructure_failure_is_never_a_value():
    with pytest.raises(SandboxError):
        ask(SandboxError("gone"))


def test_no_tests_is_an_error_and_so_is_a_weight_outside_zero_to_one():
    with pytest.raises(ValueError, match="no tests"):
        ask(FULL, tests=())
    with pytest.raises(ValueError, match="compile_weight"):
        terminal_value(FULL, 1.5)


def test_rl_reward_is_all_or_nothing_unless_by_fraction():
    assert [outcome_of(v) for v in (FULL, HALF, BROKEN)] == [1.0, 0.0, 0.0]
    assert outcome_of(HALF, "fraction") == 0.5


def test_a_lost_verdict_has_no_value_and_its_problem_no_share():
    lost = Verdict(False, (CaseResult(Status.SANDBOX_ERROR, "gone"),) * 2)
    for number in (lambda: terminal_value(lost, 0.1), lambda: outcome_of(lost, "fraction")):
        with pytest.raises(ValueError, match="sandbox error"):
            number()
    answers = [
        Rollout("p#0", "p", "p", (), (), (), (), "eos", 1.0, 0, "direct", "x", verdict, reward)
        for verdict, reward in ((FULL, 1.0), (HALF, 0.0), (None, 0.0), (lost, 0.0))
    ]
    assert share_passed(answers[:2]) == 0.5 and not is_lost(answers[:3])
    assert is_lost(answers) and math.isnan(share_passed(answers))
