"""Which part of a setup a program gets, and that what its tests expect is not in it."""

import pytest

from o1jax.records import InputError, Status, TestCase
from o1jax.sandbox.assertions import rewrite
from o1jax.sandbox.interface import Job
from o1jax.sandbox.setups import divided
from o1jax.sandbox.wire import check, checks, payload

CLOSE = "def close(a, b): return abs(a - b) < 1e-6"
NODE = "class Node:\n    def __init__(self, v=0, next=None):\n        self.v, self.next = v, next"
LISTS = f"""from typing import *
{NODE}
def to_node(values):
    head = None
    for v in reversed(values): head = Node(v, head)
    return head
def to_list(node):
    out = []
    while node is not None: out.append(node.v); node = node.next
    return out"""
REVERSE = """class Solution:
    def f(self, head: Optional[Node]) -> Optional[Node]:
        last = None
        while head: head.next, last, head = last, head, head.next
        return last"""


def shown(setup, *tests, entry_point="f"):
    """The texts that a program gets."""
    found = [rewrite(test, entry_point, setup) for test in tests]
    questions = tuple(step.get("value") or step["truth"] for test in found for step in test.steps)
    parts = divided(setup, entry_point, questions, tuple(test.block for test in found if test.block))
    return "\n".join(text for text, _ in parts.shown)


READS = {  # (setup, program, test): the program knows what is expected, or patches what tells it
    "a constant": ("WANT = 18", "def f(x): return WANT", "y = f(1)\nassert y == WANT"),
    "a constant in a question": ("WANT = 18", "def f(x): return WANT", "assert abs(f(1) - WANT) == 0"),
    "a constant of a helper's": (
        "WANT = 18\ndef away(y): return y - WANT",
        "def f(x): return WANT",
        "assert away(f(1)) == 0",
    ),
    "a constant in a helper": (
        "def score(y): return 1 if y == 18 else 0",
        "def f(x): return score.__code__.co_consts[1]",
        "assert score(f(1)) == 1",
    ),
    "a table made in steps": (
        "WANT = {}\nWANT[1] = 18\nWANT.update({2: 20})",
        "def f(x): return WANT[x]",
        "for x in (1, 2): assert f(x) == WANT[x]",
    ),
    "a constant bound by text": ("exec('WANT = 18')", "def f(x): return WANT", "y = f(1)\nassert y == WANT"),
    "a constant found by text": ("WANT = 18", "def f(x): return WANT", "y = f(1)\nassert y == eval('WANT')"),
    "a global of a function": (
        "def bind():\n  global WANT\n  WANT = 18\nbind()",
        "def f(x): return WANT",
        "y = f(1)\nassert y == WANT",
    ),
    "a closure": (
        "def make(want):\n  def check(c):\n    assert c(1) == want\n  return check\ncheck = make(18)",
        "def f(x): return check.__closure__[0].cell_contents",
        "check(f)",
    ),
    "two at once": ("root, WANT = 1, 18", "def f(x): return WANT", "y = f(root)\nassert y == WANT"),
    "a derived constant": ("A = 17\nWANT = A + 1", "def f(x): return A + 1", "y = f(1)\nassert y == WANT"),
    "a reference": ("def g(x): return x * 18", "def f(x): return g(x)", "y = f(1)\nassert y == g(1)"),
    "a class": ("class Want:\n  x = 18", "def f(x): return Want.x", "assert f(1) == Want.x"),
    "a check function": (
        "def check(c): assert c(1) == 18",
        "def f(x): return check.__code__.co_consts[1]",
        "check(f)",
    ),
    "a check of its own": (
        "def check(): assert f(1) == 18",
        "def f(x): return check.__code__.co_consts[1]",
        "check()",
    ),
    "an assert": ("assert f(1) == 18", "def f(x): return 19", "assert f(2) == 19\ny = 1"),
    "a helper by the program's name": (
        CLOSE,
        "def close(a, b): return True\ndef f(x): return 0",
        "assert close(f(1), 3)",
    ),
    "patched built-ins": (
        CLOSE,
        "import builtins\nbuiltins.abs = lambda x: 0\ndef f(x): return 0",
        "assert close(f(1), 3)",
    ),
    "patched built-ins, beside an object": (
        CLOSE + "\nroot = Node(3)",
        f"import builtins\nbuiltins.abs = lambda x: 0\n{NODE}\ndef f(n): return 0",
        "y = f(root)\nassert close(y, 3)",
    ),
    "a patched module": (
        "from math import *",
        "import math\nmath.isclose = lambda *a: True\ndef f(x): return 0",
        "assert isclose(f(1), 3)",
    ),
}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("entry_point", ["f", ""])
def test_a_program_that_reads_the_setup_does_not_pass(assertion_cases, name, entry_point):
    setup, source, test = READS[name]
    assert not assertion_cases(source, test, setup=setup, entry_point=entry_point)[0].passed


