"""The step scorer: right scores, whoever is scored beside; many callers, one device; failures are told."""

import asyncio
import dataclasses
import functools
import itertools
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import transformers

from o1jax.engine.step_scorer import Path, StepScorer, buckets_of, score_ids
from o1jax.model.config import ModelConfig
from o1jax.model.init import init_params, merge
from o1jax.parallel.mesh import make_mesh
from o1jax.prompts import nano_tokenizer
from o1jax.records import InputError

CONFIG = ModelConfig(
    family="qwen2",
    vocab_size=64,
    d_model=16,
    n_layers=1,
    n_heads=2,
    n_kv_heads=1,
    head_dim=8,
    d_ff=32,
    max_context=64,
    tie_embeddings=True,
    qkv_bias=True,
)
GOOD, BAD, CONTEXT = 5, 9, 48


@functools.cache
def model():
    """(graphdef, params), larger than an initialisation, so that scores spread."""
    graphdef, params = init_params(CONFIG, 0, make_mesh(devices=jax.devices()[:1]))
    return graphdef, jax.tree.map(lambda leaf: leaf * 6, params)


def paths(n: int, seed: int = 0) -> list[Path]:
    random = np.random.RandomState(seed)
    lengths = random.randint(4, CONTEXT + 1, size=n)
    return [
        Path(
            tuple(random.randint(0, 64, size=length).tolist()),
            (1, length // 2, length - 1),
            (False, False, True),
            1,
        )
        for length in map(int, lengths)
    ]


def scorer(config=CONFIG, **options) -> StepScorer:
    return StepScorer(config, *model(), GOOD, BAD, **{"slots": 4, "context": CONTEXT} | options)


def run(use, **options):
    """What `use` returns of a scorer in a fresh event loop."""

    async def whole():
        started = scorer(**options)
        try:
            return await use(started)
        finally:
            await started.close()

    return asyncio.run(whole())


def held_back(scorer) -> threading.Event:
    """The scorer's forward passes wait for this event."""
    (lane,) = scorer._lanes  # a test has one device
    release, program = threading.Event(), lane._program
    lane._program = lambda *arguments: release.wait(30) and program(*arguments)
    return release


async def until(holds) -> None:
    while not holds():
        await asyncio.sleep(0.001)


def full_logits(token_ids) -> np.ndarray:
    """logits_TV of a path by itself, without padding."""
    graphdef, params = model()

    @jax.jit
    def program(params, tokens_BT):
        network, positions_BT = merge(graphdef, params), jnp.arange(tokens_BT.shape[1])[None]
        return network.logits(network(tokens_BT, positions_BT, jnp.ones_like(tokens_BT)))[0]

    return np.asarray(program(params, jnp.array([token_ids])))


def test_every_step_is_scored_at_its_last_token_as_full_logits_say():
    path = paths(1)[0]
    (found,) = run(lambda scorer: scorer.score([path]))
    logits_TV = full_logits(path.token_ids)
    wanted = 1 / (1 + np.exp(logits_TV[:, BAD] - logits_TV[:, GOOD]))
    np.testing.assert_allclose(found, wanted[list(path.step_ends)], atol=1e-5)
    assert np.ptp(wanted) > 0.2


def test_a_steps_own_log_likelihood_is_added_by_the_weight_of_its_kind():
    path = paths(1)[0]
    config = dataclasses.replace(CONFIG, score_likelihood=0.1, score_step_likelihood=0.05)
    (found,) = run(lambda scorer: scorer.score([path]), config=config)
    (alone,) = run(lambda scorer: scorer.score([path]))
    log_probs_TV = np.asarray(jax.nn.log_softmax(full_logits(path.token_ids)))
    own = [0.0, *(log_probs_TV[t - 1, path.token_ids[t]] for t in range(1, len(path.token_ids)))]
    starts = (path.prompt_tokens - 1, *path.step_ends)
    sums = [sum(own[start + 1 : end + 1]) for start, end in itertools.pairwise(starts)]
    wanted = np.multiply(sums, [0.05, 0.05, 0.1])
    added = np.log(np.divide(found, np.subtract(1, found))) - np.log(np.divide(alone, np.subtract(1, alone)))
    np.testing.assert_allclose(added, wanted, atol=1e-4)
    assert np.ptp(added) > 0.2


def test_a_heads_weights_are_of_the_state_at_the_prompts_end():
    path, weights = paths(1)[0], np.random.default_rng(0).standard_normal(CONFIG.d_model)
    config = dataclasses.replace(CONFIG, score_prompt=tuple(weights.tolist()))
    ends = (len(path.token_ids) - 2, len(path.token_ids) - 1)
    asked = [Path(path.token_ids, ends, (False, True), n) for n in (1, 2)]
    found = run(lambda scorer: scorer.logits(asked), config=config)
    graphdef, params = model()
    tokens_BT = jnp.array([path.token_ids])
    hidden_BTD = merge(graphdef, params)(
        tokens_BT, jnp.arange(tokens_BT.shape[1])[None], jnp.ones_like(tokens_BT)
    )
    wanted_T = np.asarray(hidden_BTD[0]) @ weights
    np.testing.assert_allclose(found, np.repeat(wanted_T[:2, None], 2, axis=1), rtol=1e-3, atol=1e-3)


def test_scores_are_calibrated_by_the_steps_number_and_logits_are_not():
    path, config = paths(1)[0], dataclasses.replace(CONFIG, score_calibration=((2.0, 0.5), (0.5, -1.0)))

    async def use(scorer):
        return (await scorer.score([path]))[0], (await scorer.logits([path]))[0]

    (found, logits), (plain, same) = run(use, config=config), run(use)
    assert logits == same  # to the bit
    np.testing.assert_allclose(plain, 1 / (1 + np.exp(-np.array(logits))), rtol=1e-12)
    shifted = np.array([2.0, 0.5, 0.5]) * logits + [0.5, -1.0, -1.0]
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-shifted)), rtol=1e-12)


