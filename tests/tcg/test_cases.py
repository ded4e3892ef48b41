"""What a generator learns from: true by the judge's own comparison, kept as drawn, in canonical text."""

import dataclasses

import pytest
from etils import epath

from o1jax.records import Problem, TestCase
from o1jax.tcg import cases
from o1jax.tcg.cases import CaseSettings, kept_sets, make_sets

SORT = "def f(x):\n    return sorted(x)\n"
CALL = Problem("c", "Sort.", "call", entry_point="f", solutions=(SORT,))
ADD = Problem("s", "Add.", "stdin", solutions=("a, b = map(int, input().split())\nprint(a + b)\n",))
HALVE = dataclasses.replace(ADD, solutions=("a, b = map(int, input().split())\nprint(a / b)\n",))


def lists(*outputs):
    return tuple(
        TestCase(f"[[{9 - i}, {i}]]", output.format(i, 9 - i)) for i, output in enumerate(outputs, 1)
    )


def sums(given="{} 1\n", said="{}\n"):
    return tuple(TestCase(given.format(a), said.format(a + 1)) for a in range(1, 6))


def sets_of(problem, tests, **settings):
    made = make_sets([dataclasses.replace(problem, tests=tests)], CaseSettings(sets=1, **settings), 0)
    return [case.test for case_set in made.sets for case in case_set.cases], made.dropped


@pytest.mark.parametrize("given", ["{} 1", "{} 1\n", "{} 1\n\n"])
@pytest.mark.parametrize("said", ["{}", "{}\n"])
def test_tests_with_any_line_end_are_learned_from_in_one_form(given, said):
    learned, dropped = sets_of(ADD, sums(given, said))
    assert set(learned) < set(sums()) and len(learned) == 3 and dropped == {"problems_without": 0}


@pytest.mark.parametrize("end", ["", "\\n\\n"])
def test_a_program_with_any_line_end_is_learned_from(end):
    source = f"a, b = map(int, input().split())\nprint(a + b, end='{end}')\n"
    assert set(sets_of(dataclasses.replace(ADD, solutions=(source,)), sums())[0]) < set(sums())


@pytest.mark.parametrize(
    "outputs", [["[{}, {}]"] * 3, ["[{},{}]"] * 3, ["( {}, {} )", "[{}, {}]", "[{},{}]"]]
)
def test_a_value_is_true_however_it_is_written(outputs):
    assert len(sets_of(CALL, lists(*outputs))[0]) == 3
    both = dataclasses.replace(CALL, solutions=(SORT.replace("sorted(x)", "tuple(sorted(x))"),))
    assert len(sets_of(both, lists(*outputs))[0]) == 3
    assert sets_of(CALL, lists("[{1}, {0}]", *outputs[1:]))[1]["false"] == 1


def test_the_judges_rules_decide_what_is_true():
    written = ["0.25", "0.50", ".750"]
    tests = tuple(TestCase(f"{a} 4\n", f"{said}\n") for a, said in zip((1, 2, 3), written, strict=True))
    assert len(sets_of(HALVE, tests)[0]) == 3
    assert sets_of(dataclasses.replace(HALVE, grader="exact"), tests)[1]["false"] == 2
    strict = dataclasses.replace(CALL, json_values=False)
    assert sets_of(strict, lists(*["({}, {})"] * 3))[1]["false"] == 3


def test_a_problem_in_assertion_form_is_counted_and_not_learned():
    asserted = dataclasses.replace(CALL, form="assertion")
    learned, dropped = sets_of(asserted, (TestCase("assert ordered([2, 1]) == [1, 2]"),))
    assert learned == [] and dropped == {"assertion": 1, "problems_without": 1}


def test_a_program_that_does_not_parse_is_counted_and_the_others_are_learned():
    mixed = dataclasses.replace(ADD, solutions=("print 3\n", *ADD.solutions))
    learned, dropped = sets_of(mixed, sums())
    assert len(learned) == 3 and dropped["unparsable"] == 1


def test_a_stage_that_goes_on_learns_the_sets_that_it_drew(tmp_path, monkeypatch):
    problems = [dataclasses.replace(ADD, tests=(*sums(), TestCase("x\n", "1\n")))]
    settings, out = CaseSettings(sets=2, traced=True, style="nano"), epath.Path(tmp_path)
    made = kept_sets(out, problems, settings, 0)
    assert made == make_sets(problems, settings, 0) and made.dropped["no_output"] == 1
    monkeypatch.setattr(cases, "make_sets", lambda *_: pytest.fail("made again"))
    assert kept_sets(out, problems, settings, 0) == made
