"""What every engine promises (interface.py), run against each of ENGINES on the same float32 weights.

Bit-for-bit promises that only the JAX engine makes are in test_same_bits.py; vLLM gives the same tokens, and
log-probs that differ in their last bits with what runs beside a sample.
"""

import asyncio
import dataclasses

import jax
import numpy as np
import pytest
import tiny_engine as tiny

from o1jax.engine.interface import Request
from o1jax.prompts.ends import end_ids
from o1jax.records import InputError

ENGINES = [
    "jax",
    "replicas",
    *(pytest.param(name, marks=pytest.mark.vllm) for name in ("vllm", "vllm_server")),
]
PROMPT = tuple(range(40, 53))


@pytest.fixture(params=ENGINES)
def lent(request):
    return request.getfixturevalue(f"{request.param}_lent")


@pytest.fixture
def started(lent):
    """Runs `use(engine)` on an engine with tiny's weights, inside one event loop."""

    def run(use):
        async def whole():
            async with lent() as engine:
                return await use(engine)

        return asyncio.run(whole())

    return run


def assert_same(seen, wanted):
    """Completions alike but for the last bits of their log-probs."""
    for a, b in zip(seen, wanted, strict=True):
        assert (a.token_ids, a.text, a.finish_reason) == (b.token_ids, b.text, b.finish_reason)
        assert a.policy_version == b.policy_version
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-4)


def longest(started, **sampled):
    """(index, sample) of the longest of some samples of up to 30 tokens."""
    (samples,) = generate(started, Request(PROMPT, n=8, max_tokens=30, seed=3, **sampled))
    return max(enumerate(samples), key=lambda pair: len(pair[1].token_ids))


def generate(started, *requests):
    async def use(engine):
        return await engine.generate(requests)

    return started(use)


def test_every_request_gets_its_samples_in_order(started):
    requests = [
        Request(PROMPT[:length], n=n, max_tokens=6, seed=length) for length, n in ((1, 1), (9, 7), (13, 2))
    ]
    completions = generate(started, *requests)
    assert [len(samples) for samples in completions] == [1, 7, 2]
    assert len({sample.token_ids for sample in completions[1]}) > 1


def test_samples_from_a_number_on_are_those_of_a_request_for_all(started):
    request = Request(PROMPT, n=5, max_tokens=8, seed=3)
    whole, some = generate(started, request, dataclasses.replace(request, n=2, first=3))
    assert_same(some, whole[3:])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_equal_the_trainers(started, temperature):
    (samples,) = generate(started, Request(PROMPT, n=3, max_tokens=20, temperature=temperature, seed=5))
    for sample in samples:
        _, wanted = tiny.full_forward(PROMPT, sample.token_ids, temperature)
        np.testing.assert_allclose(sample.log_probs, wanted, atol=1e-4)


def test_greedy_takes_the_likeliest_token_with_its_log_prob_at_temperature_1(started):
    ((sample,),) = generate(started, Request(PROMPT, max_tokens=20, temperature=0.0))
    logits_TV, log_probs_T = tiny.full_forward(PROMPT, sample.token_ids)
    np.testing.assert_allclose(sample.log_probs, log_probs_T, atol=1e-4)
    assert tuple(logits_TV.argmax(axis=-1)) == sample.token_ids


def test_top_k_and_top_p_renormalise_the_log_probs(started):
    ((one,), (few,)) = generate(
        started,
        Request(PROMPT, max_tokens=8, top_k=1, temperature=0.9),
        Request(PROMPT, max_tokens=8, top_p=0.5, top_k=20, seed=1),
    )
    assert one.log_probs == (0.0,) * len(one.token_ids)
    logits_TV, _ = tiny.full_forward(PROMPT, few.token_ids)
    probs_TV = np.exp(logits_TV) / np.exp(logits_TV).sum(axis=-1, keepdims=True)
    for probs_V, token, log_prob in zip(probs_TV, few.token_ids, few.log_probs, strict=True):
        order = np.argsort(-probs_V)[:20]
        top_V = probs_V[order] / probs_V[order].sum()
        kept = order[np.cumsum(top_V) - top_V < 0.5]
        assert token in kept
        np.testing.assert_allclose(log_prob, np.log(probs_V[token] / probs_V[kept].sum()), atol=1e-4)


