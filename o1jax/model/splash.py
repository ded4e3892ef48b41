"""Splash attention, Pallas' kernel for TPUs: causal inside segments, never [T, T] in memory.

Source: jax.experimental.pallas.ops.tpu.splash_attention.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from o1jax.records import InputError

LARGEST_BLOCK, LANES = 512, 128


def splash_attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    q_segments_BT: jax.Array,
    segments_BS: jax.Array,
    *,
    first: int,
    interpret: bool = False,
) -> jax.Array:
    """out_BTNH of queries at positions first, first + 1, ... of S keys; see attention.packed_attention.

    `interpret` runs the kernel's operations one by one, anywhere. InputError unless T is a multiple of 128.
    """
    _, T, N, H = q_BTNH.shape
    S = first + T
    mask = masks.MultiHeadMask([masks.CausalMask((T, S), offset=first)] * N)
    attend = kernel.make_splash_mha(
        mask, block_sizes=block_sizes(T), head_shards=1, q_seq_shards=1, interpret=interpret
    )

    def one_row(q_TNH, k_SKH, v_SKH, q_segments_T, segments_S):
        heads_first = (jnp.swapaxes(x, 0, 1) for x in (q_TNH * H**-0.5, k_SKH, v_SKH))
        segments = kernel.SegmentIds(q=q_segments_T, kv=segments_S)
        return jnp.swapaxes(attend(*heads_first, segment_ids=segments), 0, 1)

    return jax.vmap(one_row)(q_BTNH, k_BSKH[:, :S], v_BSKH[:, :S], q_segments_BT, segments_BS[:, :S])


def block_sizes(T: int) -> kernel.BlockSizes:
    """The largest square blocks that divide a row."""
    if T % LANES:
        raise InputError(
            f"splash attention: {T} tokens of a row a device; make row_length a multiple of {LANES} "
            "(times the context axis), or set attention to chunked"
        )
    block = next(size for size in range(LARGEST_BLOCK, 0, -LANES) if T % size == 0)
    return kernel.BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
