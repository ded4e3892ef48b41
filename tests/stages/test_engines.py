"""Which engine a stage's settings open, and what they are refused with."""

import asyncio

import pytest

from o1jax.engine.vllm_engine import settings as vllm_settings
from o1jax.records import InputError
from o1jax.stages import settings, workers


def parsed(**engine):
    return settings.parse(workers.EngineSettings, engine, "engine")


def test_an_unknown_engine_is_refused_by_name():
    with pytest.raises(InputError, match="engine.name: saw 'sglang', wanted one of jax, vllm, vllm_server"):
        parsed(name="sglang")


@pytest.mark.parametrize(
    "engine, said",
    [
        ({"name": "vllm_server"}, "engine.endpoints: saw \\[\\] with engine.name 'vllm_server'"),
        ({"name": "jax", "endpoints": ["http://x"]}, "and none with another"),
        ({"dtype": "float16"}, "engine.dtype: saw 'float16'"),
        ({"name": "vllm", "tensor": 2}, "engine.tensor: saw 2 with engine.name 'vllm'; leave it at 1"),
        ({"name": "vllm", "replicas": 1}, "engine.replicas: saw 1 with engine.name 'vllm'; leave it at 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(engine, said):
    with pytest.raises(InputError, match=said):
        parsed(**engine)


@pytest.mark.skipif(vllm_settings.is_here(), reason="vLLM is installed here")
def test_without_vllm_the_error_says_how_to_get_it():
    with pytest.raises(InputError, match="make install-vllm"):
        asyncio.run(workers.open_engine(None, parsed(name="vllm")))
