"""Processes that wait for one another: a failure ends them all, and so does Ctrl-C."""

import asyncio
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from etils import epath

from o1jax.problems.ladder import problems as ladder
from o1jax.records import InputError
from o1jax.stages import together
from o1jax.stages.together import OtherFailed, reporting_failure, wait_for

ROOT = pathlib.Path(__file__).parents[2]
WAITING = """
import asyncio, signal, sys
from types import SimpleNamespace
from etils import epath
from o1jax.records import Rollout
from o1jax.evaluation.sample_store import SampleStore
from o1jax.rl.rollouts import RolloutCollector
from o1jax.stages.together import joined, reporting_failure, shared

problem = SimpleNamespace(id="p")
never = lambda problem: asyncio.sleep(600)
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores
out = epath.Path(sys.argv[2])
collector = RolloutCollector.__new__(RolloutCollector)
object.__setattr__(collector, "out", out)  # all that it waits by; the record is frozen
waits = {
    "shares": lambda: shared(out, "answers", Rollout, [problem], never, 1),
    "parts": lambda: joined(out, out / "parts", Rollout, [], [], lambda rollout: rollout.problem_id),
    "evaluation": lambda: SampleStore(out, None, 1).groups("rollouts/direct", [problem], never, None),
    "update": lambda: collector._of_all([], out / "parts" / "3"),
}
with reporting_failure(out):
    asyncio.run(waits[sys.argv[1]]())
"""


def start(index, *command):
    """Process `index` of two."""
    place = {"O1JAX_COORDINATOR": "localhost:1", "O1JAX_PROCESSES": "2", "O1JAX_PROCESS_INDEX": str(index)}
    env = os.environ | place | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, *map(str, command)]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def stage(index, out, config):
    spec = {"stage": "check_problems", "config": config, "seed": 0, "inputs": {}}
    return start(index, "-m", "o1jax.stages", out, json.dumps(spec))


def ended(process):
    """(exit code, the last line of stderr)."""
    error = process.communicate(timeout=300)[1]
    return process.returncode, error.strip().splitlines()[-1]


def until(path, process):
    while not path.exists() and process.poll() is None:
        time.sleep(0.02)


def test_a_process_that_refuses_its_input_ends_those_that_wait_for_it(tmp_path):
    out, config = tmp_path / "out", {"source": str(tmp_path / "none.jsonl")}
    waiting = stage(1, out, config)
    until(out / "began.1", waiting)
    refusing = stage(0, out, config)
    code, line = ended(refusing)
    assert code == 2 and "none.jsonl" in line
    assert ended(waiting) == (2, f"error: process 0 failed: InputError: {line.removeprefix('error: ')}")
    assert [path.name for path in out.glob("failed.*")] == ["failed.0"]
    (problem,) = ladder.make_problems("pool", {1: 1}, 0)
    (tmp_path / "none.jsonl").write_text(json.dumps(dataclasses.asdict(problem)))
    again = [stage(index, out, config) for index in (0, 1)]
    for process in again:
        error = process.communicate(timeout=300)[1]
        assert process.returncode == 0, error
    assert not list(out.glob("failed.*")) and (out / "manifest.json").exists()


def test_one_that_plays_its_share_does_not_wait_for_one_that_failed(tmp_path):
    out = tmp_path / "out"
    waiting = start(0, "-c", WAITING, "parts", out)
    until(out / "began.0", waiting)
    refusing = stage(1, out, {"sauce": "ladder:pool"})
    code, line = ended(refusing)
    assert code == 2 and "sauce: no such key" in line
    code, error = ended(waiting)
    assert code and f"process 1 failed: InputError: {line.removeprefix('error: ')}" in error


@pytest.mark.parametrize("what", ["shares", "parts", "evaluation", "update"])
def test_whoever_waits_ends_by_ctrl_c_and_says_so(tmp_path, what):
    waiting = start(0, "-c", WAITING, what, tmp_path / "out")
    until(tmp_path / "out" / "began.0", waiting)
    time.sleep(1.0)  # it waits by now, or soon: Ctrl-C must end it at any moment
    waiting.send_signal(signal.SIGINT)
    code, line = ended(waiting)
    assert code and "KeyboardInterrupt" in line
    assert (tmp_path / "out" / "failed.0").read_text().startswith("KeyboardInterrupt")


@pytest.fixture
def first_of_two(monkeypatch):
    for name, value in (("COORDINATOR", "localhost:1"), ("PROCESSES", "2"), ("PROCESS_INDEX", "0")):
        monkeypatch.setenv(f"O1JAX_{name}", value)


def waits(out):
    asyncio.run(asyncio.wait_for(wait_for(out, [out / "never"], 1), 1.0))


def test_a_failure_of_an_earlier_try_counts_only_if_it_stays(first_of_two, tmp_path, monkeypatch):
    out = epath.Path(tmp_path)
    for name in ("failed.0", "failed.1", "failed.2"):  # 2: of a try with more processes
        (out / name).write_text("InputError: old")
        os.utime(out / name, (1e9, 1e9))
    with reporting_failure(out), pytest.raises(TimeoutError):
        assert not (out / "failed.0").exists()
        waits(out)
    monkeypatch.setattr(together, "FORGET_S", 0.0)
    with reporting_failure(out), pytest.raises(OtherFailed, match="process 1 failed: InputError: old"):
        waits(out)
    (out / "failed.1").unlink()
    with reporting_failure(out), pytest.raises(TimeoutError):
        waits(out)


def test_a_failure_is_told_in_one_line_and_not_passed_on(first_of_two, tmp_path):
    out = epath.Path(tmp_path)
    with pytest.raises(InputError), reporting_failure(out):
        raise InputError("problem add:\nleave it out")
    assert (out / "failed.0").read_text() == "InputError: problem add: leave it out"
    with pytest.raises(OtherFailed), reporting_failure(out):
        (out / "failed.1").write_text("InputError: new")
        waits(out)
    assert [path.name for path in out.iterdir() if path.is_file()] == ["failed.1"]


def test_alone_nothing_is_told(tmp_path):
    with pytest.raises(InputError), reporting_failure(epath.Path(tmp_path)):
        raise InputError("no")
    assert not list(tmp_path.iterdir())
