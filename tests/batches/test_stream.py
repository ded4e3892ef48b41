"""Batches are a function of the step; packed sequences stay apart; process slices make the whole."""

import numpy as np
import pytest

from o1jax.batches.encode import Example, encode_pushed, encode_sft, keep_short, without_pushes
from o1jax.batches.stream import Batches, Rotation
from o1jax.records import InputError, SftSample


def example(i: int, n: int) -> Example:
    """Example i holds the tokens 100 i + 1, 100 i + 2, ...; its first two are the prompt."""
    tokens = tuple(100 * i + t for t in range(1, n + 1))
    return Example(f"e{i}", tokens, (0.0, 0.0) + (1.0 + i,) * (n - 2))


EXAMPLES = [example(i, 4 + i % 7) for i in range(20)]


def batches(**changes) -> Batches:
    return Batches(EXAMPLES, **{"row_length": 16, "rows_per_batch": 4, "seed": 3} | changes)


def test_encode_sft_trains_on_the_answer_only_times_the_samples_weight():
    sample = SftSample("s", "p", (5, 6), (7, 8, 9), (True, False, True), weight=0.5)
    assert encode_sft(sample) == Example("s", (5, 6, 7, 8, 9), (0, 0, 0.5, 0, 0.5))


@pytest.mark.parametrize(
    "sample",
    [
        SftSample("bad", "p", (5,), (7, 8), (True,)),
        SftSample("bad", "p", (), (7,), (True,)),
        SftSample("bad", "p", (5,), (7,), (False,)),
    ],
)
def test_encode_sft_names_a_sample_that_cannot_be_trained_on(sample):
    with pytest.raises(InputError, match="'bad'"):
        encode_sft(sample)


def test_packing_never_mixes_sequences():
    stream = batches()
    for batch in stream.epoch():
        for row in range(4):
            segments = batch["segment_ids_BT"][row]
            for segment in range(1, segments.max() + 1):
                (at,) = np.nonzero(segments == segment)
                want = EXAMPLES[batch["example_id_BT"][row, at[0]]]
                assert (np.diff(at) == 1).all()
                assert tuple(batch["tokens_BT"][row, at]) == want.token_ids
                assert tuple(batch["targets_BT"][row, at]) == (*want.token_ids[1:], 0)
                assert tuple(batch["weights_BT"][row, at]) == (*want.weights[1:], 0)
                assert tuple(batch["positions_BT"][row, at]) == tuple(range(len(at)))
                assert set(batch["example_id_BT"][row, at]) == {EXAMPLES.index(want)}


def test_padding_has_no_weight_no_segment_and_no_example():
    *_, last = batches().epoch()
    padding = last["segment_ids_BT"] == 0
    assert padding[-1].all(), "the last batch of this epoch ends in an empty row"
    assert (last["weights_BT"][padding] == 0).all() and (last["example_id_BT"][padding] == -1).all()


def test_an_epoch_holds_every_example_once_and_the_next_follows():
    stream = batches()
    n = len(stream.plan(0))
    first = [i for step in range(n) for i in stream.ids_at(step)]
    second = [i for step in range(n, n + len(stream.plan(1))) for i in stream.ids_at(step)]
    assert sorted(first) == sorted(second) == sorted(e.id for e in EXAMPLES) and first != second


def test_any_step_can_be_asked_for_in_any_order():
    stream, fresh = batches(), batches()
    forwards = [stream.at(step) for step in range(30)]
    for step in (29, 3, 17):
        again = fresh.at(step)
        assert all((again[key] == forwards[step][key]).all() for key in again)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_process_slices_union_to_the_global_batch(processes):
    stream, share = batches(), 4 // processes
    for step in (0, 5):
        whole = stream.at(step)
        parts = [batches().at(step, range(p * share, (p + 1) * share)) for p in range(processes)]
        assert all((np.concatenate([p[key] for p in parts]) == whole[key]).all() for key in whole)


def test_shapes_and_dtypes_never_change():
    seen = {tuple((k, v.shape, v.dtype) for k, v in batches().at(s).items()) for s in range(12)}
    assert len(seen) == 1


def test_an_example_longer_than_a_row_is_named_or_dropped_by_choice():
    with pytest.raises(InputError, match="'e6' has 10 tokens.*keep_short"):
        batches(row_length=9)
    kept, dropped = keep_short(EXAMPLES, 9)
    assert dropped == 2 and len(kept) == 18


