"""Which assertions are rewritten, so that the candidate sees only what it is asked, and which are not."""

import pytest

from o1jax.records import InputError, Status
from o1jax.sandbox.assertions import rewrite
from o1jax.sandbox.setups import free_names


@pytest.mark.parametrize(
    "test",
    [
        "assert f(2)",
        "assert not f(2)",
        "assert f(2) == 3",
        "assert f(2) == True",
        "assert f(2) is None",
        "assert f(x == 1, 'a' or 2) == 3",
        "assert -f(2) == 3",
        "assert sorted(f(2)) == [1, 2]",
        "assert list(f(2)) == [1]",
        "assert len(set(f(2))) == 3",
        "assert f(2)[0] == 1",
        "assert f(2)[1:][-1] == 'a'",
        "assert [x for x in f(2)] == [1]",
        "assert to_list(f(to_node([1, 2]))) == [2, 1]",
        "assert Solution().f(2) == 3",
    ],
)
def test_a_question_that_tells_nothing_is_rewritten(test):
    assert rewrite(test, "f").steps and not rewrite(test, "f").block


@pytest.mark.parametrize(
    "test",
    [
        "assert math.isclose(f(2), 3.14)",
        "assert isclose(f(2), 3.14)",
        "assert not isclose(f(2), 3.14)",
        "assert all(a == b for a, b in zip(f(2), [1]))",
        "assert f(2).startswith('a')",
        "assert math.isclose(f(2), 3.1) == True",
        "assert isclose(f(2), WANT) == True",
        "assert isinstance(f(2), int) is True",
        "assert round(f(2), 2) == 3.14",
        "assert f(2).startswith('a') == True",
        "assert (f(2) == [1, 2]) == True",
        "assert (f(2) and [1]) == [1]",
        "assert ['no', 'yes'][f(2) == 3] == 'yes'",
        "assert g(2) == 3 and f(2) == 3",
        "assert f'{f(2)}!' == '3!'",
        "assert f(2) == f(3)",
        "x = f(2)\nassert x == 3",
    ],
)
def test_a_test_that_would_tell_what_it_expects_is_not(test):
    assert rewrite(test, "f").block == test and not rewrite(test, "f").steps


def test_without_an_entry_point_any_function_may_be_the_candidates():
    assert rewrite("assert g(2)").steps and rewrite("assert h(2, 'a') == 3").steps
    for test in ("assert all(g(2))", "assert math.isclose(g(2), 3)", "assert sum(g(2), 3) == 4"):
        assert rewrite(test).block


@pytest.mark.parametrize("literal", ["...", "[1, ...]", "[" * 160 + "]" * 160])
def test_what_no_program_can_return_is_refused(literal):
    with pytest.raises(InputError, match="a test expects a value"):
        rewrite(f"assert f(2) == {literal}", "f")


def test_an_entry_point_may_have_a_built_in_functions_name():
    assert free_names("def check(c): assert c([2]) == [2]\ncheck(sorted)", "sorted") == ("sorted",)
    assert free_names("def sorted(x): return x\nassert sorted(f(2))", "sorted") == ("f",)
    assert free_names("assert len(f(2)) == 1", "f") == ("f",)


def test_a_setup_that_is_not_python_is_the_users_error():
    with pytest.raises(InputError, match="a setup is not Python"):
        free_names("import")


HOSTILE = {
    "a patched math.isclose": (
        "import math\nmath.isclose = lambda *a, **k: True\ndef f(x): return 'no'",
        "assert math.isclose(f(2), 3.14159, rel_tol=1e-3)",
    ),
    "its own all": ("all = lambda x: True\ndef f(x): return [0]", "assert all(x for x in f(2))"),
    "a method": (
        "class Z:\n  def startswith(s, *a): return True\ndef f(x): return Z()",
        "assert f(2).startswith('abc')",
    ),
    "a lying comparison": (
        "class Z:\n  def __eq__(s, o): return True\ndef f(x): return Z()",
        "assert (f(2) == [1, 2]) == True",
    ),
    "a lying isinstance": (
        "isinstance = lambda *a: True\ndef f(x): return None",
        "assert isinstance(f(2), int) == True",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_candidate_that_patches_what_a_test_uses_does_not_pass(assertion_cases, name):
    source, test = HOSTILE[name]
    assert not assertion_cases(source, test, setup="import math", entry_point="f")[0].passed


def test_tests_that_go_to_the_checker_pass_right_programs(assertion_cases):
    source = "import math\ndef f(x): return round(math.pi * x, 6)"
    tests = ["assert math.isclose(f(2), 6.2832, rel_tol=1e-3)", "assert round(f(2), 2) == 6.28"]
    cases = assertion_cases(source, *tests, "assert f(2) == 6.283185", setup="import math", entry_point="f")
    assert [case.status for case in cases] == [Status.AC] * 3


def test_the_candidates_function_is_tested_not_pythons_own(assertion_cases):
    check = "def check(c):\n  assert c([2, 1]) == [1, 2]\ncheck(sorted)"
    wrong, missing, right = (
        assertion_cases(source, check, entry_point="sorted")[0].status
        for source in ("def sorted(x): return x", "pass", "def sorted(x): return [min(x), max(x)]")
    )
    assert (wrong, missing, right) == (Status.WA, Status.NORESULT, Status.AC)
