"""Replicas of an engine on all devices of a process, in child processes that have them, and by themselves."""

import asyncio
import json
import pathlib
import subprocess
import sys
import threading

import pytest
import tiny_engine as tiny

from o1jax.engine.interface import Request
from o1jax.engine.jax_engine import engine as jax_engine
from o1jax.engine.replicas import Replicas, count_of
from o1jax.records import InputError

PROGRAM = pathlib.Path(__file__).with_name("on_many_devices.py")
PROMPT = tuple(range(40, 53))


def on_devices(count):
    command = [sys.executable, str(PROGRAM), str(count)]
    done = subprocess.run(command, cwd=PROGRAM.parent, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


# Eight compile eight times; a minute of CPU time.
@pytest.mark.parametrize("count", [2, pytest.param(8, marks=pytest.mark.hostile)])
def test_many_devices_give_the_bits_of_one_and_all_work(count):
    one, many = on_devices(1), on_devices(count)
    assert many["answers"] == one["answers"]
    assert [answer["policy_version"] for answer in many["answers"]] == [0] * 32 + [1] * 16
    assert len(many["generated"]) == count and many["total"] == one["total"] == sum(many["generated"])
    assert min(many["generated"]) > many["total"] / count / 2
    assert many["reused"] == one["reused"] > 0  # a problem's second request found its prefix
    assert len(set(many["weights_on"])) == count == len(many["weights_on"])
    assert one["given"] and many["given"]


def replicas(count=2):
    """On the one device that a test has."""
    return Replicas([tiny.engine(params=None, tensor=1) for _ in range(count)])


def loaded(use, count=2):
    async def whole():
        opened = replicas(count)
        await opened.load_params(tiny.graphdef_and_params()[1], 0)
        try:
            return await use(opened)
        finally:
            await opened.close()

    return asyncio.run(whole())


def test_a_problem_stays_with_its_engine_and_new_ones_go_where_least_is_asked():
    def numbers(opened, *problems, n=1):
        return [opened._choose(Request(PROMPT, n=n, problem=problem)) for problem in problems]

    opened = replicas(3)
    opened._samples = [5, 0, 3]
    assert numbers(opened, "a", "b", "a") == [1, 1, 1]  # nothing was handed in yet
    opened._samples = [0, 9, 3]
    assert numbers(opened, "a", "c", "", "c") == [1, 0, 0, 0]
    opened._samples = [4, 4, 3]
    assert numbers(opened, "", "d", "c") == [2, 2, 0]
    asyncio.run(opened.close())


def test_a_bad_request_is_refused_before_any_engine_begins():
    async def use(opened):
        with pytest.raises(InputError, match="request 1"):
            await opened.generate([Request(PROMPT), Request(())])
        return opened.stats()["generated_tokens"], opened._samples

    assert loaded(use) == (0, [0, 0])


def test_a_refusal_leaves_every_engine_its_old_weights():
    async def use(opened):
        with pytest.raises(InputError, match="shape"):
            await opened.load_params({}, 1)
        return await opened.generate([Request(PROMPT, max_tokens=2)] * 2)

    assert {sample.policy_version for (sample,) in loaded(use)} == {0}


def test_an_engine_that_fails_while_it_gets_weights_ends_the_others_wait(monkeypatch):
    placed = jax_engine.placed

    def broken(*arguments, **named):
        monkeypatch.setattr(jax_engine, "placed", placed)
        raise MemoryError("no room")

    async def use(opened):
        monkeypatch.setattr(jax_engine, "placed", broken)
        with pytest.raises(MemoryError, match="no room"):
            await asyncio.wait_for(opened.load_params(tiny.graphdef_and_params()[1], 1), 60)

    loaded(use)


def test_a_dead_engine_s_failure_reaches_who_asks_and_who_pushes():
    async def use(opened):
        await opened.engines[1].close()
        with pytest.raises(RuntimeError, match="closed"):
            await opened.generate([Request(PROMPT, n=3, max_tokens=40), Request(PROMPT)])
        assert opened._samples == [0, 0]
        with pytest.raises(RuntimeError, match="closed"):
            await asyncio.wait_for(opened.load_params(tiny.graphdef_and_params()[1], 1), 60)

    before = threading.active_count()
    loaded(use)
    assert threading.active_count() <= before + 2  # of the event loop's own; no engine's is left


def test_as_many_engines_as_the_devices_hold_or_as_asked_for(monkeypatch):
    monkeypatch.setattr("jax.local_device_count", lambda: 8)
    assert [count_of(tensor) for tensor in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]
    assert count_of(2, 3) == 3
    with pytest.raises(InputError, match=r"engine.replicas: saw 5 .*at most 4 on this process's 8 devices"):
        count_of(2, 5)
