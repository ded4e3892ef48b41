"""Checkpoints come back bit for bit, or are refused in one line that says what to do."""

import json
import pathlib
import shutil
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from etils import epath

from o1jax.parallel.mesh import make_mesh
from o1jax.parallel.processes import Process
from o1jax.prompts import nano_tokenizer
from o1jax.records import InputError
from o1jax.train import integrity
from o1jax.train.checkpoint import Checkpoints, load_policy, save_policy


@pytest.fixture(scope="module")
def policy_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "policy"
    tokenizer = nano_tokenizer.train(["print(input())\n", "def f(x):\n    return x\n"] * 4, 300)
    save_policy(directory, tiny_run.CONFIG, tiny_run.model()[1], tokenizer)
    return directory


def arrays(step: int):
    return {"state": {"a": jnp.full((3, 4), step, jnp.float32), "b": jnp.arange(5, dtype=jnp.bfloat16)}}


def like(items):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), items)


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: x.dtype == y.dtype and np.array_equal(x, y), a, b)))


def test_a_policy_comes_back_bit_for_bit(policy_directory):
    policy = load_policy(policy_directory, make_mesh())
    assert policy.config == tiny_run.CONFIG and same(policy.params, tiny_run.model()[1])
    assert policy.tokenizer.encode("print(x)") and len(policy.tokenizer) <= 300
    assert jax.tree.structure(policy.params) == jax.tree.structure(tiny_run.model()[1])


def test_saving_a_policy_again_replaces_it(policy_directory, tmp_path):
    tokenizer = load_policy(policy_directory, make_mesh()).tokenizer
    doubled = jax.tree.map(lambda leaf: 2 * leaf, tiny_run.model()[1])
    for params in (tiny_run.model()[1], doubled):
        save_policy(tmp_path / "policy", tiny_run.CONFIG, params, tokenizer)
    assert same(load_policy(tmp_path / "policy", make_mesh()).params, doubled)


def damage(how: str, path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    if how == "removed":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 4
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["truncated", "removed", "one bit flipped"])
def test_damage_to_any_file_is_refused_in_one_line(how, policy_directory, tmp_path, capfd):
    files = [path for path in (policy_directory / "checkpoint/0").rglob("*") if path.is_file()]
    assert len(files) > 5
    for number, path in enumerate(files):
        if how == "removed" and path.name == integrity.RECORD:
            continue  # then nothing says what the others were
        copy = tmp_path / str(number)
        shutil.copytree(policy_directory, copy)
        damage(how, copy / path.relative_to(policy_directory))
        with pytest.raises(InputError) as refused:
            load_policy(copy, make_mesh())
        message = str(refused.value)
        assert str(copy) in message and "delete it" in message and "\n" not in message, path
    assert "Traceback" not in capfd.readouterr().err


def test_a_missing_or_incomplete_policy_is_refused_in_one_line(policy_directory, tmp_path):
    with pytest.raises(InputError, match="nowhere is not a policy directory"):
        load_policy(tmp_path / "nowhere", make_mesh())
    shutil.copytree(policy_directory, tmp_path / "half")
    shutil.rmtree(tmp_path / "half/checkpoint/0")
    with pytest.raises(InputError, match="half was never completed; delete it and run"):
        load_policy(tmp_path / "half", make_mesh())
    shutil.copytree(policy_directory, tmp_path / "mute")
    shutil.rmtree(tmp_path / "mute/tokenizer")
    with pytest.raises(InputError, match="mute/tokenizer"):
        load_policy(tmp_path / "mute", make_mesh())


def test_the_latest_two_and_the_kept_stay(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(1, 6):
            checkpoints.save(step, arrays(step), {"step": step}, keep=(2,))
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4, 5]
        assert same(checkpoints.restore(4, like(arrays(0))), arrays(4)) and checkpoints.meta(4) == {"step": 4}


def test_a_checkpoint_without_checksums_is_restored_and_one_left_half_written_is_not(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, arrays(step), {}, keep=(1,))
    (tmp_path / "2/files.json").unlink(missing_ok=True)
    (tmp_path / "3").rename(tmp_path / "3.orbax-checkpoint-tmp")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1, 2] and checkpoints.latest == 2
        assert same(checkpoints.restore(2, like(arrays(0))), arrays(2))
        checkpoints.save(3, arrays(3), {})
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2, 3]


@pytest.mark.parametrize("how", ["truncated", "removed"])
def test_damage_is_refused_in_one_line_also_where_there_are_no_checksums(how, tmp_path, capfd):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, arrays(1), {})
    (tmp_path / "1/files.json").unlink()
    data = [path for path in (tmp_path / "1").rglob("d/*") if path.is_file()]
    for path in data:
        damage(how, path)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(InputError, match="1 is damaged") as refused:
        checkpoints.restore(1, like(arrays(0)))
    assert data and "\n" not in str(refused.value) and "Traceback" not in capfd.readouterr().err


def test_buffers_may_be_donated_while_a_checkpoint_is_written(tmp_path):
    add = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    items = {"state": {"a": jnp.zeros((512, 1024))}}
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            for _ in range(10):
                items = add(items)
            checkpoints.save(step, items, {}, keep=(1, 2))
            for _ in range(10):
                items = add(items)
        checkpoints.wait()
        restored = [checkpoints.restore(step, like(items))["state"]["a"] for step in (1, 2, 3)]
    assert [(x.min(), x.max()) for x in restored] == [(10, 10), (30, 30), (50, 50)]


