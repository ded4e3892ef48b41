"""Sampling: one token a row from logits, and its log-prob under temperature, top-k and top-p.

Every row depends on its own inputs alone (D2). Traced inside the decode program
(programs.py).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

GROUP = 32  # tokens a group, of the two-level inverse CDF and of the search for the largest logits
CANDIDATES = 64  # a row's largest logits, among which top_k and top_p are looked for first


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

    def special() -> tuple[jax.Array, jax.Array]:
        settings = jnp.where(filtered_B, top_p_B, 1.0), jnp.where(filtered_B, top_k_B, 0)
        lowest_B = filter_threshold(scaled_BV, *settings)
        return jnp.where(filtered_B, lowest_B, -jnp.inf), first_largest(scaled_BV)

    # A filter is a threshold on the logits, -inf where there is none, so that a row without one has the same
    # bits whether or not another row is filtered. Most batches have none, nor a greedy row: all this is then
    # left out.
    plain_B = jnp.full(greedy_B.shape, -jnp.inf, jnp.float32), jnp.zeros(greedy_B.shape, jnp.int32)
    threshold_B, first_B = jax.lax.cond(jnp.any(greedy_B | filtered_B), special, lambda: plain_B)
    kept_BV = jnp.where(scaled_BV >= threshold_B[:, None], scaled_BV, -jnp.inf)
    weights_BV = jnp.exp(kept_BV - jnp.max(kept_BV, axis=-1, keepdims=True))
    drawn_B = jnp.where(greedy_B, first_B, inverse_cdf(weights_BV, uniform_B))
    log_total_B = jnp.log(jnp.sum(weights_BV, axis=-1)) + jnp.max(kept_BV, axis=-1)
    return drawn_B.astype(jnp.int32), value_at(kept_BV, drawn_B) - log_total_B


def first_largest(x_BV: jax.Array) -> jax.Array:
    """argmax over V, [B], of finite numbers; as two plain reductions a twentieth of its time on a CPU."""
    V = x_BV.shape[-1]
    largest_BV = x_BV == jnp.max(x_BV, axis=-1, keepdims=True)
    return jnp.min(jnp.where(largest_BV, jnp.arange(V, dtype=jnp.int32), V - 1), axis=-1)


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
    weight_B, end_B = value_at(weights_BX, index_B), value_at(cumulative_BX, index_B)
    return index_B, jnp.maximum(target_B - (end_B - weight_B), 0)


def filter_threshold(scaled_BV: jax.Array, top_p_B: jax.Array, top_k_B: jax.Array) -> jax.Array:
    """The smallest logit that survives top_k and then top_p, [B] float32; -inf without both.

    Of a nucleus whose weight is top_p to the last bits, rounding decides whether one more token is in it.
    """
    V = scaled_BV.shape[-1]
    k_B = jnp.where(top_k_B > 0, jnp.minimum(top_k_B, V), V)
    top_BK = largest(scaled_BV)
    exp_BV = jnp.exp(scaled_BV - top_BK[:, :1])
    K = top_BK.shape[-1]
    kth_B = jnp.where(k_B <= K, value_at(top_BK, jnp.minimum(k_B, K) - 1), -jnp.inf)
    target_B = top_p_B * jnp.sum(jnp.where(scaled_BV >= kth_B[:, None], exp_BV, 0), axis=-1)
    weights_BK = jnp.where(top_BK >= kth_B[:, None], jnp.exp(top_BK - top_BK[:, :1]), 0)
    reached_BK = jnp.cumsum(weights_BK, axis=-1) >= target_B[:, None]
    has_nucleus_B = jnp.any(reached_BK, axis=-1)
    # Without one among candidates that top_k filled, the nucleus is all that top_k left.
    nucleus_B = jnp.where(has_nucleus_B, value_at(top_BK, jnp.argmax(reached_BK, axis=-1)), kth_B)
    found_B = jnp.where(top_p_B < 1, nucleus_B, kth_B)
    # A top_k past the candidates, or a nucleus of all tokens that these do not fill.
    wide_B = jnp.where(top_k_B > 0, k_B > K, (top_p_B < 1) & ~has_nucleus_B)
    return jax.lax.cond(
        jnp.any(wide_B),
        # By row: a wide neighbour changes no bit of a row that is not wide (D2).
        lambda: jnp.where(wide_B, wide_threshold(scaled_BV, exp_BV, top_p_B, k_B), found_B),
        lambda: found_B,
    )


def largest(x_BV: jax.Array) -> jax.Array:
    """The CANDIDATES largest of each row (all, of fewer), in falling order, in one pass over V."""
    B, V = x_BV.shape
    K, n_groups = min(CANDIDATES, V), -(-V // GROUP)
    if n_groups > K:
        # The k-th largest is in one of the k groups of the largest maxima: had another group one that is as
        # large, each of those k would have one too.
        grouped_BCG = jnp.pad(x_BV, ((0, 0), (0, -V % GROUP)), constant_values=-jnp.inf)
        grouped_BCG = grouped_BCG.reshape(B, n_groups, GROUP)
        _, groups_BK = jax.lax.top_k(jnp.max(grouped_BCG, axis=-1), K)
        x_BV = jnp.take_along_axis(grouped_BCG, groups_BK[:, :, None], axis=1).reshape(B, -1)
    return jax.lax.top_k(x_BV, K)[0]


def value_at(x_BX: jax.Array, index_B: jax.Array) -> jax.Array:
    """x_BX[b, index_B[b]], [B]."""
    return jnp.take_along_axis(x_BX, index_B[:, None], axis=-1)[:, 0]


def wide_threshold(scaled_BV: jax.Array, exp_BV: jax.Array, top_p_B: jax.Array, k_B: jax.Array) -> jax.Array:
    """filter_threshold for any k and nucleus: 64 sums over V, where `largest` takes one pass."""
    # float32 -> uint32 in the same order: the sign bit flipped, and all bits of negative numbers.
    bits_BV = jax.lax.bitcast_convert_type(scaled_BV, jnp.uint32)
    keys_BV = jnp.where(bits_BV >> 31 == 1, ~bits_BV, bits_BV | jnp.uint32(1 << 31))
    kth_B = _largest_threshold(keys_BV, jnp.ones_like(scaled_BV), k_B.astype(jnp.float32))
    weights_BV = jnp.where(keys_BV >= kth_B[:, None], exp_BV, 0)
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
