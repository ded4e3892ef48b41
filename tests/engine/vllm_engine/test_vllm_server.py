"""What the engine over servers does when servers fail, with fakes that fail as told (no vLLM needed)."""

import asyncio
import contextlib
import pathlib
import threading
import time

import pytest
import tiny_engine as tiny
from fake_server import FakeServer

from o1jax.engine.interface import Request
from o1jax.engine.vllm_engine.fleet import ServersDown
from o1jax.engine.vllm_engine.servers import PUSHED, VllmServers
from o1jax.model.hf import checkpoint as hf
from o1jax.model.hf.names import untied
from o1jax.records import InputError

GENERATE = "/inference/v1/generate"
QUICK = {"slots": 4, "context": tiny.CONTEXT, "patience_s": 20, "answer_s": 10, "work_s": 60, "watch_s": 0.05}


def requests(count):
    """One of each problem."""
    return [Request((40 + i,), n=2, max_tokens=5, seed=i, problem=f"problem {i}") for i in range(count)]


@pytest.fixture
def root(tmp_path):
    hf.export(tmp_path / "model", *untied(tiny.config(), tiny.graphdef_and_params()[1]))
    return tmp_path / "model"


@pytest.fixture
def servers(root):
    found = [FakeServer(root) for _ in range(3)]
    yield found
    for server in found:
        server.stop()


@contextlib.asynccontextmanager
async def opened(servers, version=0, **more):
    urls = [server.url for server in servers]
    engine = VllmServers(tiny.config(), tiny.tokenizer(), urls, **QUICK | more)
    try:
        await engine.open()
        await engine.load_params(tiny.graphdef_and_params()[1], version)
        yield engine
    finally:
        await engine.close()


def played(servers, meanwhile=None, count=12, **more):
    """(completions, stats) of some requests, after `meanwhile()`."""

    async def whole():
        async with opened(servers, **more) as engine:
            if meanwhile is not None:
                meanwhile()
            return await engine.generate(requests(count)), engine.stats()

    return asyncio.run(whole())


@pytest.fixture
def undisturbed(root):
    server = FakeServer(root)
    yield played([server])[0]
    server.stop()


def problems_of(server):
    return {tuple(body["token_ids"]) for body in server.asked}


def test_a_problem_stays_with_one_server_and_a_dead_server_moves_only_its_own(servers, undisturbed):
    assert played(servers)[0] == undisturbed
    homes = [problems_of(server) for server in servers]
    assert sum(map(len, homes)) == 12 and all(len(home) < 12 for home in homes)
    for server in servers:
        server.asked.clear()
    dead = max(range(3), key=lambda i: len(homes[i]))
    servers[dead].stop()
    assert played(servers)[0] == undisturbed
    for i in {0, 1, 2} - {dead}:
        assert homes[i] <= problems_of(servers[i])


@pytest.mark.parametrize("fault", [500, "fewer", "garbled"])
def test_what_a_server_does_not_answer_as_asked_is_asked_of_another(servers, undisturbed, fault):
    played(servers)
    bad = max(servers, key=lambda server: len(problems_of(server)))
    completions, stats = played(servers, lambda: bad.faults.update({GENERATE: fault}))
    assert completions == undisturbed
    assert stats["retries"] > 0


def test_samples_of_other_weights_are_not_believed(servers, undisturbed):
    played(servers)
    old = max(servers, key=lambda server: len(problems_of(server)))
    completions, stats = played(servers, lambda: old.faults.update({GENERATE: "old weights"}))
    assert completions == undisturbed
    assert stats["stale_completions"] > 0


def test_a_server_that_hangs_is_left_out_and_what_it_was_asked_moves(servers, undisturbed):
    def hang():
        for path in ("/health", GENERATE):
            servers[0].faults[path] = servers[1].faults[path] = "hang"

    completions, stats = played(servers, hang, answer_s=1.0)
    assert completions == undisturbed
    assert stats["retries"] > 0


def test_a_server_that_comes_back_is_not_believed_until_it_has_the_last_weights(root, servers, undisturbed):
    async def whole():
        async with opened(servers[:1]) as engine:
            servers[0].stop()
            again = FakeServer(root, port=servers[0].port)
            completions = await engine.generate(requests(12))
            return completions, again

    completions, again = asyncio.run(whole())
    again.stop()
    assert completions == undisturbed
    assert GENERATE in again.calls[again.calls.index("/collective_rpc") :]