def test_a_checkpoint_of_another_shape_is_refused_in_one_line(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, arrays(1), {})
        checkpoints.wait()
        with pytest.raises(
            InputError, match=r"1 does not fit: state\['b'\] is \[5\], wanted absent"
        ) as refused:
            checkpoints.restore(1, like({"state": {"a": jnp.zeros((3, 4)), "c": jnp.zeros(2)}}))
        assert "\n" not in str(refused.value)
        with pytest.raises(InputError, match=r"state\['a'\] is \[3, 4\], wanted \[4, 4\]"):
            checkpoints.restore(1, like({"state": {"a": jnp.zeros((4, 4)), "b": jnp.zeros(5)}}))


def test_parameters_are_cast_to_the_dtype_that_is_asked_for(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, arrays(1), {})
        checkpoints.wait()
        half = {"state": {"a": jnp.zeros((3, 4), jnp.bfloat16), "b": jnp.zeros(5, jnp.bfloat16)}}
        assert checkpoints.restore(1, like(half))["state"]["a"].dtype == jnp.bfloat16


def test_a_flipped_bit_in_a_large_file_is_seen(tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate((1 << 28) + 9)  # a hole on disk
    integrity.seal(epath.Path(tmp_path))
    integrity.check_sealed(epath.Path(tmp_path))
    with (tmp_path / "large").open("r+b") as file:
        file.seek(1 << 27)
        file.write(b"\x10")
    with pytest.raises(InputError, match="large has CRC"):
        integrity.check_sealed(epath.Path(tmp_path))


def test_several_processes_read_a_share_each_and_all_look_at_the_sizes(tmp_path, monkeypatch):
    for name in "abc":
        (tmp_path / name).write_bytes(b"123")
    integrity.seal(epath.Path(tmp_path))
    (tmp_path / "b").write_bytes(b"1x3")

    def check(index):
        monkeypatch.setattr(integrity, "this_process", lambda: Process(index, 2, "there"))
        integrity.check_sealed(epath.Path(tmp_path))

    check(0)
    with pytest.raises(InputError, match="b has CRC"):
        check(1)
    (tmp_path / "b").write_bytes(b"12")
    for index in (0, 1):
        with pytest.raises(InputError, match="b has 2 bytes"):
            check(index)


def test_a_large_file_that_was_sealed_by_its_size_alone_still_counts(tmp_path):
    (tmp_path / "large").write_bytes(b"123")
    (tmp_path / "files.json").write_text('{"large": [3, null]}')
    integrity.check_sealed(epath.Path(tmp_path))
    (tmp_path / "large").write_bytes(b"12")
    with pytest.raises(InputError, match="large has 2 bytes"):
        integrity.check_sealed(epath.Path(tmp_path))


class Sealer:
    """integrity.seal that goes on when it is told to."""

    def __init__(self, monkeypatch):
        self.begun, self.goes_on, self.seal = threading.Event(), threading.Event(), integrity.seal
        monkeypatch.setattr(integrity, "seal", self)

    def __call__(self, directory, stop):
        self.begun.set()
        while not self.goes_on.wait(0.01):
            if stop.is_set():
                raise integrity.Stopped
        self.seal(directory, stop)


def test_a_checkpoint_counts_before_it_has_checksums_and_they_keep_nobody(tmp_path, monkeypatch):
    sealer = Sealer(monkeypatch)
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):  # the first is being sealed meanwhile
            checkpoints.save(step, arrays(step), {})
            while checkpoints.pending or not sealer.begun.is_set():
                checkpoints.settle()
                time.sleep(0.01)
        assert checkpoints.steps() == [1, 2]
        assert not any((tmp_path / name / integrity.RECORD).exists() for name in "12")
        checkpoints.save(3, arrays(3), {})  # 1 goes, and its sealing with it
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3]
        sealer.goes_on.set()
    assert (tmp_path / "3" / integrity.RECORD).exists()


def test_who_is_preempted_does_not_wait_for_checksums(tmp_path, monkeypatch):
    Sealer(monkeypatch)
    with pytest.raises(SystemExit), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, arrays(1), {})
        checkpoints.wait()
        checkpoints.settle()
        raise SystemExit(143)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1] and not (tmp_path / "1" / integrity.RECORD).exists()


def test_each_process_seals_the_files_that_it_wrote(tmp_path, monkeypatch):
    for name in ("_METADATA", "params/ocdbt.process_0/d/a", "params/ocdbt.process_1/d/b"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"123")
    for index in (1, 0):
        monkeypatch.setattr(integrity, "this_process", lambda index=index: Process(index, 2, "there"))
        integrity.seal(epath.Path(tmp_path))
    records = {path.name: sorted(json.loads(path.read_text())) for path in tmp_path.glob("files.json*")}
    assert records["files.json"] == ["_METADATA", "params/ocdbt.process_0/d/a"]
    assert records["files.json.1"] == ["params/ocdbt.process_1/d/b"]
    monkeypatch.setattr(integrity, "this_process", lambda: Process(0, 1, ""))
    integrity.check_sealed(epath.Path(tmp_path))
    (tmp_path / "params/ocdbt.process_1/d/b").write_bytes(b"1x3")
    with pytest.raises(InputError, match="process_1/d/b has CRC"):
        integrity.check_sealed(epath.Path(tmp_path))


def test_a_seal_that_cannot_be_written_is_said_at_the_end_and_the_checkpoint_counts(tmp_path, monkeypatch):
    def full(directory, stop):
        raise OSError("No space left on device")

    monkeypatch.setattr(integrity, "seal", full)
    with pytest.raises(InputError, match="cannot write a checkpoint .*No space left"):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(1, arrays(1), {})
            checkpoints.wait()
            assert checkpoints.steps() == [1]
