"""Attention of one new token a row to its live keys: a kernel for NVIDIA GPUs (Pallas on Triton).

model/attention.py's cached_attention reads a slot's whole context, however little of it is in use. A setting
of the engine (`decode_attention`), off by default: it compiles for an H200, and none has measured it.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from o1jax.model.attention import MASKED
from o1jax.parallel.traced import exact
from o1jax.records import InputError

KEYS = 64  # a block
PARTS = 8  # of a context, at most, that are attended to at once and then joined
ROWS = 16  # of queries: the smallest matrix of a tensor core


def check(platform: str, n_devices: int, context: int) -> None:
    """InputError where live_attention cannot run."""
    if platform != "gpu" or n_devices > 1 or context % KEYS:
        raise InputError(
            f"engine.decode_attention: saw 'live' on {n_devices} devices ({platform}) with a context of "
            f"{context}; it takes one GPU and a context that is a multiple of {KEYS}: take 'whole'"
        )


def live_attention(
    q_BTNH: jax.Array, k_BKHS: jax.Array, v_BKSH: jax.Array, positions_BT: jax.Array, *, interpret=False
) -> jax.Array:
    """out_BTNH as cached_attention's, T = 1 and S a multiple of KEYS; a row at position S reads nothing.

    `interpret` runs the kernel's operations one by one, anywhere.
    """
    B, T, N, H = q_BTNH.shape
    _, K, _, S = k_BKHS.shape
    assert T == 1 and S % KEYS == 0
    # By the context and never by what is live: a row's sums have one order, whatever its neighbours (D2).
    P = next(parts for parts in (PARTS, 4, 2, 1) if S % (parts * KEYS) == 0)
    G, size = N // K, S // P
    q_BKGH = (q_BTNH * H**-0.5).reshape(B, K, G, H)
    q_BKRH = jnp.pad(q_BKGH, ((0, 0), (0, 0), (0, -G % ROWS), (0, 0)))
    R = q_BKRH.shape[2]
    live_B = jnp.where(positions_BT[:, 0] < S, positions_BT[:, 0] + 1, 0)
    sums = [(B, K, P, R, H), (B, K, P, R), (B, K, P, R)]
    out_BKPRH, highest_BKPR, total_BKPR = pl.pallas_call(
        kernel,
        grid=(B, K, P),
        in_specs=[
            pl.BlockSpec((None,), lambda b, k, p: (b,)),
            pl.BlockSpec((None, None, R, H), lambda b, k, p: (b, k, 0, 0)),
            pl.BlockSpec((None, None, H, size), lambda b, k, p: (b, k, 0, p)),
            pl.BlockSpec((None, None, size, H), lambda b, k, p: (b, k, p, 0)),
        ],
        out_specs=[
            pl.BlockSpec((None, None, None, R, H), lambda b, k, p: (b, k, p, 0, 0)),
            pl.BlockSpec((None, None, None, R), lambda b, k, p: (b, k, p, 0)),
            pl.BlockSpec((None, None, None, R), lambda b, k, p: (b, k, p, 0)),
        ],
        out_shape=[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in sums],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name="live_attention",
    )(live_B, q_BKRH, k_BKHS, v_BKSH)
    scale_BKPR = jnp.exp(highest_BKPR - highest_BKPR.max(axis=2, keepdims=True))
    total_BKR = (total_BKPR * scale_BKPR).sum(axis=2)
    out_BKRH = (out_BKPRH * scale_BKPR[..., None]).sum(axis=2)
    out_BKRH = out_BKRH / jnp.where(total_BKR > 0, total_BKR, 1.0)[..., None]
    return out_BKRH[:, :, :G].reshape(B, 1, N, H).astype(q_BTNH.dtype)


def kernel(live_ref, q_ref, k_ref, v_ref, out_ref, highest_ref, total_ref) -> None:
    """One part of one row's keys of one head: its weighted values, highest score and sum of weights."""
    (R, H), size = q_ref.shape, k_ref.shape[1]
    live = jnp.clip(live_ref[...] - pl.program_id(2) * size, 0, size)
    product = functools.partial(jnp.dot, precision=exact(q_ref), preferred_element_type=jnp.float32)
    q_RH = q_ref[...]

    def block(i, carry):
        out_RH, highest_R, total_R = carry
        keys = pl.ds(i * KEYS, KEYS)
        scores_RX = product(q_RH, k_ref[:, keys])
        scores_RX = jnp.where((i * KEYS + jnp.arange(KEYS) < live)[None], scores_RX, MASKED)
        new_R = jnp.maximum(highest_R, scores_RX.max(axis=-1))
        weights_RX, scale_R = jnp.exp(scores_RX - new_R[:, None]), jnp.exp(highest_R - new_R)
        out_RH = out_RH * scale_R[:, None] + product(weights_RX.astype(v_ref.dtype), v_ref[keys, :])
        return out_RH, new_R, total_R * scale_R + weights_RX.sum(axis=-1)

    nothing = jnp.zeros((R, H), jnp.float32), jnp.full(R, MASKED, jnp.float32), jnp.zeros(R, jnp.float32)
    out_ref[...], highest_ref[...], total_ref[...] = jax.lax.fori_loop(0, pl.cdiv(live, KEYS), block, nothing)