def test_a_server_that_a_push_did_not_reach_is_not_used_until_it_has_it(servers):
    async def whole():
        async with opened(servers[:2]) as engine:
            servers[1].faults["/collective_rpc"] = 500
            await engine.load_params(tiny.graphdef_and_params(seed=1)[1], 1)
            assert servers[1].label == "incomplete"
            first = await engine.generate(requests(12))
            assert not servers[1].asked
            servers[1].faults.clear()
            while servers[1].label != servers[0].label:
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.2)
            return first, await engine.generate(requests(12))

    first, second = asyncio.run(whole())
    assert {sample.policy_version for samples in first + second for sample in samples} == {1}
    assert servers[1].asked and not servers[1].paused


def test_weights_are_whole_files_that_go_when_they_are_replaced(root, servers):
    async def whole():
        async with opened(servers) as engine:
            (left,) = root.glob(f"{PUSHED}*")
            left.with_name(f"{left.name}_of_a_killed_engine").mkdir()
            await engine.load_params(tiny.graphdef_and_params(seed=1)[1], 1)
            return list(root.glob(f"{PUSHED}*"))

    (pushed,) = asyncio.run(whole())
    for server in servers:
        assert server.pushed[-1] == str(pushed) and len(server.pushed) == 2
    assert not list(root.glob(f"{PUSHED}*"))


def test_a_push_to_other_servers_of_the_model_leaves_the_weights_of_these(root, servers):
    async def whole():
        async with opened(servers[:1]), opened(servers[1:]) as other:
            await other.load_params(tiny.graphdef_and_params(seed=1)[1], 1)
            return [pathlib.Path(server.pushed[-1]).exists() for server in servers]

    assert asyncio.run(whole()) == [True, True, True]
    assert not list(root.glob(f"{PUSHED}*"))


def test_a_server_with_more_samples_than_connections_is_not_taken_for_dead(servers, monkeypatch):
    answer, room = FakeServer.answer, threading.Semaphore(2)

    def slow(server, path, body):
        with room if path == GENERATE else contextlib.nullcontext():
            time.sleep(0.1 if path == GENERATE else 0)
            return answer(server, path, body)

    monkeypatch.setattr(FakeServer, "answer", slow)
    _, stats = played(servers[:1], count=40, slots=2, answer_s=1.0)
    assert stats["retries"] == 0


def test_all_dead_is_one_clear_line_after_the_patience(servers):
    def kill():
        for server in servers:
            server.stop()

    with pytest.raises(ServersDown) as failure:
        played(servers, kill, patience_s=1)
    said = str(failure.value)
    assert (
        "\n" not in said and "no vLLM server of 3 could be used for 1 s" in said and "launch/serve.py" in said
    )


def test_servers_that_never_were_there_are_reported(root):
    server = FakeServer(root)
    server.stop()
    with pytest.raises(ServersDown, match="ConnectError"):
        played([server], patience_s=0.5)


def test_a_sample_is_not_asked_for_for_ever(servers):
    def break_all():
        for server in servers:
            server.faults[GENERATE] = 500

    with pytest.raises(ServersDown, match="failed 3 times, at last so: .* status 500"):
        played(servers, break_all, tries=3)


def test_what_a_server_says_is_wrong_with_a_request_is_not_asked_again(servers):
    def refuse():
        for server in servers:
            server.faults[GENERATE] = 400

    with pytest.raises(InputError, match="status 400"):
        played(servers, refuse)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda server, root: server.faults.update({"/weight_info": 404}), "VLLM_SERVER_DEV_MODE"),
        (lambda server, root: vars(server).update(max_model_len=32), "holds 32 tokens"),
        (
            lambda server, root: edit(root / "config.json", '_embeddings": false', '_embeddings": true'),
            "tied",
        ),
        (lambda server, root: vars(server).update(root="/no/such/place"), "not seen from here"),
        (
            lambda server, root: edit(root / "config.json", '"hidden_size": 128', '"hidden_size": 96'),
            "d_model 96",
        ),
    ],
)
def test_a_server_of_something_else_is_refused(root, change, said):
    server = FakeServer(root)
    change(server, root)
    with pytest.raises(InputError, match=said):
        played([server])
    server.stop()


def edit(path: pathlib.Path, old: str, new: str):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_one_wrong_server_among_right_ones_is_refused_too(servers):
    servers[1].max_model_len = 32
    with pytest.raises(InputError, match="holds 32 tokens"):
        played(servers)


def test_closing_ends_those_who_wait_for_weights(servers):
    async def whole():
        engine = VllmServers(tiny.config(), tiny.tokenizer(), [servers[0].url], **QUICK)
        await engine.open()
        waiting = asyncio.create_task(engine.generate(requests(1)))
        await asyncio.sleep(0.1)
        await engine.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(whole())


def test_endpoints_that_are_no_urls_are_refused():
    for endpoints in ((), ("localhost:8000",)):
        with pytest.raises(InputError, match="engine.endpoints"):
            VllmServers(tiny.config(), tiny.tokenizer(), endpoints)