def test_a_stop_string_keeps_the_token_that_holds_its_end(started):
    index, plain = longest(started)
    decode = tiny.tokenizer().decode
    pairs = [plain.token_ids[i : i + 2] for i in range(2, len(plain.token_ids) - 1)]
    stop = next(text for text in map(decode, pairs) if text.isascii() and text.isprintable())
    request = Request(PROMPT, n=8, max_tokens=30, seed=3, stop=(stop,))
    stopped = generate(started, request)[0][index]
    length = next(t for t in range(1, 31) if stop in decode(plain.token_ids[:t]))
    assert stopped.token_ids == plain.token_ids[:length] and stopped.finish_reason == "stop"
    np.testing.assert_allclose(stopped.log_probs, plain.log_probs[:length], atol=1e-4)
    assert stop in stopped.text


def test_a_stop_token_ends_the_sample_and_is_kept(started):
    index, plain = longest(started)
    token = plain.token_ids[10]
    request = Request(PROMPT, n=8, max_tokens=30, seed=3, stop_ids=(token,))
    stopped = generate(started, request)[0][index]
    assert stopped.token_ids == plain.token_ids[: plain.token_ids.index(token) + 1]
    assert stopped.finish_reason == "stop"


def test_every_end_token_ends_a_sample_and_is_kept_in_the_ids_and_not_in_the_text(started):
    (samples,) = generate(started, Request(PROMPT, n=64, max_tokens=50, temperature=2.0))
    ends, ended = set(end_ids(tiny.tokenizer())), [s for s in samples if s.finish_reason == "eos"]
    assert {sample.token_ids[-1] for sample in ended} == ends and len(ends) == 2
    for sample in samples:
        assert ends.isdisjoint(sample.token_ids[:-1])
    for sample in ended:
        assert sample.text == tiny.tokenizer().decode(sample.token_ids[:-1])


def test_max_tokens_is_cut_to_what_the_context_holds(started):
    prompt = tuple(range(10, 10 + tiny.CONTEXT - 3))
    ((sample,),) = generate(started, Request(prompt, max_tokens=1000, temperature=0.0))
    assert len(sample.token_ids) == 3 and sample.finish_reason == "length"
    np.testing.assert_allclose(sample.log_probs, tiny.full_forward(prompt, sample.token_ids)[1], atol=1e-4)


