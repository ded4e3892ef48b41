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


CAUGHT = "def check(c):\n  try:\n    c(-1)\n  except {}:\n    return\n  assert False\ncheck(f)"
AFTER_ALL = "try:\n  f(1)\nfinally:\n  raise SystemExit(0)"
SUPPRESSED = "import contextlib\nwith contextlib.suppress(BaseException):\n  f(1)\n  assert False"
JUNK = 'import os\ndef f(x): os.write(3, b\'{"v": {"s": [[1]]}}\\n\')'
CLAIMED = """
import os
SAID = b'{"e": "RE", "d": "x", "k": [["checker", "Failed", []], [CLAIM, 3, {}]], "s": {"d": []}}'
def f(x):
    os.write(3, SAID + bytes([10]))
    os.read(os.pipe()[0], 1)
"""
FAILURES = {
    "no plain value": ("BADVALUE", "def f(x): return object()"),
    "junk": ("NORESULT", "import os\ndef f(x): os.write(3, b'junk\\n')"),
    "an answer that is no value": ("NORESULT", JUNK),
    "leaving": ("NORESULT", "import os\ndef f(x): os._exit(0)"),
    "a crash": ("RE NORESULT", "import os\ndef f(x): os.abort()"),
    "no function": ("NORESULT", "def g(x): return 1"),
    "failing at the start": ("RE", "raise ValueError"),
    "too much memory": ("MLE", "def f(x): return [0] * 10**9"),
    "too long an answer": ("OLE", "def f(x): return 'x' * (3 << 20)"),
    "an exception of the harness": ("RE", CLAIMED.replace("CLAIM", '"x"')),
    "a module that there is not": ("RE", CLAIMED.replace("CLAIM", '"contextlib.no"')),
    "a number for a module": ("RE", CLAIMED.replace("CLAIM", "3")),
    "SystemExit": ("RE", "def f(x): raise SystemExit"),
    "KeyboardInterrupt": ("RE", "def f(x): raise KeyboardInterrupt"),
    "GeneratorExit": ("RE", "def f(x): raise GeneratorExit"),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize(
    "test", [CAUGHT.format("Exception"), CAUGHT.format("BaseException"), AFTER_ALL, SUPPRESSED]
)
def test_a_failure_stays_whatever_the_test_catches(assertion_cases, name, test):
    status, source = FAILURES[name]
    assert assertion_cases(source, test, entry_point="f")[0].status in status.split()


def test_what_cannot_be_passed_is_no_type_error_of_the_candidates(assertion_cases):
    test = "try:\n  f(object())\nexcept TypeError: pass"
    assert statuses(assertion_cases("def f(x): return x", test)) == [Status.BADVALUE]


LOOPS = {
    "map": "assert all(map(f, [1, 2, 3]))",
    "map over a lambda": "assert all(map(lambda x: f(x) == 1, [1, 2, 3]))",
    "zip": "for got, want in zip(map(f, [1, 2]), [2, 4]):\n  assert got == want",
    "filter": "assert list(filter(f, [1, 2])) == []",
    "iter": "for x in iter(lambda: f(1), None): assert False",
    "an iterator": "class I:\n  def __iter__(s): return s\n  def __next__(s): return f(1)\n"
    "assert list(I()) == []",
    "a test runner": "import unittest\nclass A(unittest.TestCase):\n  def test(self): assert f(1) == 3\n"
    "r = unittest.TestResult()\nA('test').run(r)\nassert r.wasSuccessful()",
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("raised", ["StopIteration", "E", "StopAsyncIteration", "unittest.SkipTest"])
def test_an_exception_of_the_candidates_ends_no_loop_of_the_tests(assertion_cases, loop, raised):
    source = f"import unittest\nclass E(StopIteration): pass\ndef f(x): raise {raised}"
    assert not assertion_cases(source, LOOPS[loop], entry_point="f")[0].passed


RAISED = {  # (program, what a test catches, what holds then)
    "an own class": ("class E(ValueError): pass\ndef f(x): raise E('no')", "ValueError", "str(e) == 'no'"),
    "its arguments and attributes": (
        "class E(ValueError):\n  def __init__(s, n): super().__init__('bad', n); s.n = n\n"
        "def f(x): raise E(3)",
        "ValueError",
        "e.args == ('bad', 3) and e.n == 3",
    ),
    "no base but Exception": (
        "class E(Exception): pass\ndef f(x): raise E(1)",
        "Exception",
        "e.args == (1,)",
    ),
    "a KeyError": ("def f(x): return {}['k']", "KeyError", "e.args == ('k',)"),
    "JSON": ("import json\ndef f(x): json.loads('{')", "json.JSONDecodeError", "(e.pos, e.doc) == (1, '{')"),
    "JSON's base": ("import json\ndef f(x): json.loads('x')", "ValueError", "True"),
    "UTF-8": ("def f(x): b'\\xff'.decode()", "UnicodeDecodeError", "(e.start, e.object) == (0, b'\\xff')"),
    "decimal": ("import decimal\ndef f(x): decimal.Decimal('x')", "decimal.InvalidOperation", "True"),
    "zoneinfo": (
        "import zoneinfo\ndef f(x): zoneinfo.ZoneInfo('N')",
        "zoneinfo.ZoneInfoNotFoundError",
        "True",
    ),
    "a regular expression": ("import re\ndef f(x): re.compile('(')", "re.error", "e.pos == 0"),
    "a file": ("def f(x): open('/no')", "FileNotFoundError", "(e.filename, e.errno) == ('/no', 2)"),
    "recursion": ("def f(x): f(x)", "RecursionError", "True"),
    "an object as argument": ("def f(x): raise ValueError(object(), 3)", "ValueError", "e.args[1] == 3"),
    "a long message": ("def f(x): raise ValueError('y' * 10**5)", "ValueError", "'y' in str(e)"),
    "leaving that the test asks for": ("def f(x): raise SystemExit(3)", "SystemExit", "e.code == 3"),
    "an end that the test asks for": ("def f(x): raise StopIteration", "(StopIteration, KeyError)", "True"),
}


@pytest.mark.parametrize("name", RAISED)
def test_exceptions_keep_their_class_and_arguments(assertion_cases, name):
    source, kind, holds = RAISED[name]
    test = f"import decimal, json, re, zoneinfo\ntry:\n  f(1)\nexcept {kind} as e:\n  assert {holds}"
    test += "\nelse:\n  assert False"
    assert statuses(assertion_cases(source, test, entry_point="f")) == [Status.AC]
    others = test.replace(f"except {kind} as e", "except EOFError as e")
    assert not assertion_cases(source, others, entry_point="f")[0].passed


def test_an_exception_of_the_setups_is_the_tests_too(assertion_cases):
    setup = "class Wrong(Exception):\n  def __init__(self, n): self.n = n"
    test = "try:\n  f(1)\nexcept Wrong as e: assert e.n == 3\nelse: assert False"
    assert statuses(assertion_cases("def f(x): raise Wrong(3)", test, setup=setup)) == [Status.AC]


def test_values_travel_both_ways(assertion_cases):
    values = "[None, 1.5, 10**80, (1, 'a'), {1, 2}, frozenset({3}), {(1, 2): [b'x']}, 2j, float('inf')]"
    assert statuses(assertion_cases("def f(x): return x", f"y = {values}\nassert f(y) == y")) == [Status.AC]
    assert statuses(assertion_cases("def f(x): return x", "y = f(len)")) == [Status.BADVALUE]


@pytest.mark.parametrize(
    "test, passes",
    [
        ("y = f()\nassert y['c'].most_common(1) == [('a', 2)] and y['c'] == Counter('aa')", True),
        ("y = f()\nassert y['o'] == {2: 1, 1: 2}", True),
        ("y = f()\nassert y['o'] == OrderedDict([(2, 1), (1, 2)])", False),
        ("y = f()\nassert y['d'] == {1: 0} and type(y['d']) is dict", True),
        ("assert f()['c'] == {'a': 2, 'b': 0}", True),
    ],
)
def test_dictionaries_keep_their_kind(assertion_cases, test, passes):
    setup = "from collections import Counter, OrderedDict, defaultdict"
    made = "'c': Counter(a=2, b=0), 'o': OrderedDict([(1, 2), (2, 1)]), 'd': defaultdict(int, {1: 0})"
    source = f"def f(): return {{{made}}}"
    assert assertion_cases(source, test, setup=setup, entry_point="f")[0].passed is passes


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
