"""Pairs and step labels as examples: who has weight where, and what is refused."""

import dataclasses

import pytest

from o1jax.batches.encode import (
    encode_pair,
    encode_step_labels,
    encode_step_pair,
    independent,
    with_column,
)
from o1jax.batches.stream import Batches
from o1jax.records import InputError, PreferencePair, StepLabel, StepPair

PAIR = PreferencePair("a>b", "p", (1, 2), (3, 4, 5), (6,))
STEP_PAIR = StepPair("a>b", "p", (1, 2), (3, 4), (5,), 0.75, 0.25)
LABEL = StepLabel("leaf", "p", (1, 2), (3, 4, 5, 6), (1, 2, 3), (0.5, 0.25, 0.0), (1.0, 1.0, 0.0), (4, 2, 0))


def test_a_pair_is_two_parts_with_weight_on_the_answers():
    example = encode_pair(PAIR)
    assert example.id == "a>b" and example.parts == (5, 3) and not example.columns
    assert example.token_ids == (1, 2, 3, 4, 5, 1, 2, 6)
    assert example.weights == (0, 0, 1, 1, 1, 0, 0, 1)


def test_the_weight_of_an_answers_first_token_lies_where_it_is_predicted():
    batch = Batches([encode_pair(PAIR)], row_length=9, rows_per_batch=1, seed=0).at(0)
    assert batch["weights_BT"].tolist() == [[0, 1, 1, 1, 0, 0, 1, 0, 0]]
    assert batch["targets_BT"].tolist() == [[2, 3, 4, 5, 0, 2, 6, 0, 0]]


@pytest.mark.parametrize("kind, labels", [("soft", (0.5, 0.25, 0.0)), ("hard", (1.0, 1.0, 0.0))])
def test_step_labels_lie_at_their_steps_last_tokens(kind, labels):
    example = encode_step_labels(LABEL, kind)
    assert example.token_ids == (1, 2, 3, 4, 5, 6) and example.weights == (0,) * 6
    assert example.columns["label"] == (0, 0, 0, *labels)
    assert example.columns["label_weight"] == (0, 0, 0, 1, 1, 0), "a step without leaves has no weight"
    assert example.columns["program_tokens"] == (0, 0, 0, 0, 0, 1), "the last step is the program"


def test_over_all_its_paths_a_step_weighs_as_many_independent_samples_as_its_leaves_are():
    label = dataclasses.replace(LABEL, n_leaves=(7, 2, 0), n_paths=(5, 2, 1))
    weights = encode_step_labels(label, "soft", "leaves").columns["label_weight"][3:]
    assert weights == (pytest.approx(2.8 / 5), pytest.approx(1.6 / 2), 0), (
        "7 / (1 + 6 / 4) and 2 / (1 + 1 / 4)"
    )
    assert independent(1) == 1 and 3.9 < independent(1000) < 4
    assert encode_step_labels(label, "soft").columns["label_weight"][3:] == (1, 1, 0)


def test_a_step_pair_has_weight_at_the_last_token_of_each_part():
    example = encode_step_pair(STEP_PAIR)
    assert example.parts == (4, 3) and example.token_ids == (1, 2, 3, 4, 1, 2, 5)
    assert example.weights == (0,) * 7
    assert example.columns["label_weight"] == (0, 0, 0, 1, 0, 0, 1)
    assert example.columns["program_tokens"] == (0,) * 7
    program = dataclasses.replace(STEP_PAIR, chosen_is_program=True)
    assert encode_step_pair(program).columns["program_tokens"] == (0, 0, 0, 2, 0, 0, 0)
    batch = Batches([example], row_length=8, rows_per_batch=1, seed=0).at(0)
    assert batch["label_weight_BT"].tolist() == [[0, 0, 0, 1, 0, 0, 1, 0]]


@pytest.mark.parametrize("change", [{"prompt_ids": ()}, {"chosen_ids": ()}, {"rejected_ids": ()}])
def test_pairs_with_an_empty_side_are_named(change):
    with pytest.raises(InputError, match="'a>b'.*none may be empty"):
        encode_pair(dataclasses.replace(PAIR, **change))


@pytest.mark.parametrize("change", [{"prefix_ids": ()}, {"chosen_ids": ()}, {"rejected_ids": ()}])
def test_step_pairs_with_an_empty_side_are_named(change):
    with pytest.raises(InputError, match="'a>b'.*none may be empty"):
        encode_step_pair(dataclasses.replace(STEP_PAIR, **change))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"answer_ids": ()}, "none may be empty"),
        ({"step_ends": (1, 2, 4)}, "must ascend within 4"),
        ({"step_ends": (-1, 2, 3)}, "must ascend"),
        ({"step_ends": (2, 1, 3)}, "must ascend"),
        ({"step_ends": (1, 1, 3)}, "must ascend"),
        ({"step_ends": (1, 3)}, "2 steps, 3 labels"),
        ({"n_leaves": (1,)}, "1 n_leaves"),
        ({"n_paths": (1,)}, r"n_paths \(1,\); wanted at least 1"),
        ({"n_paths": (1, 0, 1)}, r"n_paths \(1, 0, 1\)"),
        ({"soft": (0.5, 1.5, 0.0)}, r"must lie in \[0, 1\]"),
        ({"soft": (0.5, float("nan"), 0.0)}, r"must lie in \[0, 1\]"),
    ],
)
def test_malformed_step_labels_are_named(change, message):
    with pytest.raises(InputError, match=f"'leaf'.*{message}"):
        encode_step_labels(dataclasses.replace(LABEL, **change), "soft")


def test_a_column_is_added_or_replaced_and_has_one_value_a_token():
    example = with_column(encode_pair(PAIR), "reference", [-1.0] * 8)
    assert example.columns == {"reference": (-1.0,) * 8}
    assert with_column(example, "reference", range(8)).columns == {"reference": tuple(range(8))}
    with pytest.raises(InputError, match="'a>b': 7 values of 'reference' for 8 tokens"):
        with_column(example, "reference", [0.0] * 7)