HONEST = {  # (setup, program, test), which passes
    "a constant": ("WANT = 18", "def f(x): return 18", "y = f(1)\nassert y == WANT"),
    "a table": (READS["a table made in steps"][0], "def f(x): return 16 + 2 * x", "assert f(2) == WANT[2]"),
    "a helper": (READS["a constant in a helper"][0], "def f(x): return 18", "assert score(f(1)) == 1"),
    "a check function": ("def check(): assert f(1) == 18", "def f(x): return 18", "check()"),
    "imports": ("import math", "def f(x): return math.floor(x)", "assert f(2.5) == 2"),
    "constants for programs": (
        "MOD = 10**9 + 7\ninf = float('inf')",
        "def f(x): return min(x % MOD, inf)",
        "assert f(2) == 2",
    ),
    "a helper for programs": ("def g(x): return x + 1", "def f(x): return g(x)", "assert f(1) == 2"),
    "an input": ("DATA = [1, 2, 3]", "def f(x): return sum(x)", "assert f(DATA) == 6"),
    "an input of a check": ("DATA = [1, 2, 3]", "def f(x): return sum(x)", "y = f(DATA)\nassert y == 6"),
    "an object and a helper": (
        CLOSE + "\nroot = Node(3.0)",
        NODE + "\ndef f(n): return n.v",
        "y = f(root)\nassert close(y, 3)",
    ),
    "a setting": (
        "import sys\nsys.setrecursionlimit(5000)",
        "def f(): return sys.getrecursionlimit()",
        "y = f()\nassert y == 5000 == sys.getrecursionlimit()",
    ),
    "objects by helpers": (LISTS, REVERSE, "assert to_list(Solution().f(to_node([1, 2]))) == [2, 1]"),
    "objects of the program's class": (
        LISTS,
        f"{NODE}\n{REVERSE}",
        "assert to_list(Solution().f(to_node([1, 2]))) == [2, 1]",
    ),
    "the program's value": ("BASE = f(0)", "def f(x): return x + 1", "y = f(1)\nassert y == BASE + 1"),
    "star imports": (
        "from collections import *\nfrom math import *",
        "def f(x): return deque([x]).pop()",
        "y = f(4)\nassert sqrt(y) == 2",
    ),
    "the answer's beginning": (
        "import math\ndef g(x: int): return math.floor(x)\ndef f(x):\n  '''Doubles.'''",
        "def f(x): return g(x) * 2",
        "y = f(2.5)\nassert y == g(4.5)",
    ),
    "future annotations": (
        "from __future__ import annotations\nclass A:\n  b: B",
        "def f(x): return x",
        "assert f(1) == 1",
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_a_program_that_needs_the_setup_passes(assertion_cases, name):
    setup, source, test = HONEST[name]
    (case,) = assertion_cases(source, test, setup=setup, entry_point="f")
    assert case.status is Status.AC, case


def test_what_tests_expect_is_in_no_payload():
    setup = "secret = 'secret'\nroot = Node(1)\nimport math"
    job = Job("def f(x): return x", (TestCase("y = f(root)\nassert y == secret"),), "assertion", "f", setup)
    sent = b"".join(payload(job, job.tests, sealed=True, max_threads=1))
    assert b"secret" not in sent and b"root = Node(1)" in sent and b"import math" in sent
    assert b"secret = 'secret'" in checks(job, job.tests)


def test_objects_of_the_program_are_made_in_the_program_only():
    setup = "root = Node(1)\nroot.left = Node(2)\nroot.left.left = Node(root.left)"
    assert shown(setup, "assert f(root) == 2") == setup
    assert divided(setup, "f", ("f(root)",), ()).kept == ""


def test_the_setups_function_is_not_the_programs(assertion_cases):
    (case,) = assertion_cases("pass", "y = f(2)\nassert y == 2", setup="def f(x): return x", entry_point="f")
    assert case.status is Status.NORESULT


def test_a_check_is_shown_to_nobody():
    setup = f"{NODE}\ndef check(c): assert c(1) == 2\ndef g(x): return x"
    assert "check" not in shown(setup, "check(f)") and "check" not in shown(setup, "assert f(1) == 2")
    assert "def g" in shown(setup, "check(f)") and "class Node" in shown(setup, "check(f)", "y = f(Node())")


def test_setup_goes_whole_to_programs_without_a_checker():
    for form, grader in (("call", ""), ("assertion", "mbpp")):
        job = Job(
            "",
            (TestCase("[1]" if form == "call" else "assert f(1)", "1"),),
            form,
            "f",
            "A = 1",
            grader=grader,
        )
        assert b"A = 1" in b"".join(payload(job, job.tests, sealed=True, max_threads=1))


@pytest.mark.parametrize("form", ["call", "assertion"])
def test_a_setup_that_is_no_python_is_the_problems_fault(form):
    with pytest.raises(InputError, match="a setup is not Python"):
        check(Job("", (), form, "f", "import ("))
