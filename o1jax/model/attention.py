"""Attention: the one place that picks a kernel, and lays it over the mesh.

chunked (chunked.py) runs everywhere; splash (splash.py) on TPUs; cudnn, here, on NVIDIA GPUs. `choose`
resolves a config's setting for a device when a model is made, says so once in the log, and never puts one
kernel in another's place. Decoding against a cache is chunked.py's.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from o1jax.model.chunked import causal_mask, chunked_attention
from o1jax.model.splash import splash_attention
from o1jax.parallel.traced import axis_size, gathered, per_device, traced_mesh
from o1jax.records import InputError

Setting = Literal["auto", "chunked", "splash", "cudnn"]
Kernel = Callable[..., jax.Array]

QUERIES, KEYS = ("batch", "length", "heads", "head_dim"), ("batch", "length", "kv_heads", "head_dim")
SEGMENTS = ("batch", "length")


@functools.cache
def choose(setting: str, platform: str, device_kind: str, dtype: str, head_dim: int) -> str:
    """The kernel's name for this setting on a device (jax.Device.platform and device_kind).

    auto: splash on a TPU; cudnn on an NVIDIA GPU, where the compute dtype and head size allow it; else
    chunked. InputError for a kernel that cannot run there.
    """
    nvidia = platform == "gpu" and "AMD" not in device_kind
    half = dtype in ("bfloat16", "float16") and head_dim % 8 == 0 and head_dim <= 128
    runs = {"chunked": True, "splash": platform == "tpu", "cudnn": nvidia and half}
    if setting not in ("auto", *runs):
        raise InputError(f"attention {setting!r} is unknown: use auto, {', '.join(runs)}")
    name = setting
    if setting == "auto":
        name = next(kernel for kernel in ("splash", "cudnn", "chunked") if runs[kernel])
    if not runs[name]:
        raise InputError(
            f"attention {name!r} cannot run on {device_kind} in {dtype} with head_dim {head_dim}: splash "
            "needs a TPU, cudnn an NVIDIA GPU, bfloat16 or float16, and a head_dim of at most 128 that is a "
            "multiple of 8; set it to auto"
        )
    logging.getLogger(__name__).info("attention: %s on %s (setting %s)", name, device_kind, setting)
    return name


def cudnn_attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    q_segments_BT: jax.Array,
    segments_BS: jax.Array,
    *,
    first: int,
) -> jax.Array:
    """out_BTNH by cuDNN's fused kernel; see packed_attention.

    It knows no segments, so they come as a mask of T * S values a row, shared by all heads and layers
    (2 bytes each; 32 MiB at 4,096), while scores stay inside the kernel.
    """
    S = first + q_BTNH.shape[1]
    mask_BTS = causal_mask(q_segments_BT, segments_BS[:, :S], first)
    return jax.nn.dot_product_attention(
        q_BTNH,
        k_BSKH[:, :S],
        v_BSKH[:, :S],
        mask=mask_BTS[:, None],
        is_causal=first == 0,  # skips what the mask forbids anyway
        implementation="cudnn",
    )


KERNELS: dict[str, Kernel] = {
    "chunked": chunked_attention,
    "splash": splash_attention,
    "cudnn": cudnn_attention,
}


def packed_attention(
    kernel: Kernel, q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array, segment_ids_BT: jax.Array
) -> jax.Array:
    """Causal attention inside each segment of a packed row; N is a multiple of K (grouped queries).

    Returns out_BTNH. Tokens of different segments never see each other; segment 0 is padding. On a mesh,
    every device has its rows and heads; a row that is split over the `context` axis has its keys and values
    gathered, and each device computes its own queries: the last ones see most keys, and are waited for.
    """
    B, T, N, H = q_BTNH.shape
    K = k_BTKH.shape[2]
    assert k_BTKH.shape == v_BTKH.shape == (B, T, K, H) and segment_ids_BT.shape == (B, T) and N % K == 0
    mesh = traced_mesh()

    def local(q_BTNH, k_BTKH, v_BTKH, segments_BT):
        keys = (gathered(x, mesh, "context", 1) for x in (k_BTKH, v_BTKH))
        args = (q_BTNH, *keys, segments_BT, gathered(segments_BT, mesh, "context", 1))
        parts = axis_size(mesh, "context")
        if parts == 1:
            return kernel(*args, first=0)
        firsts = [part * q_BTNH.shape[1] for part in range(parts)]
        branches = [functools.partial(kernel, first=first) for first in firsts]
        return jax.lax.switch(jax.lax.axis_index("context"), branches, *args)

    on_devices = per_device(local, mesh, [QUERIES, KEYS, KEYS, SEGMENTS], QUERIES)
    return on_devices(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT.astype(jnp.int32))