def test_together_or_one_by_one_in_any_order_the_scores_are_the_same():
    everything = paths(11)

    async def use(scorer):
        together = await scorer.score(everything)
        alone = [(await scorer.score([path]))[0] for path in everything]
        backwards = await scorer.score(everything[::-1])
        return together, alone, backwards[::-1]

    together, alone, backwards = run(use)
    assert together == alone == backwards  # to the bit


def test_many_coroutines_share_passes_and_get_their_own_scores():
    everything = paths(24)

    async def use(scorer):
        wanted = await scorer.score(everything)
        before = scorer.stats()
        each = await asyncio.gather(*(scorer.score([path]) for path in everything))
        return wanted, each, before, scorer.stats()

    wanted, each, before, after = run(use)
    np.testing.assert_allclose(wanted, [scores for (scores,) in each], atol=1e-6)
    tokens = sum(len(path.token_ids) for path in everything)
    assert (after["paths"], after["tokens"]) == (48, 2 * tokens) and after["busy_s"] > before["busy_s"]
    assert before["passes"] <= 7 and after["passes"] - before["passes"] < 24 / 2


def test_the_event_loop_runs_on_while_the_device_works():
    async def use(scorer):
        release = held_back(scorer)
        scores = asyncio.create_task(scorer.score(paths(2)))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not scores.done()
        release.set()
        return await scores

    began = time.monotonic()
    assert len(run(use)) == 2 and time.monotonic() - began < 25


def test_few_programs_are_compiled_for_any_mixture_of_lengths():
    async def use(scorer):
        for n in (1, 3, 9):
            await scorer.score(paths(n, seed=n))
        return scorer._lanes[0]._program.func._cache_size()

    assert run(use) <= len(buckets_of(CONTEXT)) == 2


def test_buckets_are_powers_of_two_up_to_the_context():
    assert (
        buckets_of(256) == (32, 64, 128, 256) and buckets_of(100) == (32, 64, 100) and buckets_of(7) == (7,)
    )


