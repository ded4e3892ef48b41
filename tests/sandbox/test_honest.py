"""Odd but honest programs must pass, in all three forms."""

import pytest

from o1jax.records import InputError, Status, TestCase
from o1jax.sandbox.interface import Job, Limits

HONEST = {  # each prints the sum of the numbers on standard input
    "sys.exit(0) after output": "print(total()); sys.exit(0)",
    "exit() without site": "print(total()); exit()",
    "stdin.buffer": "print(sum(map(int, sys.stdin.buffer.read().split())))",
    "iteration over stdin": "print(sum(int(n) for line in sys.stdin for n in line.split()))",
    "the size of stdin": "print(sum(map(int, os.read(0, os.fstat(0).st_size).split())))",
    "descriptor 0": "print(sum(map(int, open(0).read().split())))",
    "output at exit": "import atexit; out = io.StringIO(); print(total(), file=out)\n"
    "atexit.register(lambda: sys.stdout.write(out.getvalue()))",
    "output by an object that dies": "class Out(io.IOBase):\n  def __init__(s): s.me, s.text = s, ''\n"
    "  def flush(s): os.write(1, s.text.encode()); s.text = ''\nout = Out()\nout.text = f'{total()}\\n'",
    "another stdout": "text = io.StringIO(); sys.stdout = text; print(total())\n"
    "os.write(1, text.getvalue().encode())",
    "an unjoined thread": "threading.Timer(0.05, lambda: print(total())).start()",
    "deep recursion in a thread": "threading.stack_size(64 << 20)\n"
    "threading.Thread(target=lambda: print(deep(50000) - 50000 + total())).start()",
    "deep recursion": "print(deep(50000) - 50000 + total())",
    "the main guard": "if __name__ == '__main__': print(total())",
    "a dataclass": "import dataclasses\n@dataclasses.dataclass\nclass P:\n  x: int\nprint(P(total()).x)",
    "writing to devnull": "sys.stderr = open(os.devnull, 'w'); print(total())",
    "eight threads": "from concurrent.futures import ThreadPoolExecutor\nimport time\n"
    "with ThreadPoolExecutor(8) as pool: pool.map(time.sleep, [0.02] * 64)\nprint(total())",
    "a larger stack": "import resource as r\nr.setrlimit(r.RLIMIT_STACK, (2**28, r.RLIM_INFINITY))\n"
    "print(total())",
    "late imports": "import sqlite3, decimal, zlib, bisect, heapq; print(total())",
}
PRELUDE = """
import io, os, sys, threading
sys.setrecursionlimit(10**6)
def total(): return sum(map(int, input().split()))
def deep(n): return n and 1 + deep(n - 1)
"""


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("tier", ["T2", pytest.param("T0", marks=pytest.mark.hostile)])
def test_honest_program_passes(runner, judges, tier, name):
    limits = Limits(cpu_s=5.0, wall_s=120.0, memory_mb=256)
    job = Job(PRELUDE + HONEST[name], (TestCase("1 2\n", "3\n"),), "stdin", limits=limits)
    case = runner.run(judges(tier).judge(job)).cases[0]
    assert case.passed, case


def test_unicode_travels_both_ways(stdin_case):
    assert stdin_case("print(input()[::-1])", "añ漢\U0001f600\n", "\U0001f600漢ña\n").status is Status.AC


def test_integers_of_five_thousand_digits(stdin_case, call_cases):
    big = "7" * 5000
    assert stdin_case("print(int(input()) + 0)", big + "\n", big + "\n").status is Status.AC
    assert call_cases("def f(x): return x", (f"[{big}]", big))[0].status is Status.AC


def test_an_integer_of_a_million_digits_is_no_test(call_cases):
    with pytest.raises(InputError, match="a test is not a Python literal .*digits") as caught:
        call_cases("def f(x): return x", ("[1]", "7" * 10**6))
    assert len(str(caught.value)) < 400


def test_input_of_a_mebibyte(stdin_case):
    assert stdin_case("print(len(input()))", "x" * (1 << 20) + "\n", f"{1 << 20}\n").passed


