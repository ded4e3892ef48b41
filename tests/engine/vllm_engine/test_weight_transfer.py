"""Weights sent to servers by vLLM's own API: what a server is asked, in which order, also when it fails.

NCCL's broadcast is replaced (there is no GPU): by a note of what was sent, or by vLLM's TCP store.
"""

import asyncio
import dataclasses
import json
import pathlib
import threading

import numpy as np
import pytest
import served
import tiny_engine as tiny
from fake_server import FakeServer

from o1jax.engine.interface import Request
from o1jax.engine.vllm_engine.servers import VllmServers
from o1jax.model.hf import checkpoint as hf
from o1jax.model.hf.names import untied
from o1jax.records import InputError
from o1jax.stages import workers

pytestmark = pytest.mark.vllm
QUICK = {"slots": 4, "context": tiny.CONTEXT, "patience_s": 20, "answer_s": 10, "work_s": 60, "watch_s": 0.05}
GREEDY = Request(tuple(range(10, 50)), max_tokens=12, temperature=0.0)
OPENED = [
    "/server_info",
    "/get_world_size",
    "/shutdown_weight_transfer_engine",
    "/init_weight_transfer_engine",
]
UPDATE = ["/start_weight_update", "/update_weights", "/finish_weight_update"]
BEFORE, AFTER = (
    ["/pause", "/update_weight_version"],
    ["/reset_prefix_cache", "/resume", "/update_weight_version"],
)


class Noted:
    """In place of a group of processes: counts the bytes that it was given."""

    def __init__(self):
        self.sent, self.destroyed = 0, threading.Event()

    def broadcast(self, tensor):
        self.sent += tensor.nbytes

    def destroy(self):
        self.destroyed.set()


class Stuck(Noted):
    """One whose other end will never come."""

    def broadcast(self, tensor):
        assert self.destroyed.wait(30)


@pytest.fixture
def transfer(monkeypatch):
    """Gives a WeightTransfer over tcp_transfer.py, its groups made by `group(info)`."""
    import tcp_transfer
    from vllm.distributed.weight_transfer import nccl_engine

    from o1jax.engine.vllm_engine import weight_transfer

    real = weight_transfer.init_info

    def init_info(*args):
        return tcp_transfer.TcpInitInfo(**dataclasses.asdict(real(*args)))

    def make(group):
        monkeypatch.setattr(nccl_engine, "open_trainer_endpoint", group)
        monkeypatch.setattr(weight_transfer, "init_info", init_info)
        monkeypatch.setattr(weight_transfer, "check_device", lambda backend: None)
        monkeypatch.setattr(weight_transfer, "DEVICE", "cpu")
        return weight_transfer.WeightTransfer(tcp_transfer.BACKEND, tiny.config(), work_s=60)

    return make


@pytest.fixture
def servers(tmp_path):
    hf.export(tmp_path / "model", *untied(tiny.config(), tiny.graphdef_and_params()[1]))
    found = [FakeServer(tmp_path / "model") for _ in range(2)]
    for server in found:
        server.transfer = "tcp"
    yield found
    for server in found:
        server.stop()


def engine_over(servers, transfer):
    urls = [server.url for server in servers]
    return VllmServers(tiny.config(), tiny.tokenizer(), urls, transfer=transfer, **QUICK)


def asked(server):
    """The calls, but for those that ask how it is."""
    return [path for path in server.calls if path not in ("/health", "/weight_info", "/v1/models")]


def test_a_server_is_paused_sent_weights_and_labelled_and_the_channel_is_opened_once(servers, transfer):
    group = Noted()

    async def whole():
        engine = engine_over(servers[:1], transfer(lambda info: group))
        await engine.open()
        await engine.load_params(tiny.graphdef_and_params()[1], 0)
        await engine.load_params(tiny.graphdef_and_params(seed=1)[1], 1)
        await engine.close()

    asyncio.run(whole())
    (server, _) = servers
    wanted = BEFORE + OPENED + UPDATE + AFTER
    assert asked(server) == wanted + BEFORE + OPENED[:2] + UPDATE + AFTER
    assert server.label.startswith("1_") and not server.paused and not server.pushed
    assert group.destroyed.is_set()
    (_, init), (_, first), (_, second) = server.sent
    assert init["init_info"]["rank_offset"] == 1 and init["init_info"]["world_size"] == 2
    names = [name for name, _, _ in specs()]
    assert first == second and first["update_info"]["names"] == names
    assert first["update_info"]["shapes"] == [list(shape) for _, _, shape in specs()]
    assert set(first["update_info"]["dtype_names"]) == {"float32"}
    assert group.sent == 2 * sum(4 * int(np.prod(shape)) for _, _, shape in specs())


