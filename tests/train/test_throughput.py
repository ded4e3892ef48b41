"""A line says where a minute went; profiles are of the steps and processes that were asked for."""

import asyncio
import json
import time

import pytest
import tiny_run
from flax import nnx

from o1jax.model.init import parameter_count
from o1jax.parallel.chips import Chip
from o1jax.parallel.processes import Process
from o1jax.records import InputError
from o1jax.train import throughput
from o1jax.train.throughput import Profiler, Throughput, flops_per_token, in_words, profile_steps


def rows(directory):
    return [json.loads(line) for line in (directory / throughput.FILE).read_text().splitlines()]


def test_the_line_has_rates_shares_and_what_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(throughput, "chip_of_kind", lambda kind: Chip(1e6, 1, 1, 1))
    meter = Throughput(tmp_path, "policy_rl")
    time.sleep(0.1)
    meter.spent("sampling", 0.05, tokens=500)
    meter.spent("training", 0.02, tokens=500, flops=1e4)
    meter.close()
    (row,) = rows(tmp_path)
    assert row["tokens_per_s"] == pytest.approx(1000 / row["seconds"], rel=0.1)
    assert row["mfu"] == pytest.approx(0.01 / row["seconds"], rel=0.1)
    assert row["sampling"] + row["training"] + row["waiting"] == pytest.approx(1, abs=1e-3)
    assert f"policy_rl: {in_words(row)}" in capsys.readouterr().err
    assert "MFU" in in_words(row) and in_words(row).endswith(f"waiting {row['waiting']:.0%}")


def test_a_line_comes_by_itself_when_its_time_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "EVERY_S", 0.05)
    meter = Throughput(tmp_path, "sft")
    meter.spent("training", 0.01, tokens=1)
    time.sleep(0.06)
    meter.spent("training", 0.06, tokens=1)
    assert len(rows(tmp_path)) == 1
    meter.close()
    assert len(rows(tmp_path)) == 1


def test_only_process_0_writes_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(throughput, "this_process", lambda: Process(3, 4, "there"))
    meter = Throughput(tmp_path, "sft")
    meter.spent("training", 1.0)
    meter.close()
    assert not list(tmp_path.iterdir()) and not capsys.readouterr().err


def test_operations_are_counted_once_a_product():
    params = tiny_run.model()[1]
    empty = nnx.State({})
    n = parameter_count(params)  # with a tied head the embedding takes part
    assert flops_per_token(params, empty) == 6 * n and flops_per_token(empty, params) == 4 * n


@pytest.mark.parametrize(
    "env, hosts", [({}, {0}), ({throughput.HOSTS: "1,2"}, {1, 2}), ({throughput.HOSTS: "all"}, {0, 1, 2, 3})]
)
def test_the_steps_that_are_asked_for_are_traced_by_the_processes_that_are(tmp_path, monkeypatch, env, hosts):
    calls = []
    monkeypatch.setattr(throughput.jax.profiler, "start_trace", lambda at: calls.append(("start", at)))
    monkeypatch.setattr(throughput.jax.profiler, "stop_trace", lambda: calls.append(("stop",)))
    for index in range(4):
        monkeypatch.setattr(throughput, "this_process", lambda index=index: Process(index, 4, "there"))
        profiler = Profiler(tmp_path, {throughput.STEPS: "10,13"} | env)
        for step in range(8, 16):
            profiler.before(step)
            assert bool(calls and calls[-1][0] == "start") == (index in hosts and 10 <= step < 13)
        profiler.close()
    assert calls == [("start", str(tmp_path / "profile")), ("stop",)] * len(hosts)


def test_a_training_run_leaves_its_trace_and_its_throughput(tmp_path, monkeypatch):
    monkeypatch.setenv(throughput.STEPS, "2,4")
    tiny_run.run(tmp_path, max_steps=6, checkpoint_every=0)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    (row,) = rows(tmp_path)
    assert row["tokens_per_s"] > 0 and 0 < row["training"] <= 1 and "mfu" not in row


@pytest.mark.parametrize("given", ["10", "13,10", "a,b", "3,3", "1,2,3"])
def test_steps_that_are_none_are_refused_in_one_line(given):
    with pytest.raises(InputError, match=r"profile_steps: saw .*, wanted .* as 10,13"):
        profile_steps({throughput.STEPS: given})
    assert profile_steps({throughput.STEPS: "(10, 13)"}) == (10, 13) and profile_steps({}) == (0, 0)


def test_an_engine_says_what_it_samples(monkeypatch, capsys):
    class Engine:
        counts = iter([(0, 0.0), (5, 0.02), (5, 0.02)])

        def stats(self):
            tokens, busy = next(self.counts)
            return {"generated_tokens": tokens, "busy_s": busy}

    async def watch():
        saying = asyncio.create_task(throughput.say_every_minute(Engine()))
        await asyncio.sleep(0.07)
        saying.cancel()

    monkeypatch.setattr(throughput, "EVERY_S", 0.05)
    asyncio.run(watch())
    assert "engine: 100 tokens/s; sampling 40%, judging or waiting 60%" in capsys.readouterr().err
