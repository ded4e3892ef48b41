"""MBPP's two published forms: what the model is told, what judges it, which split a task is in."""

import json
import pathlib

import pytest

from o1jax.problems.formats.mbpp import entry_point, problem_of
from o1jax.problems.load import load_problems
from o1jax.records import InputError, TestCase

MBPP = pathlib.Path(__file__).parents[4] / "shared" / "data" / "mbpp"
needs_data = pytest.mark.skipif(not MBPP.exists(), reason=f"no MBPP at {MBPP}")

FULL = {
    "task_id": 11,
    "text": "Write a function to add one. ",
    "code": "def add(x):\r\n\treturn x + 1",
    "test_list": ["assert add(1) == 2", "assert add(2) == 3"],
    "test_setup_code": "",
    "challenge_test_list": ["assert add(-1) == 0"],
}
SANITIZED = {
    "task_id": 602,
    "prompt": "Write a function to add one.",
    "code": "def add(x):\n  return x + 1",
    "test_imports": ["import math"],
    "test_list": ["assert add(1) == 2"],
}


def one(record):
    return problem_of(record, 0, "file record 0")


def test_the_question_ends_in_the_published_tests_which_name_the_function():
    problem = one(FULL)
    assert problem.question == (
        "Write a function to add one. Your code should pass these tests:\n\n"
        "assert add(1) == 2\nassert add(2) == 3"
    )
    assert problem.entry_point == "add" and problem.form == "assertion" and not problem.json_values
    assert problem.solutions == ("def add(x):\n\treturn x + 1",)


def test_a_test_task_hides_its_published_tests_and_a_training_task_adds_the_challenges():
    tests = (TestCase("assert add(1) == 2"), TestCase("assert add(2) == 3"))
    assert one(FULL).hidden_tests == tests and one(FULL).tests == ()
    training = one(FULL | {"task_id": 601})
    assert training.tests == (*tests, TestCase("assert add(-1) == 0")) and training.hidden_tests == ()


def test_imports_of_the_sanitized_form_are_the_setup():
    problem = one(SANITIZED)
    assert problem.id == "mbpp_sanitized/602" and problem.setup == "import math" and len(problem.tests) == 1


@pytest.mark.parametrize(
    "source, asserts, name",
    [
        ("def helper(): 0\ndef f(): 0", ["assert set(f(1)) == set()", "assert f(2)"], "f"),
        ("def f(): 0\ndef helper(): 0", ["assert f(helper())", "assert f(1)"], "f"),
        ("class A: pass", ["assert A()"], ""),
        ("def f(:", ["assert f()"], ""),
    ],
)
def test_the_entry_point_is_the_function_that_every_test_calls(source, asserts, name):
    assert entry_point(source, asserts) == name


@pytest.mark.parametrize(
    "change, field",
    [
        ({"task_id": "11"}, "'task_id'"),
        ({"task_id": 975}, "'task_id'"),
        ({"text": ""}, "'text'"),
        ({"code": None}, "'code'"),
        ({"test_list": []}, "'test_list'"),
        ({"test_list": [1]}, "'test_list'"),
        ({"test_setup_code": 3}, "'test_setup_code'"),
        ({"task_id": 601, "challenge_test_list": None}, "'challenge_test_list'"),
    ],
)
def test_a_malformed_record_is_named_with_its_field(change, field):
    with pytest.raises(InputError, match=f"^file record 0 field {field}: saw .*, wanted .*"):
        one(FULL | change)


def test_a_split_of_a_file_is_its_task_ids(tmp_path):
    path = tmp_path / "mbpp.jsonl"
    path.write_text(
        "".join(json.dumps(FULL | {"task_id": i}) + "\n" for i in (1, 10, 11, 510, 511, 601, 974))
    )
    splits = ("prompt", "test", "validation", "train")
    found = {split: [p.id for p in load_problems(f"mbpp:{path}:{split}").problems] for split in splits}
    assert found["prompt"] == ["mbpp/1", "mbpp/10"] and found["test"] == ["mbpp/11", "mbpp/510"]
    assert found["validation"] == ["mbpp/511"] and found["train"] == ["mbpp/601", "mbpp/974"]
    assert len(load_problems(f"mbpp:{path}").problems) == 7


@needs_data
def test_the_published_files_are_read_whole():
    full = load_problems(f"mbpp:{MBPP}/mbpp.jsonl", strict=True).problems
    sanitized = load_problems(f"mbpp_sanitized:{MBPP}/sanitized-mbpp.json", strict=True).problems
    assert len(full) == 974 and len(sanitized) == 427
    assert (
        sum(bool(p.hidden_tests) for p in full) == 500 and sum(bool(p.hidden_tests) for p in sanitized) == 257
    )
    assert all(p.entry_point in p.question for p in [*full, *sanitized])
