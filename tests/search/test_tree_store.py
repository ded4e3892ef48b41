"""The Parquet store: exact round trips, damaged files named, kills and full disks lose nothing written."""

import asyncio
import errno
import pathlib
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scripted
from etils import epath

import o1jax
from o1jax import store
from o1jax import store as rows
from o1jax.records import (
    CaseResult,
    InputError,
    PreferencePair,
    Problem,
    Rollout,
    SftSample,
    Status,
    StepLabel,
    Tree,
    Verdict,
)

VERDICT = Verdict(
    True, (CaseResult(Status.AC, "", 0.1), CaseResult(Status.WA, "line 1: saw '2', wanted '3'")), "T0"
)
EXAMPLES = [
    SftSample("p#1", "p", (1, 2), (3, 4), (True, False), 0.5),
    StepLabel("p#1", "p", (1,), (2, 3), (0, 1), (0.25, 1.0), (0.0, 1.0), (4, 1)),
    PreferencePair("p#1>2", "p", (1,), (2,), (), 0.5),
    Rollout("p#0", "p", "p", (1,), (2,), (-0.1,), (True,), "eos", 0.8, 3, "direct", "1\n", VERDICT, 1.0),
    Rollout("p#1", "p", "p", (1,), (2,), (-0.1,), (True,), "length", 0.8, 3, "pseudocode", ""),
]


def test_texts_are_of_the_kind_that_parquet_reads_back_beyond_2_gib():
    tests = rows.schema_of(Problem).field("tests").type.value_type
    assert pa.types.is_large_string(tests.field("input").type)


@pytest.fixture(scope="module")
def trees():
    return asyncio.run(scripted.search_some(12))


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: type(record).__name__)
def test_records_come_back_equal(tmp_path, record):
    path = tmp_path / "deep" / "records.parquet"
    store.write_records(path, type(record), [record, record])
    assert store.read_records(path, type(record)) == [record, record]
    store.write_records(path, type(record), [])
    assert store.read_records(path, type(record)) == []


def test_trees_come_back_equal_and_in_problem_order(tmp_path, trees):
    with store.ShardWriter(tmp_path, Tree, rows=5) as writer:
        for tree in reversed(trees):
            writer.append(tree)
    assert len(list(tmp_path.iterdir())) == 3
    ids = [problem.id for problem in scripted.PROBLEMS]
    assert store.read_trees(tmp_path, ids) == trees
    assert [tree.problem_id for tree in store.read_trees(tmp_path)] == sorted(ids)
    assert store.read_trees(tmp_path, [ids[3], "unknown"]) == [trees[3]]


def test_equal_content_is_equal_bytes(tmp_path, trees):
    for name in ("one", "two"):
        store.write_records(tmp_path / name, Tree, trees)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_directory_that_is_not_there_holds_nothing(tmp_path):
    assert store.read_trees(tmp_path / "none") == []


def test_a_missing_a_truncated_and_a_foreign_file_are_named(tmp_path, trees):
    path = tmp_path / "trees.parquet"
    with pytest.raises(InputError, match="trees.parquet: no such file"):
        store.read_records(path, Tree)
    store.write_records(path, Tree, trees)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="trees.parquet: not a whole Parquet file") as caught:
        store.read_trees(tmp_path)
    assert "\n" not in str(caught.value)
    store.write_records(path, SftSample, EXAMPLES[:1])
    with pytest.raises(InputError, match="not a whole Parquet file of Tree"):
        store.read_records(path, Tree)


def test_a_half_written_part_is_ignored(tmp_path, trees):
    with store.ShardWriter(tmp_path, Tree) as writer:
        writer.append(trees[0])
    (tmp_path / "ffff.parquet.part").write_bytes(b"PAR1 half")
    assert store.read_trees(tmp_path) == [trees[0]]


def test_pending_trees_are_written_after_some_seconds(tmp_path, trees):
    writer = store.ShardWriter(tmp_path, Tree, rows=99, seconds=0.0)
    writer.append(trees[0])
    assert store.read_trees(tmp_path) == [trees[0]]


def test_a_full_disk_is_one_line_and_loses_nothing_written(tmp_path, trees, monkeypatch):
    writer = store.ShardWriter(tmp_path, Tree, rows=1)
    writer.append(trees[0])

    def no_space(self, data):
        pathlib.Path(self).open("wb").write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(epath.Path(tmp_path)), "write_bytes", no_space)
    with pytest.raises(InputError, match="the disk is full; free some space") as caught:
        writer.append(trees[1])
    assert "\n" not in str(caught.value)
    assert store.read_trees(tmp_path) == [trees[0]]
    assert not list(tmp_path.glob("*.part"))
    monkeypatch.undo()
    writer.flush()  # once there is room
    assert store.read_trees(tmp_path) == sorted(trees[:2], key=lambda tree: tree.problem_id)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, trees):
    (tmp_path / "a.parquet").mkdir()
    with pytest.raises(OSError, match="a.parquet"):
        store.read_records(tmp_path / "a.parquet", Tree)


def test_a_killed_search_goes_on_to_the_same_trees(tmp_path, trees):
    environment = {"PYTHONPATH": str(pathlib.Path(o1jax.__file__).parents[1]), "PATH": ""}
    script = pathlib.Path(scripted.__file__)
    with subprocess.Popen([sys.executable, str(script), str(tmp_path / "trees")], env=environment) as child:
        deadline = time.monotonic() + 30
        while len(store.read_trees(tmp_path / "trees")) < 3 and child.poll() is None:
            time.sleep(0.01)
            assert time.monotonic() < deadline
        child.kill()
    saved = store.read_trees(tmp_path / "trees")
    assert 3 <= len(saved) < len(trees) and child.returncode == -9
    writer = store.ShardWriter(tmp_path / "trees", Tree)
    assert (
        asyncio.run(scripted.search_and_keep(scripted.searcher_of(), scripted.PROBLEMS, writer, 64)) == trees
    )


def test_an_interrupted_search_keeps_its_finished_trees(tmp_path, trees):
    async def interrupted():
        writer = store.ShardWriter(tmp_path, Tree)
        search = scripted.search_and_keep(scripted.searcher_of(), scripted.PROBLEMS, writer, 1)
        task = asyncio.create_task(search)
        while not writer._pending:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(interrupted())
    saved = store.read_trees(tmp_path)
    assert saved and all(tree in trees for tree in saved)


def test_a_file_from_before_a_field_was_gives_the_fields_default_and_one_without_more_is_named(tmp_path):
    place = epath.Path(tmp_path) / "rollouts.parquet"
    store.write_records(place, Rollout, [EXAMPLES[-1]])
    table = pq.read_table(place)
    pq.write_table(table.drop_columns(["reward"]), place)
    assert store.read_records(place, Rollout) == [EXAMPLES[-1]]
    pq.write_table(table.drop_columns(["token_ids"]), place)
    with pytest.raises(InputError, match="token_ids"):
        store.read_records(place, Rollout)
