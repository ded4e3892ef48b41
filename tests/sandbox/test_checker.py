"""Assertions that cannot be rewritten: judged by a checker for which the candidate is a stub."""

import pytest

from o1jax.records import InputError, Status, TestCase
from o1jax.sandbox.interface import Job
from o1jax.sandbox.setups import free_names

RIGHT = "def f(x): return x * 2"
CHECK = (
    "def check(candidate):\n    assert abs(candidate(2) - 4) < 1e-6\n    assert candidate(3) != {}\ncheck(f)"
)

WRITING_EVERYWHERE = """
import os
def f(x):
    for number in range(64):
        try:
            os.write(number, b'{"v": [true]}' + bytes([10]))
        except OSError:
            pass
    return 9
"""


def statuses(cases):
    return [case.status for case in cases]


def test_a_check_function_is_judged(assertion_cases):
    assert statuses(assertion_cases(RIGHT, CHECK.format(7))) == [Status.AC]
    assert statuses(assertion_cases(RIGHT, CHECK.format(6))) == [Status.WA]
    assert assertion_cases("def f(x): return 1 // 0", CHECK.format(7))[0].detail.startswith(
        "ZeroDivisionError"
    )


def test_rewritten_tests_beside_it_keep_their_rules(assertion_cases):
    tests = ["assert f(2) == 4", "y = f(2)\nassert y == 4", "assert f(2) == 5", "y = f(2)\nassert y == 5"]
    assert statuses(assertion_cases(RIGHT, *tests)) == [Status.AC, Status.AC, Status.WA, Status.WA]


@pytest.mark.parametrize(
    "source",
    [
        "class Z(int):\n  __eq__ = __ne__ = lambda s, o: True\ndef f(x): return Z()",
        "class Z:\n  def __sub__(s, o): return 0\ndef f(x): return Z()",
        "import builtins\nbuiltins.abs = lambda x: 0\ndef f(x): return 1",
        "import sys\ndef f(x): sys.exit(0)",
        "import os\ndef f(x): os._exit(0)",
        "import os\nos._exit(0)",
        'import os\ndef f(x):\n  os.write(3, b\'{"v": 4}\\n{"v": [true]}\\n\')\n  os._exit(0)',
        WRITING_EVERYWHERE,
        'import os\ndef f(x): os.write(3, b\'{"v": {"s": [[1]]}}\\n\')',
        "import os\ndef f(x): os.write(3, b'[' * 99999 + b'\\n')",
        "import os\ndef f(x):\n  os.closerange(0, 99)\n  return 4",
        "def f(x): raise AssertionError",
        "class Solution:\n  def g(self, x): return 4",
    ],
)
def test_a_hostile_candidate_does_not_pass(assertion_cases, source):
    cases = assertion_cases(source, CHECK.format(7), CHECK.format(7))
    assert not any(case.passed for case in cases)


def test_what_is_expected_is_not_in_the_candidates_process(assertion_cases):
    source = """
import gc
def f(x):
    texts = [o for o in gc.get_objects() if type(o) is str]
    for o in gc.get_objects():
        texts += [v for v in o.values() if type(v) is str] if type(o) is dict else []
    return next((text for text in texts if "detcepxe-terces" in text[::-1]), "nothing")
"""
    assert statuses(assertion_cases(source, "y = f(1)\nassert 'secret-expected' in y")) == [Status.WA]


def test_a_crash_costs_its_own_test_only(assertion_cases):
    source = "import os\ndef f(x):\n  if x == 1: os._exit(0)\n  return x"
    tests = [f"y = f({n})\nassert y == {n}" for n in range(3)]
    assert statuses(assertion_cases(source, *tests)) == [Status.AC, Status.NORESULT, Status.AC]


def test_a_loop_is_a_time_verdict_of_both_together(assertion_cases):
    case = assertion_cases("def f(x):\n  while True: pass", "y = f(1)")[0]
    assert (case.status, case.detail) == (Status.TLE, "CPU time")
    assert assertion_cases("def f(x): return x", "y = f(1)\nwhile y: pass")[0].status is Status.TLE


def test_setup_that_needs_the_candidate_stays_with_it(assertion_cases):
    program = "class Node:\n  def __init__(s, v): s.v = v\ndef f(n, k=1): return n.v * k"
    test = "y = f(root)\nassert y == 3 and f(root, k=2) == 6"
    assert statuses(assertion_cases(program, test, setup="root = Node(3)")) == [Status.AC]


def test_setup_that_does_not_is_the_tests_too(assertion_cases):
    test = "y = f(9)\nassert math.isclose(y, WANT)"
    setup = "import math\nWANT = 18"
    assert statuses(assertion_cases("import math\n" + RIGHT, test, setup=setup)) == [Status.AC]


def test_a_module_of_the_programs_is_the_module_itself(assertion_cases):
    lying = "class sys:\n  getsizeof = lambda value: 2\ndef f(x): return x * 2"
    for source in ("import sys\n" + RIGHT, lying):
        cases = assertion_cases(source, "assert f(1) == sys.getsizeof(1) - sys.getsizeof(1) + 2")
        assert statuses(cases) == [Status.AC]
    assert statuses(assertion_cases(lying, "assert f(1) == sys.getsizeof(1)")) == [Status.WA]


def test_every_name_of_the_program_can_be_used(assertion_cases):
    test = "assert g(f(2)) == f(g(2)) + 1"
    assert statuses(assertion_cases(RIGHT + "\ndef g(x): return x + 1", test)) == [Status.WA]
    assert statuses(assertion_cases(RIGHT, test)) == [Status.NORESULT]


def test_expected_exceptions_arrive(assertion_cases):
    test = "try:\n  f(1)\nexcept ValueError as error:\n  assert str(error) == 'no'\nelse:\n  assert False"
    assert statuses(assertion_cases("def f(x): raise ValueError('no')", test)) == [Status.AC]
    assert statuses(assertion_cases("def f(x): return x", test)) == [Status.WA]


def test_values_travel_both_ways(assertion_cases):
    values = "[None, 1.5, 10**80, (1, 'a'), {1, 2}, frozenset({3}), {(1, 2): [b'x']}, 2j, float('inf')]"
    assert statuses(assertion_cases("def f(x): return x", f"y = {values}\nassert f(y) == y")) == [Status.AC]
    assert statuses(assertion_cases("def f(x): return x", "y = f(len)")) == [Status.BADVALUE]


def test_free_names_are_those_that_somebody_else_must_bind():
    text = "import math\nK = 2\ndef check(g, n=K):\n  z = [h(i) for i in range(n)]\n  return g(z, math.pi)\n"
    assert free_names(text + "check(f)") == ("f", "h")


@pytest.mark.parametrize(("grader", "passes"), [("", False), ("mbpp", True), ("humaneval", True)])
def test_a_data_sets_own_grader_believes_the_candidate(runner, judge, grader, passes):
    source = "class Z(int):\n  def __eq__(s, o): return True\n  __hash__ = None\ndef f(x): return Z()"
    job = Job(source, (TestCase("assert f(1) == 2"),), "assertion", grader=grader)
    assert runner.run(judge.judge(job)).passed is passes


def test_graders_are_known_by_form(runner, judge):
    for form, grader in (("stdin", "mbpp"), ("assertion", "apps"), ("call", "apps"), ("stdin", "x")):
        with pytest.raises(InputError, match="grader"):
            runner.run(judge.judge(Job("", (), form, grader=grader)))
