"""TACO's format, as published (JSON inside JSON) and as in copies that are parsed already."""

import ast
import json
import pathlib
import sys
import types

import pytest

from o1jax.problems.formats import taco
from o1jax.problems.load import load_problems
from o1jax.records import InputError, Problem, TestCase

# Shared beside the repository, not in it: ten real TACO problems.
SAMPLE = pathlib.Path(__file__).parents[4] / "shared" / "data" / "taco_sample" / "train_easy_10.json"


def record(inputs, outputs, fn_name=None, **fields):
    cases = {"inputs": inputs, "outputs": outputs} | ({"fn_name": fn_name} if fn_name else {})
    return {
        "question": "Do it.",
        "solutions": json.dumps(["pass"]),
        "input_output": json.dumps(cases),
    } | fields


def one(r):
    return taco.problem_of(r, 0, "file record 0")


def test_json_text_and_parsed_fields_give_the_same_problem():
    stored = record(["1\n"], ["2\n"])
    parsed = stored | {"solutions": ["pass"], "input_output": {"inputs": ["1\n"], "outputs": ["2\n"]}}
    assert one(stored) == one(parsed)
    assert one(stored).form == "stdin" and one(stored).tests == (TestCase("1\n", "2\n"),)
    assert one(stored).solutions == ("pass",)


def test_lines_of_standard_input_and_output_are_joined():
    assert one(record([["2", "3 4"]], [["7", ""]])).tests == (TestCase("2\n3 4", "7\n"),)


def test_one_element_lists_around_every_output_are_unwrapped():
    problem = one(record([[1], [2]], [[[1]], [[2]]], "f"))
    assert problem.tests == (TestCase("[1]", "[1]"), TestCase("[2]", "[2]"))
    assert problem.form == "call" and problem.entry_point == "f"


def test_outputs_that_are_not_all_wrapped_stay_as_they_are():
    assert [t.output for t in one(record([[1], [2]], [[1], [1, 2]], "f")).tests] == ["[1]", "[1, 2]"]
    assert [t.output for t in one(record([[1], [2]], [3, None], "f")).tests] == ["3", "None"]


def test_call_values_are_python_literals():
    test = one(record([["a'b", True, None, {"1": 2}, {"x": 1}]], [[{"-3": "é"}]], "f")).tests[0]
    assert ast.literal_eval(test.input) == ["a'b", True, None, {1: 2}, {"x": 1}]
    assert ast.literal_eval(test.output) == {-3: "é"}


def test_arguments_given_as_lines_of_json_are_read():
    assert one(record(['[1, 2]\n"x"\n'], [["y"]], "f")).tests == (TestCase("[[1, 2], 'x']", "'y'"),)


def test_limits_tags_and_empty_fields_are_read():
    problem = one(
        record(
            ["1"],
            ["1"],
            time_limit="2.0 seconds",
            memory_limit="256.0 megabytes",
            tags="['Sorting']",
            source="x",
        )
    )
    assert (problem.time_limit_s, problem.memory_limit_mb, problem.tags) == (2.0, 256, ("Sorting",))
    bare = one(record(["1"], ["1"], solutions="", memory_limit="50000 bytes", tags=[], time_limit=None))
    assert (bare.time_limit_s, bare.memory_limit_mb, bare.tags, bare.solutions) == (0.0, 0, (), ())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1.2.3 seconds", 0.0), ("1.5 sec", 1.5), (". seconds", 0.0), ("9" * 400 + " seconds", 0.0), ("2", 0.0)],
)
def test_a_limit_that_cannot_be_read_is_the_judges_default(text, seconds):
    assert one(record(["1"], ["1"], time_limit=text)).time_limit_s == seconds


def test_tags_that_are_no_list_are_none():
    assert one(record(["1"], ["1"], tags="{[]: 1}")).tags == ()


def test_tests_of_the_test_split_are_hidden():
    problem = taco.problem_of(record(["1"], ["2"]), 7, "file record 7", split="test")
    assert problem.id == "taco/test/7" and not problem.tests and len(problem.hidden_tests) == 1


@pytest.mark.parametrize(
    "bad, message",
    [
        (record(["1"], ["1"], question=" "), "field 'question': saw ' ', wanted text"),
        (record(["1"], ["1"], input_output="{"), "field 'input_output': not JSON"),
        (record(["1"], ["1"], input_output=None), "field 'input_output': saw NoneType, wanted dict"),
        (record(["1"], ["1"], solutions="7"), "field 'solutions': saw int, wanted list"),
        (record(["1"], ["1"], solutions=[7]), "field 'solutions': saw an entry that is not text"),
        (record(["1"], []), "saw 1 inputs and 0 outputs"),
        (record([], []), "saw 0 inputs and 0 outputs"),
        (record("1", ["1"]), "saw no lists 'inputs' and 'outputs'"),
        (record([1], ["1"]), "saw int as standard input or output"),
        (record([5], [[1]], "f"), "saw int as arguments, wanted a list"),
        (record(["{"], [[1]], "f"), "wanted one JSON value a line"),
        (record(["[" * 9999], [[1]], "f"), "wanted one JSON value a line"),
        (record([[1]], [[1]], 5), "field 'fn_name': saw int, wanted text"),
        (record(["1"], ["1"], input_output="[" * 9999), "field 'input_output': not JSON"),
        (record(["1"], ["1"], time_limit=2.0), "field 'time_limit': saw float, wanted text"),
        (record(["1"], ["1"], memory_limit=256), "field 'memory_limit': saw int, wanted text"),
        (record(["1"], ["1"], difficulty=["EASY"]), "field 'difficulty': saw list, wanted text"),
    ],
)
def test_a_malformed_record_is_named_with_its_field(tmp_path, bad, message):
    path = tmp_path / "taco.json"
    path.write_text(json.dumps([record(["1"], ["1"]), bad]))
    with pytest.raises(InputError) as caught:
        load_problems(str(path), strict=True)
    assert "record 1 field" in str(caught.value) and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_json_lines_are_read_too(tmp_path):
    path = tmp_path / "taco.jsonl"
    path.write_text("\n".join(json.dumps(record([str(i)], ["1"])) for i in range(3)))
    problems = load_problems(str(path)).problems
    assert [p.id for p in problems] == ["taco/train/0", "taco/train/1", "taco/train/2"]