@pytest.mark.parametrize(
    "path, message",
    [
        (Path((1,) * 49, (1,), (True,), 1), "path 1 has 49 tokens, the scorer takes 1 to 48"),
        (Path((), (), (), 1), "path 1 has 0 tokens"),
        (Path((1, 2, 3), (1, 3), (True, True), 1), r"path 1: step ends \(1, 3\) outside its 3 tokens"),
        (Path((1, 2, 3), (-1,), (True,), 1), r"step ends \(-1,\) outside"),
        (Path((1, 64), (1,), (True,), 1), "outside the vocabulary of 64"),
        (Path((1, 2, 3), (1, 2), (True,), 1), r"\(True,\) say which of 2 steps are programs"),
        (Path((1, 2, 3), (2,), (True,), 0), "a prompt of 0 of 3 tokens; wanted one a step, and a prompt"),
        (Path((1, 2, 3), (2, 1), (False, True), 1), r"steps end at \(2, 1\), not one after the other"),
        (Path((1, 2, 3), (1,), (True,), 3), "not one after the other"),
    ],
)
def test_a_malformed_path_is_refused_before_anything_runs(path, message):
    async def use(scorer):
        with pytest.raises(InputError, match=message):
            await scorer.score([*paths(1), path])
        return scorer.stats()

    assert run(use)["paths"] == 0


def test_a_path_without_steps_has_no_scores_and_no_paths_give_none():
    async def use(scorer):
        return await scorer.score([Path((1, 2, 3), (), (), 1)]), await scorer.score([])

    assert run(use) == ([()], [])


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="context 65: wanted 1 to the model's 64"):
        scorer(context=65)
    with pytest.raises(InputError, match="score tokens 5 and 64"):
        StepScorer(CONFIG, *model(), 5, 64, context=CONTEXT)


def test_a_failure_of_the_device_reaches_every_caller_and_those_to_come():
    async def use(scorer):
        def fail(*arguments):
            raise jax.errors.JaxRuntimeError("the device is gone")

        scorer._lanes[0]._program = fail
        found = await asyncio.gather(*(scorer.score(paths(6)) for _ in range(3)), return_exceptions=True)
        assert all("the device is gone" in str(error) for error in found)
        with pytest.raises(RuntimeError, match="the step scorer stopped: the device is gone"):
            await scorer.score(paths(1))

    run(use)


def test_a_closed_scorer_refuses_and_cancels_what_waits():
    async def use(scorer):
        release = held_back(scorer)
        begun = asyncio.create_task(scorer.score(paths(1)))
        await until(lambda: scorer._lanes[0]._running)
        waits = asyncio.create_task(scorer.score(paths(4)))
        await asyncio.sleep(0)
        closing = asyncio.create_task(scorer.close())
        await until(lambda: scorer._lanes[0].thread.closed)
        release.set()
        found = await asyncio.gather(begun, waits, closing, return_exceptions=True)
        assert len(found[0]) == 1 and isinstance(found[1], asyncio.CancelledError)
        with pytest.raises(RuntimeError, match="closed"):
            await scorer.score(paths(1))

    run(use)


def test_a_caller_that_gives_up_disturbs_nobody():
    async def use(scorer):
        release = held_back(scorer)
        given_up, stays = (asyncio.create_task(scorer.score(paths(5))) for _ in range(2))
        await asyncio.sleep(0.01)
        given_up.cancel()
        release.set()
        return await stays, await scorer.score(paths(5))

    first, second = run(use)
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_donated_parameters_do_not_reach_the_scorer():
    graphdef, params = model()
    mine = jax.tree.map(lambda leaf: leaf + 0, params)

    async def use():
        scorer = StepScorer(CONFIG, graphdef, mine, GOOD, BAD, slots=4, context=CONTEXT)
        jax.tree.map(lambda leaf: leaf.delete(), mine)
        scores = await scorer.score(paths(2))
        await scorer.close()
        return scores

    np.testing.assert_allclose(asyncio.run(use()), run(lambda scorer: scorer.score(paths(2))), atol=1e-6)


def test_the_score_tokens_are_the_nano_tokenizers_reserved_ones():
    tokenizer = nano_tokenizer.train(["def f(x):\n    return x + 1 - 2\n"] * 4, 300)
    good, bad = score_ids(tokenizer)
    assert good != bad and tokenizer.decode([good]) == " +" and tokenizer.decode([bad]) == " -"


def test_a_tokenizer_that_splits_a_score_token_is_refused():
    letters = tokenizers.Tokenizer(tokenizers.models.BPE())
    letters.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=256, initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    )
    letters.train_from_iterator([], trainer)
    with pytest.raises(InputError, match="needs one token for each"):
        score_ids(transformers.PreTrainedTokenizerFast(tokenizer_object=letters))
