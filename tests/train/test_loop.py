"""A killed, stopped or preempted run goes on to the same curve; a bad one says which examples."""

import gc
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
import tiny_run
from orbax import checkpoint as ocp

from o1jax.batches.encode import Example
from o1jax.model.init import parameter_count
from o1jax.records import InputError
from o1jax.train import resumable
from o1jax.train.checkpoint import Checkpoints
from o1jax.train.loop import Progress, judged
from o1jax.train.resumable import Preempted
from o1jax.train.step import NonFiniteLoss

PROGRAM = str(pathlib.Path(tiny_run.__file__))


def lines(directory) -> list[dict]:
    path = pathlib.Path(directory) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def curve(directory) -> list[tuple]:
    """(step, loss, gradient norm) of every line: floats, compared exactly."""
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines(directory) if "loss" in line]


def same_bits(a, b) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b)))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed")
    return directory, tiny_run.run(directory)


def test_a_run_learns_and_logs_every_step(undisturbed):
    directory, fitted = undisturbed
    steps, losses, _ = zip(*curve(directory), strict=True)
    assert list(steps) == list(range(1, tiny_run.STEPS + 1)) and losses[-1] < losses[0] / 3
    assert fitted.progress.step == tiny_run.STEPS and fitted.stopped == "max_steps"
    assert fitted.progress.tokens == sum(line["tokens"] for line in lines(directory))
    assert all(0 <= line["padding_share"] < 1 for line in lines(directory))


def test_a_run_killed_at_a_random_moment_resumes_to_the_same_curve(undisturbed, tmp_path):
    wanted, fitted = undisturbed
    moment = random.randrange(25, tiny_run.STEPS - 10)
    with subprocess.Popen([sys.executable, PROGRAM, str(tmp_path)]) as process:
        while len(curve(tmp_path)) < moment and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"
    resumed = tiny_run.run(tmp_path)
    assert curve(tmp_path) == curve(wanted), f"killed at line {moment}"
    assert same_bits(resumed.params, fitted.params)
    assert resumed.progress == fitted.progress


def test_a_finished_run_returns_at_once_with_the_same_parameters(undisturbed):
    directory, fitted = undisturbed
    before = curve(directory)
    assert same_bits(tiny_run.run(directory).params, fitted.params) and curve(directory) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_and_ctrl_c_save_that_step_and_exit_in_order(undisturbed, tmp_path, number):
    def terminate(params):
        os.kill(os.getpid(), number)
        return {"loss": 1.0}

    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores
    with pytest.raises(Preempted) as exit_:
        tiny_run.run(tmp_path, evaluate=terminate, evaluate_every=33, checkpoint_every=0)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert exit_.value.code == 143 and checkpoints.steps() == [33]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    tiny_run.run(tmp_path, evaluate=lambda params: {"loss": 1.0}, evaluate_every=33, checkpoint_every=0)
    assert curve(tmp_path) == curve(undisturbed[0])


def test_a_run_stops_at_the_plateau_and_keeps_the_best_parameters(undisturbed, tmp_path):
    losses = iter([3.0, 2.0, 1.0, 1.5, 1.2, 1.1])
    seen = []

    def evaluate(params):
        seen.append(jax.tree.map(np.array, params))
        return {"loss": next(losses)}

    fitted = tiny_run.run(tmp_path, evaluate=evaluate, evaluate_every=10, patience=3, checkpoint_every=0)
    assert fitted.stopped == "plateau" and fitted.progress.step == 60
    assert fitted.progress.best_step == 30 and fitted.progress.best_loss == 1.0
    assert same_bits(fitted.params, seen[2]) and not same_bits(fitted.params, seen[5])
    assert curve(tmp_path) == curve(undisturbed[0])[:60]


def test_only_a_lower_loss_counts_as_better():
    before = judged(Progress(step=10), 2.0)
    assert judged(before, 2.0).stale_evaluations == 1
    assert judged(before, 1.85).best_loss == 1.85
    assert judged(before, float("nan")).stale_evaluations == 1


def test_validation_is_logged_and_evaluates_after_the_last_step(tmp_path):
    tiny_run.run(tmp_path, evaluate=tiny_run.validation(), evaluate_every=20, max_steps=30)
    seen = {line["step"]: line["validation_loss"] for line in lines(tmp_path) if "validation_loss" in line}
    assert list(seen) == [20, 30] and seen[30] < seen[20]


