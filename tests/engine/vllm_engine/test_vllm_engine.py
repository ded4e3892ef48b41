"""What is vLLM's own in process: the prefix cache after a push, dtype, what it does not serve."""

import asyncio
import dataclasses

import numpy as np
import pytest
import tiny_engine as tiny

from o1jax.engine.interface import Request
from o1jax.engine.vllm_engine import settings
from o1jax.records import InputError

LONG = tuple(range(10, 50))  # more than a block, so that its keys and values are kept
GREEDY = Request(LONG, max_tokens=12, temperature=0.0)


@pytest.mark.vllm
def test_without_a_reset_of_the_prefix_cache_a_push_gives_wrong_answers(vllm_lent, monkeypatch):
    from vllm import LLMEngine

    _, new = tiny.graphdef_and_params(seed=1)

    async def after_a_push(resets):
        async with vllm_lent() as engine:
            await engine.generate([GREEDY])  # fills the cache under the old weights
            with monkeypatch.context() as patch:
                if not resets:
                    patch.setattr(LLMEngine, "reset_prefix_cache", lambda *_: True)
                await engine.load_params(new, 1)
            return (await engine.generate([GREEDY]))[0][0]

    wanted = asyncio.run(of_the_jax_engine(new))
    right, stale = asyncio.run(after_a_push(True)), asyncio.run(after_a_push(False))
    assert right.token_ids == wanted.token_ids
    np.testing.assert_allclose(right.log_probs, wanted.log_probs, atol=1e-4)
    assert np.abs(stale.log_probs[0] - wanted.log_probs[0]) > 1e-2


async def of_the_jax_engine(params):
    engine = tiny.engine()
    await engine.load_params(params, 1)
    ((sample,),) = await engine.generate([GREEDY])
    await engine.close()
    return sample


@pytest.mark.vllm
def test_prefixes_of_whole_blocks_are_reused_and_counted(vllm_lent):
    async def use():
        async with vllm_lent() as engine:
            before = engine.stats()
            await engine.generate([dataclasses.replace(GREEDY, n=3)])
            after = engine.stats()
            return {name: after[name] - before[name] for name in after}

    counted = asyncio.run(use())
    assert counted["reused_tokens"] == 2 * settings.BLOCK
    assert counted["prefill_tokens"] + counted["reused_tokens"] == 3 * len(LONG)


@pytest.mark.vllm
def test_a_temperature_that_vllm_would_raise_is_refused(vllm_lent):
    async def use():
        async with vllm_lent() as engine:
            await engine.generate([Request(LONG, temperature=0.001)])

    with pytest.raises(InputError, match="temperature 0.001"):
        asyncio.run(use())


@pytest.mark.vllm
def test_a_request_that_vllm_refuses_disturbs_nobody(vllm_lent, monkeypatch):
    from vllm import LLMEngine

    async def use():
        async with vllm_lent() as engine:
            add = LLMEngine.add_request

            def refusing(self, key, prompt, params):
                if params.max_tokens == 7:
                    raise ValueError("seven\nis refused")
                return add(self, key, prompt, params)

            monkeypatch.setattr(LLMEngine, "add_request", refusing)
            good = asyncio.create_task(engine.generate([Request(LONG, n=2, max_tokens=9)]))
            with pytest.raises(InputError, match="seven is refused"):
                await engine.generate([Request(LONG, max_tokens=7)])
            return await good

    assert len(asyncio.run(use())[0]) == 2


@pytest.mark.parametrize(
    "change, said",
    [
        ({"head_dim": 16}, "heads of 16"),
        ({"head_dim": 64}, "width / heads"),
        ({"max_context": 32}, "context 64"),
    ],
)
def test_models_that_vllm_does_not_serve_are_refused_in_one_line(change, said):
    family = {"family": "llama", "qkv_bias": False} if change == {"head_dim": 16} else {}
    config = dataclasses.replace(tiny.config(), **family, **change)
    with pytest.raises(InputError, match=said):
        settings.arguments(config, slots=4, context=64, dtype="float32", cpu=True)
