"""Engines for the contract. Each fixture gives a function that lends an engine with the weights of
tiny.graphdef_and_params() as version 0; vLLM's, slow to start, are lent again and again."""

import contextlib

import pytest
import tiny_engine as tiny

from o1jax.engine.replicas import Replicas


@pytest.fixture
def jax_lent():
    @contextlib.asynccontextmanager
    async def lend(closes=False):
        engine = tiny.engine()
        yield engine
        await engine.close()

    return lend


@pytest.fixture
def replicas_lent():
    @contextlib.asynccontextmanager
    async def lend(closes=False):
        engine = Replicas([tiny.engine(params=None), tiny.engine(params=None)])
        await engine.load_params(tiny.graphdef_and_params()[1], 0)
        yield engine
        await engine.close()

    return lend


@pytest.fixture(scope="session")
def vllm_lent():
    from o1jax.engine.vllm_engine.in_process import VllmEngine

    _, params = tiny.graphdef_and_params()
    kept = []

    @contextlib.asynccontextmanager
    async def lend(closes=False):
        if not kept:
            kept.append(VllmEngine(tiny.config(), params, tiny.tokenizer(), slots=4, context=tiny.CONTEXT))
        await kept[0].load_params(params, 0)
        yield kept[0]
        if closes:
            kept.clear()

    return lend


@pytest.fixture(scope="session")
def vllm_server_lent(tmp_path_factory):
    import served

    from o1jax.engine.vllm_engine.servers import VllmServers

    _, params = tiny.graphdef_and_params()
    directory = tmp_path_factory.mktemp("served")

    @contextlib.asynccontextmanager
    async def lend(closes=False):
        engine = VllmServers(
            tiny.config(), tiny.tokenizer(), [server.url for server in started], slots=4, context=tiny.CONTEXT
        )
        await engine.open()
        await engine.load_params(params, 0)
        yield engine
        await engine.close()

    shape = {"slots": 4, "context": tiny.CONTEXT}
    with served.servers(directory, 1, tiny.config(), params, tiny.tokenizer(), **shape) as started:
        yield lend
