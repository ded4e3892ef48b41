"""Attention: the one place that picks a kernel.

Two forms: packed sequences (training) and a query against a key-value cache (decoding). Scores and
softmax are float32. Today both are masked einsums; kernels per platform are chosen here, and
nowhere else.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

MASKED = -1e30  # finite: a fully masked row gives a uniform average, never a NaN


def packed_attention(
    q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array, segment_ids_BT: jax.Array
) -> jax.Array:
    """Causal attention inside each segment of a packed row; N is a multiple of K (grouped queries).

    Returns out_BTNH. Tokens of different segments never see each other; segment 0 is padding.
    """
    B, T, N, H = q_BTNH.shape
    K = k_BTKH.shape[2]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H) * H**-0.5
    scores_BKGTS = jnp.einsum("BTKGH,BSKH->BKGTS", q_BTKGH, k_BTKH, preferred_element_type=jnp.float32)
    same_BTS = segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
    mask_BTS = same_BTS & jnp.tril(jnp.ones((T, T), bool))
    probs_BKGTS = jax.nn.softmax(jnp.where(mask_BTS[:, None, None], scores_BKGTS, MASKED), axis=-1)
    out_BTKGH = jnp.einsum("BKGTS,BSKH->BTKGH", probs_BKGTS.astype(v_BTKH.dtype), v_BTKH)
    return out_BTKGH.reshape(B, T, N, H)


def cached_attention(
    q_BTNH: jax.Array, k_BKHS: jax.Array, v_BSKH: jax.Array, positions_BT: jax.Array
) -> jax.Array:
    """Attention of each query to the slots <= its own position of its own row. Returns out_BTNH."""
    B, T, N, H = q_BTNH.shape
    _, K, _, S = k_BKHS.shape
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H) * H**-0.5
    scores_BKTGS = jnp.einsum("BTKGH,BKHS->BKTGS", q_BTKGH, k_BKHS, preferred_element_type=jnp.float32)
    mask_BTS = jnp.arange(S) <= positions_BT[:, :, None]
    probs_BKTGS = jax.nn.softmax(jnp.where(mask_BTS[:, None, :, None], scores_BKTGS, MASKED), axis=-1)
    out_BTKGH = jnp.einsum("BKTGS,BSKH->BTKGH", probs_BKTGS.astype(v_BSKH.dtype), v_BSKH)
    return out_BTKGH.reshape(B, T, N, H)