def test_call_form_finds_functions_and_methods(call_cases):
    assert call_cases("def f(a, b): return a + b", ("[1, 2]", "3"))[0].passed
    assert call_cases("class Solution:\n  def f(self, a, b): return a + b", ("[1, 2]", "3"))[0].passed
    assert call_cases("def g(): pass", ("[1, 2]", "3"))[0].status is Status.NORESULT


@pytest.mark.parametrize(
    "source, value",
    [
        ("from math import gcd\nclass Solution:\n  def f(self, a, b): return 7\nf = gcd", "7"),
        ("from math import gcd as f\nclass Solution:\n  def g(self, a, b): return 7", "4"),
        ("from math import gcd as f\nclass Solution:\n  def __init__(self, x): pass", "4"),
        ("def f(a, b): return 8\nclass Solution:\n  def f(self, a, b): return 7", "8"),
        ("import functools\n@functools.cache\ndef f(a, b): return 8\nclass Solution:\n  f = None", "8"),
    ],
)
def test_a_solutions_method_wins_over_an_imported_function(call_cases, source, value):
    assert call_cases(source, ("[8, 12]", value))[0].passed


@pytest.mark.parametrize(
    "setup, source, value",
    [
        ("def g(x): return -x", "def g(x): return x\ndef f(x): return g(x)", "8"),
        ("MOD = 5", "MOD = 7\ndef f(x): return x % MOD", "1"),
        ("MOD = 5", "def f(x): return x % MOD", "3"),
        ("def gcd(a, b): return -1", "from math import *\ndef f(x): return gcd(x, 4)", "4"),
        ("def f(x): pass", "def f(x): return x", "8"),
        ("from math import sqrt as f", "class Solution:\n  def f(self, x): return f(x * 2)", "4"),
        ("from typing import List\nn = N()", "class N:\n  v = 8\ndef f(x: List[int]): return n.v", "8"),
    ],
)
def test_setup_never_overwrites_the_programs_names(call_cases, setup, source, value):
    assert call_cases(source, ("[8]", value), setup=setup)[0].passed


def test_a_function_of_the_setups_is_not_the_programs(call_cases):
    (case,) = call_cases("pass", ("[4]", "2"), setup="from math import sqrt as f")
    assert case.status is Status.NORESULT


def test_call_form_may_print_and_mutate(call_cases):
    source = "print('x' * 10)\ndef f(x):\n  print(x)\n  x.append(1)\n  return x"
    assert call_cases(source, ("[[]]", "[1]"))[0].passed


def test_tuple_is_a_list_where_values_are_json(call_cases):
    source = "def f(): return (1, (2,))"
    assert call_cases(source, ("[]", "[1, [2]]"))[0].passed
    assert call_cases(source, ("[]", "[1, [2]]"), json_values=False)[0].status is Status.WA


def test_a_wrong_value_is_told(call_cases):
    (wrong,) = call_cases("def f(x): return x", ("[7]", "8"))
    assert (wrong.status, wrong.detail) == (Status.WA, "got 7")


def test_exceptions_carry_their_last_line(call_cases):
    case = call_cases("def f(x): return 1 // x", ("[0]", "1"))[0]
    assert (case.status, case.detail) == (Status.RE, "ZeroDivisionError: integer division or modulo by zero")


def test_time_is_a_tests_in_call_form(call_cases):
    """A test that is stuck costs its own; those after it go on in a fresh execution."""
    source = "def f(x):\n  while x: pass\n  return x"
    cases = call_cases(source, ("[0]", "0"), ("[1]", "1"), ("[0]", "0"), ("[2]", "2"), ("[0]", "0"))
    assert [case.status for case in cases] == [Status.AC, Status.TLE, Status.AC, Status.TLE, Status.AC]
    assert 0.45 < cases[1].cpu_s < 1.5 and cases[2].cpu_s < 0.3


def test_time_in_all_is_bounded(call_cases):
    source = "def f(x):\n  while x: pass\n  return x"
    cases = call_cases(source, *[("[1]", "1")] * 100, limits=Limits(cpu_s=0.05, wall_s=60.0))
    assert {case.status for case in cases} == {Status.TLE}
    assert cases[7].detail == "CPU time" and cases[8].detail.startswith("not run")


