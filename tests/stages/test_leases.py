"""Problems shared out among real processes: each done once, those of a killed or slow one by the others."""

import asyncio
import json
import os
import pathlib
import signal
import time

import pytest
import sharing
from etils import epath

from o1jax.records import Rollout
from o1jax.stages import beats, leases
from o1jax.stages.beats import TRY_AGAIN
from o1jax.stages.leases import pause_after
from o1jax.stages.together import my_share
from o1jax.store import ShardWriter

SCRIPT = pathlib.Path(__file__).with_name("sharing.py")
NUMBER = 24
ALL = [f"p{number}" for number in range(NUMBER)]


def play(out, index, count=2, seconds=0.02, slow_s=1.0):
    return sharing.start(index, count, SCRIPT, out, NUMBER, seconds, slow_s)


def ended(process):
    """(how many problems it did, the ids of all in order)."""
    output, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    did, *ids = output.split()
    return int(did), ids


def until(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def second_of_three(monkeypatch):
    for name, value in (("COORDINATOR", "localhost:1"), ("PROCESSES", "3"), ("PROCESS_INDEX", "1")):
        monkeypatch.setenv(f"O1JAX_{name}", value)


def test_first_shares_are_strides_in_order(second_of_three):
    assert my_share(list(range(10))) == [1, 4, 7]


def test_waiting_costs_a_twentieth_and_is_no_storm():
    assert pause_after(0.0) == 0.05 and pause_after(60.0) == 3.0 and pause_after(86_400.0) == 10.0


def test_every_problem_is_done_once_by_one_of_two_processes(tmp_path):
    both = [play(tmp_path, index) for index in (0, 1)]
    (first, ids), (second, same) = map(ended, both)
    assert ids == same == ALL
    assert first + second == NUMBER and min(first, second) > 0


def test_a_fast_process_takes_what_a_slow_one_has_not_begun_and_what_it_holds_for_too_long(tmp_path):
    slow = play(tmp_path, 1, seconds=300)
    until(lambda: len(list(tmp_path.glob("leases/answers/*.0"))) == 2)
    fast = play(tmp_path, 0)
    assert ended(fast) == (NUMBER, ALL)
    assert ended(slow) == (0, ALL)  # and it does not go on with what is done


@pytest.mark.parametrize("killed", [0, 1])
def test_what_a_killed_process_held_is_done_by_the_other(tmp_path, killed):
    # Nothing is taken over from one that is only slow: the living one has to learn of the death.
    dying, living = play(tmp_path, killed, seconds=300, slow_s=600), play(tmp_path, 1 - killed, slow_s=600)
    until(lambda: len(list(tmp_path.glob("ready.*"))) == 2)
    until(lambda: len(list(tmp_path.glob("leases/answers/*.0"))) >= 4)
    beat = epath.Path(tmp_path) / "beats" / f"beat.{killed}"  # which may not be there yet
    until(lambda: int((beats.read(beat) or "- 0").split(" ")[1]) >= 6)
    dying.send_signal(signal.SIGKILL)
    dying.communicate()
    began = time.monotonic()
    if killed == 1:
        assert ended(living) == (NUMBER, ALL)
    else:  # all is done; that process 0 is to join it, it learns in time
        _, error = living.communicate(timeout=120)
        assert (
            living.returncode and f"process 0 was lost: no sign of life for 3 s from pid {dying.pid}" in error
        )
        assert ended(play(tmp_path, 0)) == (0, ALL)
    assert time.monotonic() - began < 20 * sharing.LOST_S


def test_a_process_that_begins_anew_goes_on_at_once_with_other_numbers_too(tmp_path):
    both = [play(tmp_path, index, seconds=0.3) for index in (0, 1)]
    until(lambda: len(list(tmp_path.glob("leases/answers/*.0"))) >= 8)
    for process in both:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    three = [play(tmp_path, index, count=3) for index in range(3)]
    assert [ids for _, ids in map(ended, three)] == [ALL] * 3


def test_those_that_wait_for_a_killed_process_end_in_time_with_a_code_of_their_own(tmp_path):
    out, pipe = tmp_path / "out", tmp_path / "problems.jsonl"
    os.mkfifo(pipe)  # process 0 waits there for its input, for ever
    spec = json.dumps({"stage": "check_problems", "config": {"source": str(pipe)}, "seed": 0, "inputs": {}})
    first, second = (sharing.start(index, 2, "-m", "o1jax.stages", out, spec) for index in (0, 1))
    rounds = (out / "beats" / f"beat.{index}" for index in (0, 1, 0))
    for path in rounds:  # each has seen the other alive
        until(lambda path=path: path.exists() and int(path.read_text().split(" ")[1]) >= 4)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    began = time.monotonic()
    _, error = second.communicate(timeout=60)
    assert second.returncode == TRY_AGAIN == 75 and time.monotonic() - began < 3 * sharing.LOST_S + 5
    assert (
        error.strip()
        .splitlines()[-1]
        .startswith("error: process 0 was lost: no sign of life for 3 s from pid")
    )


def test_one_process_leaves_no_leases_and_keeps_what_was_done(tmp_path):
    out, did = epath.Path(tmp_path), []
    problems = [type("P", (), {"id": id}) for id in ALL[:3]]
    with ShardWriter(out / "shards", Rollout) as kept:

        async def work(problem):
            did.append(problem.id)
            kept.append(sharing.rollout(problem, 0))

        for _ in range(2):
            asyncio.run(leases.work_through(out, "answers", problems, work, kept, 2))
    assert did == ALL[:3] and not (out / "leases").exists()
