"""Published sets by name: what is asked of the datasets library, and what becomes of its records."""

import sys
import types

import pytest

from o1jax.problems import load
from o1jax.records import InputError

HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "def f():\n",
    "entry_point": "f",
    "canonical_solution": "    return 1\n",
    "test": "def check(candidate):\n    assert candidate() == 1\n",
}


@pytest.fixture
def asked(monkeypatch):
    """What was asked, of a library that has one HumanEval record in every split of everything."""
    calls = []

    def load_dataset(*names, split, data_files=None):
        calls.append((*names, *(data_files or {}).values(), split))
        return [HUMANEVAL]

    errors = types.SimpleNamespace(DatasetsError=type("DatasetsError", (Exception,), {}))
    library = types.SimpleNamespace(load_dataset=load_dataset, exceptions=errors)
    monkeypatch.setitem(sys.modules, "datasets", library)
    return calls


def test_a_name_alone_is_all_splits(asked):
    assert [p.id for p in load.load_problems("humaneval").problems] == ["humaneval/0"]
    assert asked == [("openai/openai_humaneval", None, "test")]
    with pytest.raises(InputError, match="codecontests:train record 0 field 'public_tests'"):
        load.load_problems("codecontests")
    assert [call[-1] for call in asked[1:]] == ["train", "valid", "test"]


@pytest.mark.parametrize(
    "source, call",
    [
        ("mbpp:test", ("google-research-datasets/mbpp", "full", "test")),
        ("mbpp_sanitized:prompt", ("google-research-datasets/mbpp", "sanitized", "prompt")),
        ("humaneval_plus:test", ("evalplus/humanevalplus", None, "test")),
        ("codecontests:valid", ("deepmind/code_contests", None, "valid")),
        (
            "apps:train",
            (
                "parquet",
                "hf://datasets/codeparrot/apps@refs/convert/parquet/all/train/*.parquet",
                "train",
            ),
        ),
    ],
)
def test_a_split_is_asked_for_under_its_published_name(asked, source, call):
    try:
        load.load_problems(source)
    except InputError as error:
        assert f"{source} record 0 field" in str(error)
    assert asked == [call]


def test_every_set_has_a_file_form(tmp_path):
    for name in load.SETS:
        with pytest.raises(InputError, match="none.jsonl: no such file"):
            load.load_problems(f"{name}:{tmp_path}/none.jsonl")
