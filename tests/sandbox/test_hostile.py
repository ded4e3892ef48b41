"""What untrusted code tries, and the judge's answer: the programs of hostile_programs.py, one promise each.

All of them with namespaces and without (marker `hostile`, `make test-hostile`); a short selection always.
"""

import hostile_programs as programs
import pytest

from o1jax.records import Status, TestCase
from o1jax.sandbox.interface import Job, Limits
from o1jax.sandbox.wire import checks, payload

TIERS = ("T2", "T0")  # the highest that is granted, and the one without namespaces


def cases(table):
    """Every program under every tier; beside the short selection, marked as hostile."""
    found = []
    for tier in TIERS:
        for name in table:
            marks = () if name in programs.SHORT and tier == TIERS[0] else pytest.mark.hostile
            found.append(pytest.param(tier, name, id=f"{tier}-{name}", marks=marks))
    return found


@pytest.fixture
def ask(runner, judges):
    def asked(tier, *fields, **others):
        return runner.run(judges(tier).judge(Job(*fields, **others)))

    return asked


@pytest.mark.parametrize(("tier", "name"), cases(programs.TRIES))
def test_is_refused(ask, tier, name):
    source = (programs.PRELUDE + programs.TRIES[name]).replace("HERE", repr(__file__)) + "\nprint('ok')"
    case = ask(tier, source, (TestCase("", "ok\n"),), "stdin", limits=Limits(5.0, 120.0)).cases[0]
    assert case.status is Status.AC, case


@pytest.mark.parametrize(("tier", "name"), cases(programs.ENDS))
def test_ends_without_passing(ask, tier, name):
    statuses, body = programs.ENDS[name]
    limits = Limits(0.3, 1.0 if name in programs.WAITS else 120.0, memory_mb=128)
    expected = programs.SECRET if "walk" in name else "ok\n"
    case = ask(tier, programs.PRELUDE + body, (TestCase("", expected),), "stdin", limits=limits).cases[0]
    assert case.status in statuses.split(), case


@pytest.mark.parametrize(("tier", "name"), cases(programs.VALUES))
def test_is_no_right_value(ask, tier, name):
    statuses, source = programs.VALUES[name]
    tests = (TestCase("[]", "1"),) * 2
    verdict = ask(tier, source, tests, "call", "f", limits=Limits(0.3, 120.0, memory_mb=256))
    assert {case.status for case in verdict.cases} <= set(statuses.split()), verdict


@pytest.mark.parametrize(("tier", "name"), cases(programs.DOES_NOT_COMPILE))
def test_what_does_not_compile_is_a_ce(ask, tier, name):
    source = programs.DOES_NOT_COMPILE[name]
    verdict = ask(tier, source, (TestCase("", ""),) * 2, "stdin", limits=Limits(2.0, 120.0))
    assert not verdict.compiled and [case.status for case in verdict.cases] == [Status.CE] * 2


def test_compile_bomb_costs_its_own_limit_only(runner, judge):
    job = Job("x = " + "9 ** " * 5 + "9", (TestCase("", ""),), "stdin", limits=Limits(0.5, 4.0, 256))
    assert not runner.run(judge.judge(job)).passed


def test_no_state_reaches_the_next_program(stdin_case):
    stdin_case("import builtins, math, random\nbuiltins.print = None\nmath.pi = 3\nrandom.seed(5)")
    first = stdin_case("import math, random\nprint(math.pi, random.random(), hash('a'))").detail
    assert "3.14159" in stdin_case("import math\nprint(math.pi)").detail
    assert first == stdin_case("import math, random\nprint(math.pi, random.random(), hash('a'))").detail


@pytest.mark.parametrize(
    "answer", ['{"f": [' * 9000, '{"v": ' + "[" * 9000, '{"v": {"f": [' * 300, "9" * 9000, "\xff"]
)
def test_malformed_answers_are_no_result(call_cases, answer):
    forged = f"import os\ndef f(): os.write(3, {answer!r}.encode('latin-1') + b'\\n')"
    assert call_cases(forged, ("[]", "1"))[0].status is Status.NORESULT


def test_crashing_at_every_test_is_bounded(call_cases):
    """A crash costs its test; but a program that takes long to load, and crashes, is not loaded for all."""
    source = "import os\nfrom time import process_time as t\nwhile t() < 0.2: pass\ndef f(x): os._exit(0)"
    cases = call_cases(source, *[("[1]", "1")] * 100, limits=Limits(cpu_s=0.3, wall_s=60.0))
    assert cases[0].status is Status.NORESULT and cases[-1].status is Status.TLE


@pytest.mark.parametrize(
    ("form", "test"),
    [
        ("stdin", TestCase("1", "secret")),
        ("call", TestCase("[1]", "'secret'")),
        ("assertion", TestCase("assert f(1) == 'secret'")),
    ],
)
def test_expected_outputs_never_leave_the_supervisor(form, test):
    job = Job("def f(x): return x", (test,), form, "f")
    assert b"secret" not in b"".join(payload(job, job.tests, sealed=True, max_threads=1))
    assert checks(job, job.tests) == b""


def test_a_test_that_cannot_be_rewritten_goes_to_its_checker_only():
    job = Job("def f(x): return x", (TestCase("x = f(1)\nassert x == 'secret'"),), "assertion")
    assert b"secret" not in b"".join(payload(job, job.tests, sealed=True, max_threads=1))
    assert b"secret" in checks(job, job.tests)


def test_exit_in_one_test_costs_that_test_only(call_cases):
    source = "import os\ndef f(x):\n  if x == 1: os._exit(0)\n  return x"
    statuses = [c.status for c in call_cases(source, ("[0]", "0"), ("[1]", "1"), ("[2]", "2"))]
    assert statuses == [Status.AC, Status.NORESULT, Status.AC]
