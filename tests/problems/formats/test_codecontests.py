"""CodeContests' published format, from a record as the datasets library gives it."""

import pytest

from o1jax.problems.formats.codecontests import problem_of
from o1jax.records import InputError, TestCase


def cases(*pairs):
    return {"input": [a for a, _ in pairs], "output": [b for _, b in pairs]}


RECORD = {
    "name": "1_A. Twice",
    "description": "Print twice the number.",
    "public_tests": cases(("1\n", "2\n")),
    "private_tests": cases(("2\n", "4\n")),
    "generated_tests": cases(("3\n", "6\n")),
    "solutions": {"language": [2, 3, 1], "solution": ["int main", "print(2 * int(input()))", "print 2"]},
    "difficulty": 8,
    "source": 2,
    "cf_tags": ["math", ""],
    "time_limit": {"seconds": 1, "nanos": 500_000_000},
    "memory_limit_bytes": 256_000_000,
    "input_file": "",
    "output_file": "",
}


def one(record, split="train"):
    return problem_of(record, 3, "file record 3", split)


def test_a_training_problem_has_all_tests_and_its_python_3_programs():
    problem = one(RECORD)
    assert problem.tests == tuple(TestCase(f"{i}\n", f"{2 * i}\n") for i in (1, 2, 3))
    assert problem.hidden_tests == () and problem.solutions == ("print(2 * int(input()))",)
    assert (problem.id, problem.source, problem.difficulty) == (
        "codecontests/train/3",
        "codecontests/codeforces",
        "B",
    )
    assert (problem.tags, problem.time_limit_s, problem.memory_limit_mb) == (("math",), 1.5, 244)


def test_of_an_evaluation_problem_search_sees_the_public_tests_only():
    problem = one(RECORD, "test")
    assert problem.tests == (TestCase("1\n", "2\n"),) and len(problem.hidden_tests) == 2
    bare = RECORD | {"private_tests": cases(), "generated_tests": cases()}
    assert one(bare, "valid").hidden_tests == one(bare, "valid").tests


def test_limits_that_are_not_given_are_the_judges():
    problem = one(RECORD | {"time_limit": None, "memory_limit_bytes": 0, "difficulty": 0, "source": 99})
    assert (problem.time_limit_s, problem.memory_limit_mb, problem.difficulty) == (0.0, 0, "")
    assert problem.source == "codecontests/unknown"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"description": ""}, "field 'description': saw '', wanted text"),
        ({"public_tests": None}, "field 'public_tests': saw None, wanted an object"),
        ({"public_tests": {"input": ["1"], "output": []}}, "saw 1 inputs and 0 outputs"),
        ({"private_tests": {"input": [1], "output": ["1"]}}, "field 'private_tests' field 'input'"),
        ({"solutions": {"language": [3], "solution": []}}, "field 'solutions'"),
        ({"cf_tags": "math"}, "field 'cf_tags': saw 'math', wanted a list of texts"),
        (
            {"time_limit": {"seconds": "1"}},
            "field 'time_limit' field 'seconds': saw '1', wanted a whole number",
        ),
        ({"memory_limit_bytes": -1}, "field 'memory_limit_bytes': saw -1, wanted 0 or more"),
        ({"difficulty": "A"}, "field 'difficulty': saw 'A', wanted a whole number"),
        ({"input_file": "in.txt"}, "field 'input_file': saw 'in.txt', wanted standard streams"),
        (
            {f"{kind}_tests": cases() for kind in ("public", "private", "generated")},
            "saw no test in any field",
        ),
    ],
)
def test_a_malformed_record_is_named_with_its_field(change, message):
    with pytest.raises(InputError) as caught:
        one(RECORD | change)
    assert str(caught.value).startswith("file record 3 field") and message in str(caught.value)