def test_memory_is_the_programs(runner, judge):
    """Neither the inputs of other tests nor what their reader holds of them lies under its limit."""
    limits = Limits(cpu_s=5.0, wall_s=120.0, memory_mb=64)
    text = "x" * (2 << 20)
    for form, source, test in (
        ("stdin", "n = len(input())\ntaken = bytearray(40 << 20)\nprint(n)", TestCase(text, f"{2 << 20}")),
        (
            "call",
            "def f(x):\n  taken = bytearray(40 << 20)\n  return len(x)",
            TestCase(f"['{text}']", f"{2 << 20}"),
        ),
        (
            "assertion",
            "def f(x):\n  taken = bytearray(40 << 20)\n  return len(x)",
            TestCase(f"assert f('{text}') == {2 << 20}"),
        ),
    ):
        job = Job(source, (test,) * 30, form, "f", limits=limits)
        verdict = runner.run(judge.judge(job))
        assert verdict.passed, (form, verdict.cases[0], verdict.cases[-1])


def test_assertions_are_judged_one_by_one(assertion_cases):
    source = "def f(x): return x * 2"
    tests = [
        "assert f(2) == 4",
        "assert f(2) == 5",
        "assert f(0.1) == 0.2",
        "assert not f(0)",
        "assert f(1) == True",
    ]
    got = [case.status for case in assertion_cases(source, *tests)]
    assert got == [Status.AC, Status.WA, Status.AC, Status.AC, Status.WA]


def test_assertion_block_runs_as_it_is(assertion_cases):
    block = "def check(g):\n    assert abs(g(2) - 4) < 1e-6\n    assert g(3) != {}\ncheck(f)"
    assert assertion_cases("def f(x): return x * 2", block.format(7))[0].status is Status.AC
    assert assertion_cases("def f(x): return x * 3", block.format(7))[0].status is Status.WA


def test_setup_may_need_the_program_and_the_program_setup(assertion_cases):
    program = "class Node:\n  def __init__(s, v): s.v = v\ndef f(n): return n.v"
    assert assertion_cases(program, "assert f(root) == 3", setup="root = Node(3)")[0].passed
    assert assertion_cases(
        "def f(x: List[int]): return x", "assert f([]) == []", setup="from typing import List"
    )[0].passed


def test_values_of_setup_are_the_tests_whatever_the_program_calls_so(assertion_cases):
    program = "class Node:\n  def __init__(s, v): s.v = v\nroot = Node(8)\ndef f(n): return n.v"
    assert assertion_cases(program, "assert f(root) == 3", setup="root = Node(3)")[0].passed


def test_equality_is_pythons(assertion_cases):
    source = "def f(x): return [{True: 1}, 1 + 0j, {1e20}, {(1, 10**20)}, 4e-7, 0.1 + 0.2][x]"
    right = ["{1: 1}", "1", "{100000000000000000000}", "{(True, 1e20)}", "4e-7", "0.30000000000000004"]
    wrong = ["{1: 2}", "1j", "{100000000000000000001}", "{(0, 1e20)}", "0", "0.3"]
    for values, passes in ((right, True), (wrong, False)):
        tests = [f"assert f({i}) == {value}" for i, value in enumerate(values)]
        assert [case.passed for case in assertion_cases(source, *tests, entry_point="f")] == [passes] * 6


@pytest.mark.parametrize("keep", [True, False])
def test_the_output_is_kept_where_it_was_asked_for_and_the_program_ended_well(runner, judge, keep):
    tests = (TestCase("1 2\n", "3\n"), TestCase("1 3\n", "3\n"), TestCase("one\n", "3\n"))
    job = Job(PRELUDE + "print(total())", tests, "stdin", keep_output=keep)
    cases = runner.run(judge.judge(job)).cases
    assert [case.status for case in cases] == [Status.AC, Status.WA, Status.RE]
    assert [case.output for case in cases] == (["3\n", "4\n", None] if keep else [None] * 3)
