"""The JAX engine's own promise (D2): bit for bit the same sample, whatever runs beside or before it."""

import asyncio
import random

import pytest
import tiny_engine as tiny

from o1jax.engine.interface import Request


def family(seed: int = 0) -> list[Request]:
    """Requests as a tree makes them: prompts that extend one another, and a few strangers."""
    draw = random.Random(seed)
    trunk = [draw.randrange(3, 280) for _ in range(45)]
    lengths = (2, 8, 9, 16, 17, 30, 33, 44)
    tree = [Request(tuple(trunk[:length]), n=3, max_tokens=15, seed=length) for length in lengths]
    strangers = [
        Request(
            tuple(draw.randrange(3, 280) for _ in range(5 + i)), max_tokens=12, seed=i, temperature=0.5 * i
        )
        for i in range(5)
    ]
    filtered = [Request(tuple(trunk[:12]), n=2, max_tokens=15, seed=1, top_k=5, top_p=0.8)]
    return tree + strangers + filtered


def run(requests, *, order=None, concurrency=None, **options):
    """The completions of all requests, handed in by `concurrency` coroutines (None: in one call)."""

    async def one_by_one(engine, indices):
        return [(i, (await engine.generate([requests[i]]))[0]) for i in indices]

    async def whole():
        engine = tiny.engine(**options)
        indices = list(range(len(requests))) if order is None else order
        if concurrency is None:
            completions = await engine.generate([requests[i] for i in indices])
            pairs = list(zip(indices, completions, strict=True))
        else:
            parts = await asyncio.gather(
                *(one_by_one(engine, indices[c::concurrency]) for c in range(concurrency))
            )
            pairs = [pair for part in parts for pair in part]
        stats = engine.stats()
        await engine.close()
        return [samples for _, samples in sorted(pairs, key=lambda pair: pair[0])], stats

    return asyncio.run(whole())


@pytest.fixture(scope="module")
def alone():
    """Every request on an engine of its own."""
    return [run([request])[0][0] for request in family()]


def test_batch_mates_do_not_change_a_bit(alone):
    assert run(family())[0] == alone


@pytest.mark.parametrize("seed", range(3))
def test_order_does_not_change_a_bit(alone, seed):
    order = random.Random(seed).sample(range(len(alone)), len(alone))
    assert run(family(), order=order)[0] == alone


@pytest.mark.parametrize("concurrency", [1, 2, 64])
def test_concurrency_does_not_change_a_bit(alone, concurrency):
    assert run(family(), concurrency=concurrency)[0] == alone


def test_reuse_does_not_change_a_bit(alone):
    twice, stats = run(family() * 2, concurrency=1)
    assert twice == alone * 2
    assert stats["reused_tokens"] > stats["prefill_tokens"] > 0


def test_without_reuse_nothing_is_kept_and_no_bit_changes(alone):
    requests = [Request(**{**vars(request), "reuse_prefix": False}) for request in family()]
    completions, stats = run(requests, concurrency=1)
    assert completions == alone
    assert stats["reused_tokens"] == 0


def test_chunks_of_one_prompt_share_a_prefill_round_and_no_bit_changes(alone):
    """In rounds of two: five full chunks and a part, where the trunk of the family has three already."""
    long = family()[7]
    assert len(long.prompt_ids) == 44
    (samples,), stats = run([long])
    assert samples == alone[7] and stats["prefill_rounds"] == 3
    several, stats = run([family()[5], long], concurrency=1)
    assert several == [alone[5], alone[7]] and stats["prefill_rounds"] == 2 + 2


def test_eviction_does_not_change_a_bit(alone):
    requests = family() + family(seed=1) + family(seed=2) + family()
    completions, stats = run(requests, concurrency=1, prefix_cache_mb=0)
    assert completions[: len(alone)] == completions[-len(alone) :] == alone
    assert stats["prefix_evictions"] > 0


def test_decode_block_length_does_not_change_a_bit(alone):
    assert run(family(), block=1)[0] == alone
    assert run(family(), block=16)[0] == alone


def test_a_block_ahead_does_not_change_a_bit(alone):
    for concurrency in (None, 1, 64):
        completions, stats = run(family() * 2, concurrency=concurrency, ahead=1)
        assert completions == alone * 2
        assert stats["generated_tokens"] == sum(len(s.token_ids) for samples in completions for s in samples)
        assert stats["device_s"] > 0 and 0 < stats["host_s"] < stats["busy_s"]


def test_max_tokens_only_cuts(alone):
    shorter = [Request(**{**vars(request), "max_tokens": 5}) for request in family()]
    completions, _ = run(shorter)
    for cut, whole in zip(completions, alone, strict=True):
        assert [s.token_ids for s in cut] == [s.token_ids[:5] for s in whole]
        assert [s.log_probs for s in cut] == [s.log_probs[:5] for s in whole]
