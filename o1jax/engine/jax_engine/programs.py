"""The engine's three device programs: prefill chunks, copy chunks into slots, decode a block.

Each has one shape a run, so nothing recompiles and a row's bits do not depend on its neighbours (D2).
A pool is a KVCache of `chunk` tokens a row (its last row is scratch); a slot cache has one row a
slot. Both lie as `sharding` says (kv_cache.cache_sharding), on all devices that the model is split over.
Which request is where is the scheduler's business.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.lax import with_sharding_constraint
from jax.sharding import NamedSharding

from o1jax.model.init import merge
from o1jax.model.kv_cache import KVCache, Pages, read, write
from o1jax.parallel.mesh import replicated, spec_of

GROUP = 32  # tokens a group of the two-level inverse CDF
STOP_IDS = 8  # stop tokens a slot that the device itself can see: every step compares with each


# Sampling: one token a row from logits, and its log-prob under temperature, top-k and top-p.


def uniform(seed_B: jax.Array, counter_B: jax.Array) -> jax.Array:
    """float32 in [0, 1) with 24 random bits, a pure function of (seed, counter), both [B] uint32.

    Two rounds of murmur3's finaliser; the seed enters before and between them, so that two seeds'
    streams are not shifts of one another.
    """
    # One number a token: jax.random's threefry over the vocabulary costs milliseconds a token on a CPU.
    mixed_B = _finalise(counter_B * jnp.uint32(0x9E3779B9) ^ _finalise(seed_B + jnp.uint32(0x7F4A7C15)))
    mixed_B = _finalise(mixed_B + seed_B * jnp.uint32(0x85EBCA77))
    return (mixed_B >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)


def _finalise(x_B: jax.Array) -> jax.Array:
    """murmur3's 32-bit finaliser (Appleby): every input bit flips every output bit half the time."""
    x_B = (x_B ^ (x_B >> 16)) * jnp.uint32(0x85EBCA6B)
    x_B = (x_B ^ (x_B >> 13)) * jnp.uint32(0xC2B2AE35)
    return x_B ^ (x_B >> 16)


