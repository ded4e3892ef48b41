"""JSON lines and the loader: exact round trips, and one clear line for whatever is malformed."""

import dataclasses
import gzip
import json

import pytest

from o1jax.problems.ladder import problems as ladder
from o1jax.problems.load import load_problems
from o1jax.records import InputError, Problem, TestCase
from o1jax.store import read_records, write_records

GOOD = {
    "id": "a",
    "question": "Add.",
    "form": "call",
    "entry_point": "add",
    "tests": [{"input": "[1]", "output": "2"}],
}


def written(tmp_path, *records):
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in records))
    return str(path)


def test_problems_round_trip_exactly(tmp_path):
    problems = ladder.make_problems("held_out", {1: 5, 3: 5}, seed=0)
    problems.append(
        Problem(
            "ü/1",
            "Zähle ☃.\n",
            "assertion",
            (TestCase("assert f() == 'é\\n'"),),
            setup="x = 1",
            time_limit_s=1.5,
        )
    )
    problems.append(Problem("half", "a lone \ud800 and a \\ud800", "stdin", grader="unordered"))
    path = written(tmp_path, *map(dataclasses.asdict, problems))
    assert load_problems(path, strict=True).problems == tuple(problems)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"questions": "?"}, "record 1: unknown field 'questions'"),
        ({"question": ""}, "record 1 field 'question': missing or empty"),
        ({"id": None}, "record 1 field 'id': missing or empty"),
        ({"question": 5}, "record 1 field 'question': saw int, wanted str"),
        ({"form": "file"}, "record 1 field 'form': saw 'file'"),
        ({"entry_point": ""}, "record 1 field 'entry_point'"),
        ({"tests": {}}, "record 1 field 'tests': saw dict, wanted list"),
        ({"tests": [{"output": "1"}]}, "record 1 field 'tests': saw a test with"),
        ({"hidden_tests": [{"input": 1}]}, "record 1 field 'hidden_tests': saw int, wanted str"),
        ({"solutions": "print(1)"}, "record 1 field 'solutions': saw str, wanted list"),
        ({"reasoning": [[{"action": 4, "text": ""}]]}, "record 1 field 'reasoning'"),
        ({"time_limit_s": True}, "record 1 field 'time_limit_s': saw bool"),
        ({"json_values": 1}, "record 1 field 'json_values': saw int, wanted bool"),
        ({"grader": 1}, "record 1 field 'grader': saw int, wanted str"),
        ({"grader": "exact"}, "record 1 field 'grader': saw 'exact', wanted one of ('', 'value_or_item'"),
        (
            {"form": "stdin", "grader": "mbpp"},
            "record 1 field 'grader': saw 'mbpp', wanted one of ('', 'exact'",
        ),
        ({"time_limit_s": float("inf")}, "record 1 field 'time_limit_s': saw inf, wanted 0"),
        ({"time_limit_s": float("nan")}, "record 1 field 'time_limit_s': saw nan, wanted 0"),
        ({"memory_limit_mb": -1}, "record 1 field 'memory_limit_mb': saw -1, wanted 0"),
        ({"id": "a"}, "record 1 field 'id': 'a' seen before"),
    ],
)
def test_a_malformed_record_is_named_with_its_field(tmp_path, change, message):
    path = written(tmp_path, GOOD, GOOD | {"id": "b"} | change)
    with pytest.raises(InputError) as caught:
        load_problems(path, strict=True)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no problems in it"),
        ("[]", "no problems in it"),
        ("\n\n", "no problems in it"),
        ('{"id": "a"', "record 0: not JSON"),
        ("[{]", "not JSON"),
        ('{"memory_limit_mb": ' + "1" * 200_000 + "}", "record 0: not JSON (an integer of more"),
        ("[" * 100_000 + "]" * 100_000, "not JSON"),
        ("3\n", "record 0: saw int, wanted a JSON object"),
        ("[1, 2]", "record 0: saw int, wanted a JSON object"),
        ('{"prompt": "?"}\n', "wanted 'form' (ours) or 'input_output' (TACO)"),
    ],
)
def test_a_file_without_problems_is_refused(tmp_path, text, message):
    with pytest.raises(InputError) as caught:
        load_problems(written(tmp_path, text))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_problems(str(tmp_path / "none.jsonl"))
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a UTF-8 text file"):
        load_problems(str(tmp_path / "binary.jsonl"))


def test_gzip_parquet_and_directories_are_read(tmp_path):
    path = tmp_path / "problems.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(GOOD) + "\n").encode()))
    (problem,) = load_problems(str(path)).problems
    write_records(tmp_path / "prepared" / "problems.parquet", Problem, [problem])
    assert load_problems(str(tmp_path / "prepared" / "problems.parquet")).problems == (problem,)
    assert load_problems(str(tmp_path / "prepared")).problems == (problem,)


def test_problems_round_trip_through_parquet(tmp_path):
    problems = ladder.make_problems("held_out", {1: 5, 3: 5}, seed=0)
    problems.append(Problem("a", "?", "stdin", grader="fold_case"))
    write_records(tmp_path / "problems.parquet", Problem, problems)
    assert read_records(tmp_path / "problems.parquet", Problem) == problems
    assert load_problems(str(tmp_path), strict=True).problems == tuple(problems)


@pytest.mark.parametrize("name", ["cut.jsonl.gz", "cut.parquet"])
def test_a_damaged_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(b"{}")[:-4] if name.endswith("gz") else b"PAR1")
    with pytest.raises(InputError, match=f"{name}: not a whole"):
        load_problems(str(tmp_path / name))


def test_a_byte_order_mark_and_a_first_record_without_form_are_no_obstacle(tmp_path):
    path = tmp_path / "problems.jsonl"
    lines = ['{"id": "a"}', '{"id": "b", "question": "q", "form": "stdin"}']
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    loaded = load_problems(str(path))
    assert [problem.id for problem in loaded.problems] == ["b"] and len(loaded.malformed) == 1


def test_malformed_records_are_left_out_with_a_line_each(tmp_path):
    path = written(tmp_path, GOOD, GOOD | {"id": "b", "form": "file"}, GOOD)
    loaded = load_problems(path)
    assert [p.id for p in loaded.problems] == ["a"]
    assert "record 1 field 'form'" in loaded.malformed[0] and "record 2 field 'id'" in loaded.malformed[1]
    with pytest.raises(InputError, match="record 0 field 'form'"):
        load_problems(written(tmp_path, GOOD | {"form": "file"}))


def test_an_unknown_split_is_taken_for_a_file():
    with pytest.raises(InputError, match="valid: no such file"):
        load_problems("mbpp:valid")
