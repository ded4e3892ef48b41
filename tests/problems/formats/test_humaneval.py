"""HumanEval's format, and EvalPlus's files in it."""

import pathlib

import pytest

from o1jax.problems.formats.humaneval import problem_of
from o1jax.problems.load import load_problems
from o1jax.records import InputError

DATA = pathlib.Path(__file__).parents[4] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"no data sets at {DATA}")

RECORD = {
    "task_id": "HumanEval/7",
    "prompt": 'def add(x):\n    """Add one."""\n',
    "entry_point": "add",
    "canonical_solution": "    return x + 1\n",
    "test": "def check(candidate):\n    assert candidate(1) == 2\n",
}


def test_the_program_goes_on_from_the_prompt_and_the_check_is_hidden():
    problem = problem_of(RECORD, 0, "file record 0")
    assert problem.id == "humaneval/7" and problem.starter_code == RECORD["prompt"] and not problem.tests
    assert problem.solutions == ('def add(x):\n    """Add one."""\n    return x + 1\n',)
    assert problem.hidden_tests[0].input.endswith("\ncheck(add)") and "`add`" in problem.question


def test_evalplus_has_the_same_ids_and_more_room():
    more = RECORD | {"test": "def check(candidate):\n    inputs = [[1]]\n    results = [2]\n"}
    problem = problem_of(more, 0, "file record 0")
    assert (
        problem.id == "humaneval/7" and problem.source == "humaneval_plus" and problem.memory_limit_mb > 512
    )


@pytest.mark.parametrize("field", RECORD)
def test_a_malformed_record_is_named_with_its_field(field):
    with pytest.raises(InputError, match=f"^file record 0 field '{field}': saw 7, wanted text"):
        problem_of(RECORD | {field: 7}, 0, "file record 0")


@needs_data
def test_the_published_files_are_read_whole():
    plain = load_problems(f"humaneval:{DATA}/humaneval/HumanEval.jsonl.gz").problems
    plus = load_problems(f"humaneval_plus:{DATA}/evalplus/HumanEvalPlus-OriginFmt.jsonl.gz").problems
    assert len(plain) == 164 and [p.id for p in plain] == [p.id for p in plus]
    assert {p.source for p in plain} == {"humaneval"} and {p.source for p in plus} == {"humaneval_plus"}
