"""A bucket holds what a disk would: files that grow, who was first, tokenizers and checkpoints."""

import json
import threading

import bucket
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from o1jax import buckets, writing
from o1jax.buckets import create_if_absent, on_disk
from o1jax.prompts import nano_tokenizer
from o1jax.prompts.chat import load_tokenizer, save_tokenizer
from o1jax.records import InputError, TestCase
from o1jax.report.run_files import RunFiles
from o1jax.store import ShardWriter, read_shards
from o1jax.train.checkpoint import Checkpoints
from o1jax.train.metrics import MetricsLog
from o1jax.writing import GrowingFile, read_growing, write_whole


@pytest.fixture
def root(monkeypatch):
    monkeypatch.setattr(buckets, "FIRST_WAIT_S", 0.001)
    return epath.Path(bucket.opened()) / "run"


@pytest.fixture(params=["disk", "bucket"])
def place(request, tmp_path, root):
    return epath.Path(tmp_path) if request.param == "disk" else root


def test_a_bucket_path_is_absolute_and_its_package_is_named(root, monkeypatch):
    assert buckets.absolute(root) == root and str(root / "a") == "s3://bucket/run/a"
    assert buckets.scheme(root) == "s3" and not buckets.is_bucket("/s3/a")
    assert buckets.package_missing(root) == "" and buckets.package_missing("/tmp") == ""
    assert buckets.package_missing("odd://a") == "odd"


def test_of_many_that_create_a_file_one_does_and_its_contents_are_whole(place):
    path = place / "lease"
    write_whole(place / "other", "")
    created = []

    def claim(number):
        if create_if_absent(path, b"%d" % number * 1000):
            created.append(number)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(created) == 1 and path.read_bytes() == b"%d" % created[0] * 1000
    assert not create_if_absent(path, b"") and not list(place.glob("*.part"))


def test_a_busy_store_is_asked_again_and_one_that_stays_busy_is_an_error(root, monkeypatch):
    bucket.REFUSED.clear()
    for number in range(6):
        write_whole(root / str(number), str(number))
    assert bucket.REFUSED and [(root / str(k)).read_text() for k in range(6)] == list("012345")
    monkeypatch.setattr(bucket, "WRITES", iter([3] * 99))
    with pytest.raises(OSError, match="429"):
        write_whole(root / "a", "")


def test_a_file_grows_is_cut_and_goes_on(place, monkeypatch):
    log = GrowingFile(place / "a.log")
    for text in ("é\n", "b\n"):
        log.write(text)
        log.flush()
    log.close()
    assert read_growing(place / "a.log") == "é\nb\n" and not writing.parts_of(place / "a.log")
    log = GrowingFile(place / "a.log")
    log.write("c\n")
    log.close()
    assert read_growing(place / "a.log") == "é\nb\nc\n"


def test_metrics_are_cut_and_go_on_and_the_report_reads_them_meanwhile(place):
    with MetricsLog(place, 0) as log:
        for step in range(1, 6):
            log.write(step, {"loss": 1.0})
    with MetricsLog(place, 3) as log:
        log.write(4, {"loss": 2.0})
        log.flush()
        parts = [place / "metrics.jsonl.000001"] if buckets.is_bucket(place) else []
        buckets.until_listed(parts)
        rows = RunFiles(place).json_lines(place / "metrics.jsonl")
        assert [(row["step"], row["loss"]) for row in rows] == [(1, 1), (2, 1), (3, 1), (4, 2)]
    rows = [json.loads(line) for line in read_growing(place / "metrics.jsonl").splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    buckets.until_listed([place / "tensorboard"])
    assert list((place / "tensorboard").iterdir())


def test_shards_are_read_as_soon_as_their_writer_has_ended(place):
    with ShardWriter(place / "trees", TestCase, rows=2) as shards:
        for number in range(5):
            shards.append(TestCase(str(number)))
    assert sorted(case.input for case in read_shards(place / "trees", TestCase)) == list("01234")


def test_a_tokenizer_comes_back_and_a_missing_one_is_named(root):
    tokenizer = nano_tokenizer.train(["print(input())\n", "def f(x):\n    return x\n"] * 4, 300)
    save_tokenizer(str(root / "tokenizer"), tokenizer)
    buckets.until_listed([root / "tokenizer/tokenizer.json", root / "tokenizer/generation_config.json"])
    loaded = load_tokenizer(str(root / "tokenizer"))
    assert loaded.get_vocab() == tokenizer.get_vocab() and loaded.name_or_path == str(root / "tokenizer")
    with pytest.raises(InputError, match="no tokenizer at 's3://bucket/run/none'"):
        load_tokenizer(str(root / "none"))
    write_whole(root / "odd/tokenizer.json", "no JSON")
    buckets.until_listed([root / "odd/tokenizer.json"])
    with pytest.raises(InputError, match="s3://bucket/run/odd"):
        load_tokenizer(str(root / "odd"))


def test_checkpoints_are_saved_kept_and_restored_and_half_a_copy_does_not_count(root):
    def arrays(step):
        return {"state": {"a": jnp.full((3, 4), step, jnp.float32)}}

    with Checkpoints(root / "checkpoints") as checkpoints:
        for step in range(1, 5):
            checkpoints.save(step, arrays(step), {"step": step}, keep=(1,))
        checkpoints.wait()
        buckets.until_listed([root / f"checkpoints/{step}" for step in (3, 4)])
        assert checkpoints.steps() == [1, 3, 4]
    (root / "checkpoints/4/whole").unlink()
    with Checkpoints(root / "checkpoints") as checkpoints:
        assert (
            checkpoints.steps() == [1, 3] and checkpoints.latest == 3 and checkpoints.meta(3) == {"step": 3}
        )
        assert np.array_equal(checkpoints.restore(3, arrays(0))["state"]["a"], arrays(3)["state"]["a"])


def test_what_only_a_disk_can_hold_is_fetched(root, tmp_path):
    write_whole(root / "model/config.json", "{}")
    write_whole(root / "model/more/a", "")
    buckets.until_listed([root / "model/config.json", root / "model/more/a"])
    copy = epath.Path(on_disk(root / "model", lambda path: path.name != "more"))
    assert copy.name == "model" and [path.name for path in copy.iterdir()] == ["config.json"]
    assert on_disk(tmp_path) == str(tmp_path) and on_disk(root / "none") == str(root / "none")