@pytest.mark.parametrize(
    "bad",
    [
        Request(tuple(range(tiny.CONTEXT))),
        Request(()),
        Request((10**6,)),
        Request(PROMPT, n=0),
        Request(PROMPT, temperature=-1.0),
        Request(PROMPT, top_p=0.0),
        Request(PROMPT, stop=("",)),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_before_anything_runs(started, bad):
    async def use(engine):
        before = engine.stats()["generated_tokens"]
        with pytest.raises(InputError) as refusal:
            await engine.generate([Request(PROMPT, max_tokens=2), bad])
        assert "request 1" in str(refusal.value) and "\n" not in str(refusal.value)
        assert engine.stats()["generated_tokens"] == before
        return await engine.generate([Request(PROMPT, max_tokens=2)])

    assert len(started(use)[0][0].token_ids) > 0


def test_a_cancelled_request_frees_its_slots_and_disturbs_nobody(started):
    other = Request(PROMPT, n=4, max_tokens=20, seed=9)

    async def use(engine):
        before = engine.stats()["generated_tokens"]
        long = asyncio.create_task(
            engine.generate([Request(PROMPT, n=40, max_tokens=50, seed=i) for i in range(8)])
        )
        beside = asyncio.create_task(engine.generate([other]))
        await asyncio.sleep(0.05)
        long.cancel()
        with pytest.raises(asyncio.CancelledError):
            await long
        found = (await beside)[0], (await engine.generate([other]))[0]
        return *found, engine.stats()["generated_tokens"] - before

    beside, after, generated = started(use)
    alone = generate(started, other)[0]
    assert_same(beside, alone)
    assert_same(after, alone)
    assert generated < 8 * 40 * 50 / 2


def test_new_weights_wait_for_what_runs_and_leave_nothing_of_the_old(started):
    request = Request(PROMPT, n=6, max_tokens=20, seed=2)
    _, new = tiny.graphdef_and_params(seed=1)

    async def use(engine):
        before = asyncio.create_task(engine.generate([request] * 3))
        await asyncio.sleep(0)
        loading = asyncio.create_task(engine.load_params(new, 7))
        await asyncio.sleep(0)
        after = asyncio.create_task(engine.generate([request]))
        await loading
        return await before, await after, await engine.generate([request])

    before, after, again = started(use)
    assert {sample.policy_version for samples in before for sample in samples} == {0}
    for samples in before[0], before[1]:
        assert_same(samples, generate(started, request)[0])
    assert_same(after[0], again[0])
    assert {sample.policy_version for sample in after[0]} == {7}
    assert after[0][0].token_ids != before[0][0].token_ids


def test_after_a_push_the_log_probs_are_those_of_the_new_weights(started):
    _, new = tiny.graphdef_and_params(seed=1)

    async def use(engine):
        await engine.load_params(new, 1)
        return await engine.generate([Request(PROMPT, n=3, max_tokens=20, seed=5)])

    for sample in started(use)[0]:
        _, wanted = tiny.full_forward(PROMPT, sample.token_ids, seed=1)
        np.testing.assert_allclose(sample.log_probs, wanted, atol=1e-4)


def test_weights_of_another_shape_are_refused_and_the_old_ones_stay(started):
    _, params = tiny.graphdef_and_params()

    async def use(engine):
        with pytest.raises(InputError, match="shape"):
            await engine.load_params(jax.tree.map(lambda leaf: leaf[:1], params), 1)
        return await engine.generate([Request(PROMPT, max_tokens=2)])

    assert started(use)[0][0].policy_version == 0


def test_stats_count_what_was_generated(started):
    async def use(engine):
        before = engine.stats()["generated_tokens"]
        completions = await engine.generate([Request(PROMPT, n=5, max_tokens=9), Request(PROMPT[:3], seed=4)])
        return completions, engine.stats(), engine.stats()["generated_tokens"] - before

    completions, stats, generated = started(use)
    assert generated == sum(len(s.token_ids) for samples in completions for s in samples)
    assert 0 < stats["slot_occupancy"] <= 1 and stats["busy_s"] > 0 and stats["prefill_tokens"] > 0


def test_greedy_text_is_that_of_the_jax_engine(started, jax_lent):
    requests = [Request(PROMPT[:k], max_tokens=40, temperature=0.0) for k in (1, 5, 13)]

    async def jax_engine():
        async with jax_lent() as engine:
            return await engine.generate(requests)

    for seen, wanted in zip(generate(started, *requests), asyncio.run(jax_engine()), strict=True):
        assert_same(seen, wanted)


def test_closing_cancels_what_still_runs(lent):
    async def whole():
        async with lent(closes=True) as engine:
            running = asyncio.create_task(engine.generate([Request(PROMPT, n=40, max_tokens=50)] * 20))
            await asyncio.sleep(0.05)
            await engine.close()
            with pytest.raises(asyncio.CancelledError):
                await running
            with pytest.raises(RuntimeError, match="closed"):
                await engine.generate([Request(PROMPT)])

    asyncio.run(whole())
