"""The plan is pure, packs every example once, and packs well."""

import subprocess
import sys

import numpy as np
import pytest

from o1jax.batches import stream
from o1jax.batches.encode import Example
from o1jax.records import InputError

LENGTHS = np.random.RandomState(0).randint(5, 120, size=1000).tolist()


def rows_of(plan):
    return [row for batch in plan for row in batch]


def test_every_example_is_in_exactly_one_row_that_holds_it():
    plan = stream.plan(LENGTHS, seed=1, epoch=0, row_length=128, rows_per_batch=16)
    assert sorted(i for row in rows_of(plan) for i in row) == list(range(1000))
    assert all(sum(LENGTHS[i] for i in row) <= 128 for row in rows_of(plan))


def test_rows_fill_whole_batches_and_empty_rows_come_last():
    plan = stream.plan(LENGTHS, seed=1, epoch=0, row_length=128, rows_per_batch=16)
    rows = rows_of(plan)
    n_empty = sum(not row for row in rows)
    assert len(rows) % 16 == 0 and n_empty < 16
    assert all(rows[: len(rows) - n_empty])
    assert len(plan) * 16 == len(rows)


def test_packing_is_good():
    plan = stream.plan(LENGTHS, seed=1, epoch=0, row_length=128, rows_per_batch=1)
    assert sum(LENGTHS) / (len(plan) * 128) > 0.97


def test_plan_depends_on_seed_and_epoch_and_nothing_else():
    arguments = {"row_length": 128, "rows_per_batch": 16}
    first = stream.plan(LENGTHS, 1, 0, **arguments)
    assert first == stream.plan(LENGTHS, 1, 0, **arguments)
    assert first != stream.plan(LENGTHS, 1, 1, **arguments)
    assert first != stream.plan(LENGTHS, 2, 0, **arguments)


def test_plan_is_the_same_in_another_process():
    program = "from o1jax.batches.stream import plan; print(plan([3, 5, 4, 2, 6, 1], 7, 2, 8, 2))"
    seen = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert seen == {f"{stream.plan([3, 5, 4, 2, 6, 1], 7, 2, 8, 2)}\n"}


def test_rows_are_spread_over_the_epoch_not_sorted_by_length():
    plan = stream.plan(LENGTHS, seed=1, epoch=0, row_length=128, rows_per_batch=1)
    longest = [max(LENGTHS[i] for i in row) for row in rows_of(plan)]
    half = len(longest) // 2
    assert abs(np.mean(longest[:half]) - np.mean(longest[half:])) < 10


@pytest.mark.parametrize("segments", [1, 2, 3])
def test_a_row_has_no_more_segments_than_kernels_have_places_for(segments):
    n = 500
    plan = stream.plan([3] * n, 0, 0, 1024, 1, [segments] * n)
    assert sorted(i for row in rows_of(plan) for i in row) == list(range(n))
    most = stream.MOST_SEGMENTS // segments
    assert [len(row) for row in rows_of(plan)].count(most) == n // most
    mixed = stream.plan(LENGTHS, 0, 0, 4096, 1, [1 + i % 4 for i in range(len(LENGTHS))])
    assert sorted(i for row in rows_of(mixed) for i in row) == list(range(len(LENGTHS)))
    taken = [sum(1 + i % 4 for i in row) for row in rows_of(mixed)]
    assert max(taken) <= stream.MOST_SEGMENTS and max(len(row) for row in rows_of(mixed)) > 20


def test_the_segments_are_counted_where_batches_are_made():
    pairs = [Example(f"p{i}", (1, 2, 3, 4), (1.0,) * 4, parts=(2, 2)) for i in range(100)]
    batches = stream.Batches(pairs, row_length=512, rows_per_batch=1, seed=0)
    starts = [
        np.count_nonzero(np.diff(batch["segment_ids_BT"][0], prepend=0) > 0) for batch in batches.epoch()
    ]
    assert max(starts) == stream.MOST_SEGMENTS and sum(starts) == 200
    many = Example("many", (1,) * 70, (1.0,) * 70, parts=(1,) * 70)
    with pytest.raises(InputError, match="'many' has 70 parts, and a row takes 64"):
        stream.Batches([many], row_length=512, rows_per_batch=1, seed=0)


@pytest.mark.parametrize(
    "lengths, message", [([], "no examples"), ([4, 9], "example 1 has 9"), ([0], "example 0 has 0")]
)
def test_lengths_that_cannot_be_packed_are_refused(lengths, message):
    with pytest.raises(InputError, match=message):
        stream.plan(lengths, seed=0, epoch=0, row_length=8, rows_per_batch=1)