def test_a_loss_that_is_not_finite_names_step_and_examples_and_is_never_saved(tmp_path):
    bad = Example("the bad one", tuple(range(60)), (float("inf"),) * 60)
    good = [Example(f"e{i}", tuple(range(60)), (1.0,) * 60) for i in range(20)]
    data = tiny_run.Batches([*good, bad], row_length=64, rows_per_batch=8, seed=0)
    at = next(step for step in range(8) if "the bad one" in data.ids_at(step))
    with pytest.raises(NonFiniteLoss, match=f"step {at + 1}: .*the bad one"):
        tiny_run.run(tmp_path, data=data, checkpoint_every=1)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert all(step <= at for step in checkpoints.steps())


def test_checkpoints_of_other_data_or_settings_are_refused(undisturbed):
    directory, _ = undisturbed
    with pytest.raises(InputError, match=r"other settings or data \(data\)"):
        tiny_run.run(directory, data=tiny_run.batches(100))
    with pytest.raises(InputError, match="micro_batches"):
        tiny_run.run(directory, micro_batches=2)


def test_a_damaged_step_is_named_and_without_it_the_run_goes_on_from_the_one_before(undisturbed, tmp_path):
    tiny_run.run(tmp_path, max_steps=60)
    damaged = tmp_path / "checkpoints/60"
    largest = max((path for path in damaged.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"checkpoints/60 is damaged .*then go on from an earlier"):
        tiny_run.run(tmp_path)
    shutil.rmtree(damaged)
    tiny_run.run(tmp_path)
    assert curve(tmp_path) == curve(undisturbed[0])


def test_patience_without_evaluation_is_refused(tmp_path):
    with pytest.raises(InputError, match="patience 2 needs evaluate"):
        tiny_run.run(tmp_path, patience=2)


def live_bytes() -> int:
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())


def test_a_run_holds_its_state_and_no_second_copy_of_the_parameters(tmp_path, monkeypatch):
    params = 4 * parameter_count(tiny_run.model()[1])
    others, losses, seen = live_bytes(), iter([1.0, 2.0, 3.0]), {"run": [], "restored": []}

    def evaluate(_):
        seen["run"].append((live_bytes() - others) / params)
        return {"loss": next(losses)}

    def restore(self, step, like):
        seen["restored"].append((live_bytes() - others) / params)
        return restores(self, step, like)

    def save(self, *args, **options):
        saves(self, *args, **options)
        self.wait()  # while it is written there are copies, in the host's memory where there are devices

    restores, saves = Checkpoints.restore, Checkpoints.save
    monkeypatch.setattr(Checkpoints, "restore", restore)
    monkeypatch.setattr(Checkpoints, "save", save)
    options = {"evaluate_every": 2, "patience": 2, "checkpoint_every": 0}
    fitted = tiny_run.run(tmp_path, evaluate=evaluate, **options)
    assert fitted.progress.best_step == 2 and fitted.progress.step == 6
    assert all(share < 3.2 for share in seen["run"]), seen  # parameters and two moments
    tiny_run.run(tmp_path, evaluate=evaluate, **options)
    best, last, best_again = seen["restored"]
    assert best < 0.2 and last < 1.2 and best_again < 1.2, seen  # `fitted` is there still


def test_by_the_clock_no_checkpoint_begins_while_one_is_written(tmp_path, monkeypatch):
    begun, written, stream = [], threading.Event(), tiny_run.batches()
    save = Checkpoints.save

    def saves(self, step, *args, **options):
        begun.append(step)
        save(self, step, *args, **options)

    def at(step, rows=None):
        if step == 30:
            written.set()
        return batch_at(step, rows)

    batch_at = stream.at
    monkeypatch.setattr(stream, "at", at)
    monkeypatch.setattr(Checkpoints, "save", saves)
    saving = ocp.CheckpointManager.is_saving_in_progress
    monkeypatch.setattr(
        ocp.CheckpointManager, "is_saving_in_progress", lambda self: not written.is_set() or saving(self)
    )
    tiny_run.run(tmp_path, data=stream, max_steps=60, checkpoint_every=0, checkpoint_every_s=1e-6)
    assert begun[0] == 1 and begun[1] > 30 and begun[-1] == 60


def test_sigterm_while_a_long_save_is_under_way_waits_for_it_alone(undisturbed, tmp_path, monkeypatch):
    def terminate(params):
        os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": 1.0}

    wait = ocp.CheckpointManager.wait_until_finished

    def slowly(self):
        time.sleep(0.05)
        wait(self)

    monkeypatch.setattr(resumable, "LONG_SAVE_S", 0.01)
    monkeypatch.setattr(ocp.CheckpointManager, "wait_until_finished", slowly)
    with pytest.raises(Preempted):
        tiny_run.run(tmp_path, evaluate=terminate, evaluate_every=33, checkpoint_every=30)
    monkeypatch.undo()
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [30]
    tiny_run.run(tmp_path, evaluate=lambda params: {"loss": 1.0}, evaluate_every=33, checkpoint_every=30)
    assert curve(tmp_path) == curve(undisturbed[0])