def pair(i: int, chosen: int, rejected: int) -> Example:
    """Two parts of `chosen` and `rejected` tokens, with a column that counts them."""
    n = chosen + rejected
    return Example(
        f"p{i}", tuple(range(1, n + 1)), (1.0,) * n, {"value": tuple(range(n))}, (chosen, rejected)
    )


def test_both_parts_of_a_pair_are_segments_of_one_row_with_positions_of_their_own():
    batch = Batches([pair(0, 3, 2)], row_length=7, rows_per_batch=1, seed=0).at(0)
    assert batch["segment_ids_BT"].tolist() == [[1, 1, 1, 2, 2, 0, 0]]
    assert batch["positions_BT"].tolist() == [[0, 1, 2, 0, 1, 0, 0]]
    assert batch["targets_BT"].tolist() == [[2, 3, 0, 5, 0, 0, 0]]
    assert batch["weights_BT"].tolist() == [[1, 1, 0, 1, 0, 0, 0]]
    assert batch["value_BT"].tolist() == [[0, 1, 2, 3, 4, 0, 0]]


def test_the_chosen_part_of_every_pair_is_an_odd_segment():
    batch = Batches([pair(i, 3, 2) for i in range(3)], row_length=16, rows_per_batch=1, seed=0).at(0)
    assert batch["segment_ids_BT"].tolist() == [[1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5, 5, 5, 6, 6, 0]]


def test_examples_of_two_kinds_are_refused():
    with pytest.raises(InputError, match="2 kinds"):
        Batches([pair(0, 3, 2), example(0, 4)], row_length=16, rows_per_batch=1, seed=0)


def test_a_changed_column_changes_the_digest():
    changed = Example("p0", (1, 2, 3), (1.0,) * 3, {"value": (0.0, 0.0, 1.0)})
    same = Example("p0", (1, 2, 3), (1.0,) * 3, {"value": (0.0, 0.0, 2.0)})
    digests = {Batches([e], row_length=4, rows_per_batch=1, seed=0).digest() for e in (changed, same)}
    assert len(digests) == 2


def in_epoch(stream: Batches, epoch: int) -> list[int]:
    return sorted(i for batch in stream.plan(epoch) for row in batch for i in row)


def test_examples_that_take_turns_all_come_before_one_comes_again():
    stream = batches(rotation=Rotation(first=12, count=3))
    epochs = [in_epoch(stream, epoch) for epoch in range(8)]
    assert all(epoch[:12] == list(range(12)) and len(epoch) == 15 for epoch in epochs)
    turns = [i for epoch in epochs for i in epoch[12:]]
    assert all(turns.count(i) == 3 for i in range(12, 20))
    assert len({i for epoch in epochs[:2] for i in epoch[12:]}) == 6  # of 8
    assert in_epoch(batches(rotation=Rotation(first=12, count=3)), 5) == epochs[5]
    assert [in_epoch(batches(seed=4, rotation=Rotation(12, 3)), epoch) for epoch in range(8)] != epochs


def test_few_examples_take_more_than_one_turn_an_epoch():
    stream = batches(rotation=Rotation(first=18, count=5))
    counts = [in_epoch(stream, epoch)[18:] for epoch in range(2)]
    assert sorted(counts[0] + counts[1]) == [18] * 5 + [19] * 5


def test_a_rotation_is_part_of_what_decides_the_batches():
    assert batches(rotation=Rotation(12, 3)).digest() != batches(rotation=Rotation(12, 4)).digest()
    assert batches(rotation=Rotation(12, 3)).digest() != batches().digest()
    with pytest.raises(InputError, match="wanted some that take turns"):
        batches(rotation=Rotation(20, 3))


def test_a_pushed_answers_columns_stand_where_its_tokens_are_predicted():
    pushed = encode_pushed("s", (5, 6), (7, 8, 9), (0.5, 0, 0), (0, 0, 0.25), (-1, -2, -3))
    assert pushed.token_ids == (5, 6, 7, 8, 9) and pushed.weights == (0, 0, 0.5, 0, 0)
    assert pushed.columns == {"push": (0, 0, 0, 0.25, 0), "behaviour": (0, -1, -2, -3, 0)}
    plain = without_pushes(encode_sft(SftSample("t", "p", (5,), (7,), (True,))))
    assert plain.columns == {"push": (0, 0), "behaviour": (0, 0)} and plain.weights == (0, 1)
    with pytest.raises(InputError, match="2 values of 'push' for 3 answer tokens"):
        encode_pushed("s", (5, 6), (7, 8, 9), (0.5, 0, 0), (0, 0), (-1, -2, -3))
