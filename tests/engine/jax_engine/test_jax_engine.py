"""What is the JAX engine's own: failure of its thread, one compilation, dtype, the copy of weights."""

import asyncio
import dataclasses
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_engine as tiny

from o1jax.engine.interface import Request
from o1jax.engine.jax_engine import engine as jax_engine
from o1jax.engine.jax_engine import scheduler
from o1jax.parallel import processes
from o1jax.records import InputError

PROMPT = tuple(range(40, 53))


def with_engine(use, **options):
    async def whole():
        engine = tiny.engine(**options)
        try:
            return await use(engine)
        finally:
            await engine.close()

    return asyncio.run(whole())


def test_a_failure_of_the_thread_reaches_everybody_who_waits_and_who_comes_later(monkeypatch):
    def broken(*_, **__):
        raise MemoryError("the device is out of memory")

    async def use(engine):
        monkeypatch.setattr(engine._scheduler, "_decode_block", broken)
        waiting = [engine.generate([Request(PROMPT, n=9)]) for _ in range(3)]
        outcomes = await asyncio.gather(*waiting, engine.load_params(None, 1), return_exceptions=True)
        assert all("out of memory" in str(outcome) for outcome in outcomes)
        with pytest.raises(RuntimeError, match="out of memory"):
            await engine.generate([Request(PROMPT)])

    with_engine(use)


def test_a_failure_while_weights_are_loaded_reaches_the_caller(monkeypatch):
    def broken(*_, **__):
        raise MemoryError("no room for two copies")

    async def use(engine):
        monkeypatch.setattr(jax_engine, "placed", broken)
        with pytest.raises(MemoryError):
            await engine.load_params(tiny.graphdef_and_params()[1], 1)

    with_engine(use)


def test_the_old_weights_and_caches_are_gone_before_the_new_ones_need_room(monkeypatch):
    alive, placed = [], jax_engine.placed

    async def use(engine):
        scheduler = engine._scheduler
        held = [scheduler.leaves, scheduler.cache, scheduler.pool]
        old = [weakref.ref(leaf) for leaf in jax.tree.leaves(held)]
        del held

        def spied(*arguments, **named):
            alive.append(sum(reference() is not None for reference in old))
            return placed(*arguments, **named)

        await engine.generate([Request(PROMPT, n=2, max_tokens=3)])
        monkeypatch.setattr(jax_engine, "placed", spied)
        before = await engine.generate([Request(PROMPT, n=2, max_tokens=3)])
        await engine.load_params(tiny.graphdef_and_params()[1], 1)
        after = await engine.generate([Request(PROMPT, n=2, max_tokens=3)])
        assert [c.token_ids for c in before[0]] == [c.token_ids for c in after[0]]

    with_engine(use)
    assert alive == [0]


def test_nothing_recompiles_once_every_program_has_run():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )

    async def use(engine):
        await engine.generate([Request(PROMPT, n=9, max_tokens=5, stop=("a",))])
        warm = len(compiled)
        plain = [
            Request(PROMPT[:k], n=k, max_tokens=3 * k, seed=k, stop=("<Step_End>",)) for k in range(1, 13)
        ]
        filtered = [Request(PROMPT, top_k=3, top_p=0.5, temperature=0.3, stop_ids=tuple(range(20)))]
        await engine.generate([*plain, *filtered])
        return warm, len(compiled)

    warm, after = with_engine(use, slots=5)  # a shape that no other test compiles
    assert 0 < warm == after


def test_the_engine_keeps_its_own_copy_of_the_weights():
    _, params = tiny.graphdef_and_params()
    theirs = jax.tree.map(lambda leaf: leaf.copy(), params)

    async def use(engine):
        await engine.load_params(theirs, 1)
        jax.tree.map(lambda leaf: leaf.delete(), theirs)
        return await engine.generate([Request(PROMPT, max_tokens=4)])

    assert with_engine(use)[0][0].policy_version == 1


def test_a_bfloat16_engine_runs_on_float32_weights():
    async def use(engine):
        return await engine.generate([Request(PROMPT, max_tokens=2, temperature=0.0)])

    ((sample,),) = with_engine(use, dtype="bfloat16")
    assert len(sample.token_ids) == 2 and max(sample.log_probs) <= 0


def test_rows_of_a_padded_vocabulary_are_never_sampled_and_take_no_share():
    config, params = tiny.config(), tiny.graphdef_and_params()[1]
    n, extra = config.vocab_size, 84  # the head is tied: these rows would win whatever the state
    rows_XD = 100 * jnp.ones((extra // 2, config.d_model))
    padded = jax.tree.map(lambda leaf: leaf, params)
    padded["embed_VD"] = padded["embed_VD"].replace(
        jnp.concatenate([params["embed_VD"][...], rows_XD, -rows_XD])
    )
    shape = {"slots": 4, "context": tiny.CONTEXT, "chunk": 8, "prefill_rows": 2, "block": 4}
    request = Request(PROMPT, n=4, max_tokens=12, top_p=0.95, top_k=40, seed=3)

    async def sampled(config, params):
        engine = jax_engine.JaxEngine(config, params, tiny.tokenizer(), **shape)
        found = await engine.generate([request, dataclasses.replace(request, temperature=0.0, n=1)])
        await engine.close()
        return found

    plain = asyncio.run(sampled(config, params))
    same = asyncio.run(sampled(dataclasses.replace(config, vocab_size=n + extra), padded))
    for one, other in zip(sum(plain, []), sum(same, []), strict=True):
        assert other.token_ids == one.token_ids and max(other.token_ids) < n
        np.testing.assert_allclose(other.log_probs, one.log_probs, atol=1e-5)


def test_a_context_that_the_model_or_the_chunks_do_not_fit_is_refused():
    for context in (tiny.CONTEXT * 2, tiny.CONTEXT - 1):
        with pytest.raises(InputError, match=f"context {context}"):
            tiny.engine(context=context)


def test_generate_after_close_raises():
    async def use(engine):
        await engine.close()
        with pytest.raises(RuntimeError, match="closed"):
            await engine.generate([Request(PROMPT)])

    with_engine(use)


def test_the_device_stops_at_a_token_that_holds_the_stop_string():
    """No token is decoded past a reserved stop token, however long the block."""
    stop = tiny.tokenizer().convert_tokens_to_ids("<Step_End>")

    async def use(engine):
        (samples,) = await engine.generate(
            [Request(PROMPT, n=64, max_tokens=50, stop=("<Step_End>",), temperature=2.0)]
        )
        return samples, engine.stats()

    samples, stats = with_engine(use, block=16)
    ended = [sample for sample in samples if sample.finish_reason == "stop"]
    assert ended and all(sample.token_ids[-1] == stop for sample in ended)
    assert stats["wasted_tokens"] == 0


def test_a_large_model_says_once_what_it_compiled(monkeypatch, capsys):
    monkeypatch.setattr(scheduler, "LARGE", 0)
    monkeypatch.setattr(processes, "SLOW_S", 0.0)

    async def use(engine):
        for n in (1, 9):
            await engine.generate([Request(PROMPT, n=n, max_tokens=5)])

    with_engine(use)
    said = [line.partition(" in ")[0] for line in capsys.readouterr().err.splitlines()]
    assert sorted(said) == ["compiled prefill", "compiled the decode step"]