def specs():
    from o1jax.model.hf.names import by_layer, hf_specs

    return list(hf_specs(dataclasses.replace(tiny.config(), tie_embeddings=False), by_layer))


@pytest.mark.parametrize("path", ["/get_world_size", OPENED[-1], *UPDATE])
def test_a_server_that_fails_on_the_way_is_left_out_and_gets_the_weights_later(servers, transfer, path):
    good, bad = servers

    async def whole():
        engine = engine_over(servers, transfer(lambda info: Noted()))
        await engine.open()
        bad.faults[path] = 500
        await engine.load_params(tiny.graphdef_and_params()[1], 0)
        assert bad.label == "incomplete"
        first = await engine.generate(requests())
        assert not bad.asked
        bad.faults.clear()
        while bad.label != good.label:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        second = await engine.generate(requests())
        await engine.close()
        return first + second

    completions = asyncio.run(whole())
    assert {sample.policy_version for samples in completions for sample in samples} == {0}
    assert bad.asked and not bad.paused


def requests():
    return [Request((40 + i,), n=2, max_tokens=5, seed=i, problem=f"problem {i}") for i in range(12)]


def test_a_server_that_breaks_off_does_not_hold_the_trainer(servers, transfer):
    groups = []

    def group(info):
        groups.append(Stuck() if not groups else Noted())
        return groups[-1]

    async def whole():
        engine = engine_over(servers[:1], transfer(group))
        servers[0].faults["/update_weights"] = 500
        await engine.open()
        loading = asyncio.create_task(engine.load_params(tiny.graphdef_and_params()[1], 0))
        while not groups or not groups[0].destroyed.is_set():
            await asyncio.sleep(0.05)
        servers[0].faults.clear()
        await asyncio.wait_for(loading, 20)
        await engine.close()

    asyncio.run(whole())
    assert servers[0].label.startswith("0_")


@pytest.mark.parametrize("started, said", [(None, "'files'"), ("ipc", "'ipc'")])
def test_a_server_started_for_another_transfer_is_refused_in_one_line(servers, transfer, started, said):
    servers[0].transfer = started

    async def whole():
        engine = engine_over(servers[:1], transfer(lambda info: Noted()))
        try:
            await engine.open()
            await engine.load_params(tiny.graphdef_and_params()[1], 0)
        finally:
            await engine.close()

    with pytest.raises(InputError, match=f"started with transfer {said}.*--transfer=tcp$"):
        asyncio.run(whole())


@pytest.mark.parametrize("backend", ["nccl", "ipc"])
def test_without_cuda_it_is_refused_in_one_line(backend):
    import torch

    from o1jax.train.checkpoint import Policy

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    settings = workers.EngineSettings("vllm_server", endpoints=("http://x",), transfer=backend)
    graphdef, params = tiny.graphdef_and_params()
    policy = Policy(tiny.config(), graphdef, params, tiny.tokenizer())
    with pytest.raises(InputError) as failure:
        asyncio.run(workers.open_engine(policy, settings))
    said = str(failure.value)
    assert "\n" not in said and f"engine.transfer {backend!r}" in said and "sees no CUDA device" in said
    assert "vllm-gpu.txt" in said and "'files'" in said


def test_a_real_server_computes_with_the_weights_that_it_was_sent(tmp_path, transfer, monkeypatch):
    import tcp_transfer

    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parent), prepend=":")
    more = ["--worker-extension-cls", "tcp_transfer.Extension"]
    more += ["--weight-transfer-config", json.dumps({"backend": tcp_transfer.BACKEND})]
    shape = {"slots": 4, "context": tiny.CONTEXT}
    first, second = (tiny.graphdef_and_params(seed)[1] for seed in (1, 2))

    async def sampled(servers):
        engine = engine_over(servers, transfer(lambda info: tcp_transfer.TcpGroup(info, 0)))
        await engine.open()
        for version, params in ((1, first), (2, second)):
            await engine.load_params(params, version)
            ((sample,),) = await engine.generate([GREEDY])
            found.append(sample)
        await engine.close()

    found = []
    with served.servers(
        tmp_path, 1, tiny.config(), tiny.graphdef_and_params()[1], tiny.tokenizer(), more=more, **shape
    ) as started:
        asyncio.run(sampled(started))
    for sample, params in zip(found, (first, second), strict=True):
        wanted = asyncio.run(of_the_jax_engine(params))
        assert sample.token_ids == wanted.token_ids
        np.testing.assert_allclose(sample.log_probs, wanted.log_probs, atol=1e-4)
    assert [sample.policy_version for sample in found] == [1, 2]


async def of_the_jax_engine(params):
    engine = tiny.engine()
    await engine.load_params(params, 0)
    ((sample,),) = await engine.generate([GREEDY])
    await engine.close()
    return sample