def sample(
    logits_BV: jax.Array,
    uniform_B: jax.Array,
    temperature_B: jax.Array,
    top_p_B: jax.Array,
    top_k_B: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Token ids [B] int32 and their log-probs [B] float32 under the distribution sampled from.

    Temperature comes first, then top_k (0: all), then top_p over what is left, as in vLLM; ties at
    a threshold are all kept. Temperature 0 takes the largest logit, with its log-prob at
    temperature 1 and no filter. A row depends on its own inputs alone.
    """
    greedy_B = temperature_B <= 0
    scaled_BV = logits_BV.astype(jnp.float32) / jnp.where(greedy_B, 1.0, temperature_B)[:, None]
    filtered_B = ~greedy_B & ((top_k_B > 0) | (top_p_B < 1))
    # A filter is a threshold on the logits, -inf where there is none, so that a row without one has the same
    # bits whether or not another row is filtered. Most batches have none: then its 64 sums are not computed.
    threshold_B = jax.lax.cond(
        jnp.any(filtered_B),
        lambda: jnp.where(filtered_B, filter_threshold(scaled_BV, top_p_B, top_k_B), -jnp.inf),
        lambda: jnp.full(filtered_B.shape, -jnp.inf, jnp.float32),
    )
    kept_BV = jnp.where(scaled_BV >= threshold_B[:, None], scaled_BV, -jnp.inf)
    weights_BV = jnp.exp(kept_BV - jnp.max(kept_BV, axis=-1, keepdims=True))
    drawn_B = jnp.where(greedy_B, first_largest(scaled_BV), inverse_cdf(weights_BV, uniform_B))
    chosen_B = jnp.take_along_axis(kept_BV, drawn_B[:, None], axis=-1)[:, 0]
    log_total_B = jnp.log(jnp.sum(weights_BV, axis=-1)) + jnp.max(kept_BV, axis=-1)
    return drawn_B.astype(jnp.int32), chosen_B - log_total_B


def first_largest(x_BV: jax.Array) -> jax.Array:
    """argmax over V, [B], of finite numbers; as two plain reductions a twentieth of its time on a CPU."""
    V = x_BV.shape[-1]
    largest_BV = x_BV == jnp.max(x_BV, axis=-1, keepdims=True)
    return jnp.min(jnp.where(largest_BV, jnp.arange(V), V - 1), axis=-1)


def inverse_cdf(weights_BV: jax.Array, uniform_B: jax.Array) -> jax.Array:
    """The token in which the cumulative weight passes uniform * total, [B]; never one of weight 0.

    Two levels, groups of tokens and then the tokens of one group, because a cumulative sum over
    the vocabulary is slow on a CPU.
    """
    B, V = weights_BV.shape
    grouped_BCG = jnp.pad(weights_BV, ((0, 0), (0, -V % GROUP))).reshape(B, -1, GROUP)
    sums_BC = jnp.sum(grouped_BCG, axis=-1)
    group_B, left_B = _first_past(sums_BC, uniform_B * jnp.sum(sums_BC, axis=-1))
    inside_BG = jnp.take_along_axis(grouped_BCG, group_B[:, None, None], axis=1)[:, 0]
    token_B, _ = _first_past(inside_BG, left_B)
    return group_B * GROUP + token_B


def _first_past(weights_BX: jax.Array, target_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(index of the first entry whose cumulative weight exceeds target, target left inside it).

    Rounding can leave a target at or past the total: then the heaviest entry is taken, from its end.
    """
    cumulative_BX = jnp.cumsum(weights_BX, axis=-1)
    past_BX = (cumulative_BX > target_B[:, None]) & (weights_BX > 0)
    index_B = jnp.where(
        jnp.any(past_BX, axis=-1), jnp.argmax(past_BX, axis=-1), jnp.argmax(weights_BX, axis=-1)
    )
    weight_B, end_B = (
        jnp.take_along_axis(x, index_B[:, None], axis=-1)[:, 0] for x in (weights_BX, cumulative_BX)
    )
    return index_B, jnp.maximum(target_B - (end_B - weight_B), 0)


def filter_threshold(scaled_BV: jax.Array, top_p_B: jax.Array, top_k_B: jax.Array) -> jax.Array:
    """The smallest logit that survives top_k and then top_p, [B] float32."""
    V = scaled_BV.shape[-1]
    # float32 -> uint32 in the same order: the sign bit flipped, and all bits of negative numbers.
    bits_BV = jax.lax.bitcast_convert_type(scaled_BV, jnp.uint32)
    keys_BV = jnp.where(bits_BV >> 31 == 1, ~bits_BV, bits_BV | jnp.uint32(1 << 31))
    k_B = jnp.where(top_k_B > 0, jnp.minimum(top_k_B, V), V).astype(jnp.float32)
    kth_B = _largest_threshold(keys_BV, jnp.ones_like(scaled_BV), k_B)
    kept_BV = keys_BV >= kth_B[:, None]
    weights_BV = jnp.where(kept_BV, jnp.exp(scaled_BV - jnp.max(scaled_BV, axis=-1, keepdims=True)), 0)
    nucleus_B = _largest_threshold(keys_BV, weights_BV, top_p_B * jnp.sum(weights_BV, axis=-1))
    lowest_B = jnp.where(top_p_B < 1, jnp.maximum(kth_B, nucleus_B), kth_B)
    return jnp.min(jnp.where(keys_BV >= lowest_B[:, None], scaled_BV, jnp.inf), axis=-1)


def _largest_threshold(keys_BV: jax.Array, weights_BV: jax.Array, target_B: jax.Array) -> jax.Array:
    """The largest t [B] uint32 such that the keys >= t hold at least `target` weight.

    Bisection, one bit a turn: 32 sums over the vocabulary, where a sort takes many times that.
    """

    def turn(i: jax.Array, t_B: jax.Array) -> jax.Array:
        tried_B = t_B | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
        held_B = jnp.sum(jnp.where(keys_BV >= tried_B[:, None], weights_BV, 0), axis=-1)
        return jnp.where(held_B >= target_B, tried_B, t_B)

    return jax.lax.fori_loop(0, 32, turn, jnp.zeros(target_B.shape, jnp.uint32))


# The device programs. Donated arguments: caches are updated where they lie, and never exist twice.


class Slots(NamedTuple):
    """What decoding knows of every slot; int32 where nothing is said."""

    live_B: jax.Array  # bool
    token_B: jax.Array  # the last token, whose keys and values are not yet in the cache
    position_B: jax.Array  # of that token
    generated_B: jax.Array  # tokens sampled so far
    limit_B: jax.Array  # tokens to sample, at most
    seed_B: jax.Array  # uint32
    temperature_B: jax.Array  # float32
    top_p_B: jax.Array  # float32
    top_k_B: jax.Array
    stop_ids_BE: jax.Array  # -1: none


def empty_slots(B: int) -> Slots:
    """No live slot: arrays on the host, which the scheduler writes in place."""
    integers, floats = (lambda: np.zeros(B, np.int32)), (lambda: np.ones(B, np.float32))
    return Slots(
        live_B=np.zeros(B, bool),
        token_B=integers(),
        position_B=integers(),
        generated_B=integers(),
        limit_B=integers(),
        seed_B=np.zeros(B, np.uint32),
        temperature_B=floats(),
        top_p_B=floats(),
        top_k_B=integers(),
        stop_ids_BE=np.full((B, STOP_IDS), -1, np.int32),
    )


class Decoded(NamedTuple):
    """The tokens of one decoded block: entry [t, b] counts where t < count_B[b]."""

    tokens_TB: jax.Array  # int32
    log_probs_TB: jax.Array  # float32
    count_B: jax.Array  # tokens of each slot
    steps: jax.Array  # how many were decoded, at most the block


@functools.partial(jax.jit, static_argnames=("graphdef", "sharding"), donate_argnames=("pool",))
def prefill(
    graphdef: nnx.GraphDef,
    sharding: NamedSharding,
    params: nnx.State,
    pool: KVCache,
    tokens_RT: jax.Array,
    length_R: jax.Array,
    start_R: jax.Array,
    table_RC: jax.Array,
    target_R: jax.Array,
) -> KVCache:
    """Computes the keys and values of one chunk a row and writes them to pool chunk target_R.

    Row r holds length_R[r] tokens from position start_R[r] on; the pool chunks table_RC[r] are its
    prompt's, of which those before it are there or are other rows. Later ones are not seen.
    """
    R, T = tokens_RT.shape
    assert T == pool.slots and start_R.shape == length_R.shape == target_R.shape == (R,)
    S = table_RC.shape[1] * T
    offset_T = jnp.arange(T)
    # Padding gets the position past the last: what it writes is dropped, and no token of the chunk sees it.
    positions_RT = jnp.where(offset_T < length_R[:, None], start_R[:, None] + offset_T, S)
    _, pool = merge(graphdef, params).cached(tokens_RT, positions_RT, pool, Pages(target_R, table_RC))
    return with_sharding_constraint(pool, sharding)


@functools.partial(jax.jit, static_argnames=("sharding",), donate_argnames=("cache",))
def copy_chunks(
    sharding: NamedSharding,
    cache: KVCache,
    pool: KVCache,
    n: jax.Array,
    source_M: jax.Array,
    slot_M: jax.Array,
    start_M: jax.Array,
) -> KVCache:
    """Copies pool chunk source_M[m] to position start_M[m] of slot slot_M[m], for m < n."""

    def one(m: jax.Array, cache: KVCache) -> KVCache:
        return write(cache, read(pool, source_M[m], 0, pool.slots), slot_M[m], start_M[m])

    return with_sharding_constraint(jax.lax.fori_loop(0, n, one, cache), sharding)


@functools.partial(
    jax.jit, static_argnames=("graphdef", "sharding", "block", "n_tokens"), donate_argnames=("cache",)
)
def decode(
    graphdef: nnx.GraphDef,
    sharding: NamedSharding,
    params: nnx.State,
    cache: KVCache,
    slots: Slots,
    patience: jax.Array,
    block: int,
    n_tokens: int | None = None,
) -> tuple[KVCache, Decoded]:
    """Decodes up to `block` tokens a live slot; ends early when `patience` slots have finished.

    A slot finishes at one of its stop ids or at its limit, and then neither writes nor counts. Ids from
    `n_tokens` on (None: there are none), the rows of a padded vocabulary, are never sampled and have no
    share of the distribution.
    """
    B, S = slots.token_B.shape[0], cache.slots
    model, mesh = merge(graphdef, params), sharding.mesh
    of_shards = NamedSharding(mesh, spec_of((None, "vocab")))
    n_live = jnp.sum(slots.live_B)

    def unfinished(carry) -> jax.Array:
        _, slots, out = carry
        still_live = jnp.sum(slots.live_B)
        return (out.steps < block) & (still_live > 0) & (n_live - still_live < patience)

    def step(carry):
        cache, slots, out = carry
        positions_B = jnp.where(slots.live_B, slots.position_B, S)  # S: a slot that rests writes nothing
        hidden_BTD, cache = model.cached(slots.token_B[:, None], positions_B[:, None], cache)
        # By the sample's own count, not the step: where in a block a token falls must not change it (D2).
        draw_B = uniform(slots.seed_B, slots.generated_B.astype(jnp.uint32))
        # Made in shards, or the head would be gathered; sampled from whole, with the bits of one device.
        logits_BV = with_sharding_constraint(model.logits(hidden_BTD[:, 0]), of_shards)
        logits_BV = with_sharding_constraint(logits_BV, replicated(mesh))[:, :n_tokens]
        token_B, log_prob_B = sample(logits_BV, draw_B, slots.temperature_B, slots.top_p_B, slots.top_k_B)
        out = Decoded(
            out.tokens_TB.at[out.steps].set(token_B),
            out.log_probs_TB.at[out.steps].set(log_prob_B),
            out.count_B + slots.live_B,
            out.steps + 1,
        )
        return with_sharding_constraint(cache, sharding), advance(slots, token_B), out

    empty = Decoded(
        jnp.zeros((block, B), jnp.int32),
        jnp.zeros((block, B), jnp.float32),
        jnp.zeros(B, jnp.int32),
        jnp.int32(0),
    )
    cache, _, out = jax.lax.while_loop(unfinished, step, (cache, slots, empty))
    return cache, out


def advance(slots: Slots, token_B: jax.Array) -> Slots:
    """The slots after sampling token_B: live ones move on by one position, or finish."""
    generated_B = slots.generated_B + slots.live_B
    stopped_B = jnp.any(token_B[:, None] == slots.stop_ids_BE, axis=-1) | (generated_B >= slots.limit_B)
    return slots._replace(
        live_B=slots.live_B & ~stopped_B,
        token_B=jnp.where(slots.live_B, token_B, slots.token_B),
        position_B=slots.position_B + slots.live_B,
        generated_B=generated_B,
    )
