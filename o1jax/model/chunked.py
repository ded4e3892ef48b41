"""Attention in plain einsums, in two forms: packed sequences (training), a query against a key-value
cache (decoding). Scores and softmax are float32.

The packed form walks causal blocks of queries, so that no score above the block diagonal is
computed, and lays heads out before positions, so that every product, forward and backward, is one
batched matrix product without a transpose (on a CPU 3.5 times the masked einsum over BTNH, forward
and backward, at T = 256). Which kernel a platform runs is attention.py's choice.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from o1jax.parallel.precision import exact

MASKED = -1e30  # finite: a fully masked row gives a uniform average, never a NaN
BLOCK = 64  # queries a block, at least
MAX_BLOCKS = 8  # blocks are unrolled; more of them cost compile time


def chunked_attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    q_segments_BT: jax.Array,
    segments_BS: jax.Array,
    *,
    first: int,
) -> jax.Array:
    """out_BTNH of queries at positions first, first + 1, ... of S keys; see attention.packed_attention."""
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    q_BKGTH = jnp.einsum("BTKGH->BKGTH", q_BTNH.reshape(B, T, K, N // K, H) * H**-0.5)
    k_BKHS = jnp.einsum("BSKH->BKHS", k_BSKH)
    v_BKHS = jnp.einsum("BSKH->BKHS", v_BSKH)
    block = max(BLOCK, -(-T // MAX_BLOCKS))
    outs = []
    for start in range(0, T, block):
        end = min(start + block, T)
        keys = first + end
        mask_BQS = causal_mask(q_segments_BT[:, start:end], segments_BS[:, :keys], first + start)
        outs.append(
            masked_attention(q_BKGTH[:, :, :, start:end], k_BKHS[..., :keys], v_BKHS[..., :keys], mask_BQS)
        )
    return jnp.einsum("BKGTH->BTKGH", jnp.concatenate(outs, axis=3)).reshape(B, T, N, H)


def causal_mask(q_segments_BQ: jax.Array, segments_BS: jax.Array, first: int) -> jax.Array:
    """mask_BQS: what queries at positions first, first + 1, ... see of the keys."""
    (_, Q), S = q_segments_BQ.shape, segments_BS.shape[1]
    same_BQS = q_segments_BQ[:, :, None] == segments_BS[:, None]
    return same_BQS & (jnp.arange(S) <= first + jnp.arange(Q)[:, None])


def masked_attention(
    q_BKGQH: jax.Array, k_BKHS: jax.Array, v_BKHS: jax.Array, mask_BQS: jax.Array
) -> jax.Array:
    """softmax(q k + mask) v, out_BKGQH; the G queries of a key head are one matrix of G*Q rows."""
    exp_BKGQS, sum_BKGQ1 = masked_exp(q_BKGQH, k_BKHS, mask_BQS)
    weights_BKXS = fold_queries(exp_BKGQS).astype(v_BKHS.dtype)
    out_BKXH = jnp.einsum("BKXS,BKHS->BKXH", weights_BKXS, v_BKHS, precision=exact(v_BKHS))
    return (out_BKXH.reshape(q_BKGQH.shape) / sum_BKGQ1).astype(q_BKGQH.dtype)


def masked_exp(q_BKGQH: jax.Array, k_BKHS: jax.Array, mask_BQS: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(exp(scores - their maximum), its sums): softmax before the division, both float32."""
    scores_BKXS = jnp.einsum(
        "BKXH,BKHS->BKXS",
        fold_queries(q_BKGQH),
        k_BKHS,
        precision=exact(k_BKHS),
        preferred_element_type=jnp.float32,
    )
    bias_B11QS = jnp.where(mask_BQS, 0.0, MASKED)[:, None, None]
    scores_BKGQS = scores_BKXS.reshape(*q_BKGQH.shape[:4], -1) + bias_B11QS
    highest_BKGQ1 = jax.lax.stop_gradient(scores_BKGQS.max(axis=-1, keepdims=True))
    exp_BKGQS = jnp.exp(scores_BKGQS - highest_BKGQ1)
    return exp_BKGQS, exp_BKGQS.sum(axis=-1, keepdims=True)


def fold_queries(x_BKGQY: jax.Array) -> jax.Array:
    """x_BKXY with X = G*Q: all queries of one key head as the rows of one matrix."""
    B, K, G, Q, Y = x_BKGQY.shape
    return x_BKGQY.reshape(B, K, G * Q, Y)


def cached_attention(
    q_BTNH: jax.Array, k_BKHS: jax.Array, v_BKSH: jax.Array, positions_BT: jax.Array
) -> jax.Array:
    """Attention of each query to the slots <= its own position of its own row. Returns out_BTNH."""
    B, T, N, H = q_BTNH.shape
    _, K, _, S = k_BKHS.shape
    q_BKGTH = jnp.einsum("BTKGH->BKGTH", q_BTNH.reshape(B, T, K, N // K, H) * H**-0.5)
    mask_BTS = jnp.arange(S) <= positions_BT[:, :, None]
    exp_BKGTS, sum_BKGT1 = masked_exp(q_BKGTH, k_BKHS, mask_BTS)
    weights_BKXS = fold_queries(exp_BKGTS).astype(v_BKSH.dtype)
    out_BKXH = jnp.einsum("BKXS,BKSH->BKXH", weights_BKXS, v_BKSH, precision=exact(v_BKSH))
    out_BKGTH = out_BKXH.reshape(q_BKGTH.shape) / sum_BKGT1
    return jnp.einsum("BKGTH->BTKGH", out_BKGTH).reshape(B, T, N, H).astype(q_BTNH.dtype)