def stand_in(monkeypatch, load_dataset):
    """A datasets library whose load_dataset is this function (no network in tests)."""
    errors = types.SimpleNamespace(DatasetsError=type("DatasetsError", (Exception,), {}))
    monkeypatch.setitem(
        sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset, exceptions=errors)
    )


def test_the_published_set_is_loaded_by_name(monkeypatch):
    asked = []
    stand_in(monkeypatch, lambda *names, **options: asked.append((names, options)) or [record(["1"], ["1"])])
    problem = load_problems("taco:test").problems[0]
    assert problem.id == "taco/test/0" and problem.hidden_tests
    files = {"test": "hf://datasets/BAAI/TACO/ALL/test-*.parquet"}
    assert asked == [(("parquet",), {"data_files": files, "split": "test"})]


def test_an_unreachable_set_is_one_clear_line(monkeypatch):
    def unreachable(*names, **options):
        raise ConnectionError("no route to host\nretry later")

    stand_in(monkeypatch, unreachable)
    with pytest.raises(InputError, match="cannot load BAAI/TACO .no route to host.; give a local"):
        load_problems("taco:train")


@pytest.mark.skipif(not SAMPLE.exists(), reason="the TACO sample is not beside the repository")
def test_the_real_sample_is_read():
    problems = load_problems(str(SAMPLE), strict=True).problems
    assert [p.form for p in problems].count("stdin") == 3 and len(problems) == 10
    assert [len(p.tests) for p in problems] == [3, 102, 8, 11, 88, 5, 2, 6, 9, 4]
    assert [i for i, p in enumerate(problems) if p.form == "stdin"] == [1, 4, 8]
    assert problems[2].tests[0] == TestCase("[100, 200, 10]", "[109, 190]")
    assert all(p.solutions and p.difficulty == "EASY" for p in problems)


def test_apps_records_are_read_through_the_same_format(tmp_path):
    path = tmp_path / "apps.jsonl"
    path.write_text(json.dumps(record(["1"], ["2"], problem_id=4, difficulty="interview")))
    (problem,) = load_problems(f"apps:{path}:test").problems
    assert (problem.id, problem.source, problem.difficulty) == ("apps/test/0", "apps", "interview")
    assert not problem.tests and len(problem.hidden_tests) == 1


@pytest.mark.parametrize("digits", [5_000, 50_000])
@pytest.mark.parametrize("given", ["[[{}]]", '["{}"]', '["[{}]\\n[1]"]'])
def test_integers_of_many_digits_are_read(tmp_path, digits, given):
    big, path = "9" * digits, tmp_path / "taco.jsonl"
    cases = f'{{"fn_name": "f", "inputs": {given.format("9" * digits)}, "outputs": [[{big}]]}}'
    stored = json.dumps({"question": "q", "input_output": cases})
    path.write_text(f'{stored}\n{{"question": "q", "input_output": {cases}}}', encoding="utf-8")
    loaded = load_problems(f"taco:{path}")
    assert len(loaded.problems) == 2 and not loaded.malformed
    assert all(p.tests[0].output == big and big in p.tests[0].input for p in loaded.problems)


@pytest.mark.parametrize("given", ["[[{}]]", '["{}"]'])
def test_an_integer_of_a_million_digits_is_a_malformed_record(given):
    cases = f'{{"fn_name": "f", "inputs": {given.format("9" * 10**6)}, "outputs": [[1]]}}'
    with pytest.raises(InputError, match="field 'input_output': ") as caught:
        one(record([], [], input_output=cases))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "outputs, stated, grader",
    [
        ([[2], [4]], ["2", "4"], "value_or_list"),
        ([[2, 4], [[4]]], ["[2, 4]", "[[4]]"], "value_or_item"),
        ([2, None], ["2", "None"], "value_or_item"),
        ([{"1": 2}, [{"3": 4}]], ["{1: 2}", "{3: 4}"], "value_or_list"),
        ([{"a": 2}, {}], ["{'a': 2}", "{}"], "value_or_item"),
    ],
)
def test_the_grader_says_where_a_list_around_a_value_may_be(outputs, stated, grader):
    problem = one(record([[1], [2]], outputs, "f"))
    assert [test.output for test in problem.tests] == stated and problem.grader == grader


def test_other_sets_have_no_prelude():
    assert one(record([[1]], [[2]], "f")).prelude and one(record(["1"], ["2"])).prelude
    assert not Problem("a", "q", "call", entry_point="f").prelude
