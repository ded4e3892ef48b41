"""Attention: the kernels for packed rows, the choice among them, and decoding against a cache.

chunked, plain einsums, runs everywhere; splash, Pallas' kernel, on TPUs; cudnn and cudnn_packed on NVIDIA
GPUs. `choose` resolves a config's setting for a device when a model is made, says so once in the log, and
never puts one kernel in another's place. Scores and softmax are float32. Does not project or rotate
(transformer.py).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax._src.cudnn import fused_attention_stablehlo as cudnn  # jax.nn's function takes no offsets
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from o1jax.parallel.traced import axis_size, exact, gathered, per_device, traced_mesh
from o1jax.records import MOST_SEGMENTS, InputError

Kernel = Callable[..., jax.Array]

QUERIES, KEYS = ("batch", "length", "heads", "head_dim"), ("batch", "length", "kv_heads", "head_dim")
SEGMENTS = ("batch", "length")
MASKED = -1e30  # finite: a fully masked row gives a uniform average, never a NaN
BLOCK = 64  # queries a block, at least
MAX_BLOCKS = 8  # blocks are unrolled; more of them cost compile time
# What a flash kernel's backward pass reads of its forward pass, its output and softmax statistics, has this
# name, or is made by a primitive whose name begins so (cuDNN's): remat keeps it (transformer.py).
FLASH, CUDNN_FORWARD = "flash", "dot_product_attention_fwd"
PACKED_SINCE = (0, 11, 2)  # the first jax whose offsets of grouped keys are right (jax#39521)
SPLASH_BLOCK, LANES = 512, 128  # splash's largest block; its blocks are multiples of a TPU's lanes


def chunked_attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    q_segments_BT: jax.Array,
    segments_BS: jax.Array,
    *,
    first: int,
) -> jax.Array:
    """out_BTNH of queries at positions first, first + 1, ... of S keys; see packed_attention."""
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    # Heads before positions: every product, forward and backward, is then one batched matrix product
    # without a transpose (on a CPU 3.5 times the speed of the masked einsum over BTNH at T = 256).
    q_BKGTH = jnp.einsum("BTKGH->BKGTH", q_BTNH.reshape(B, T, K, N // K, H) * H**-0.5)
    k_BKHS = jnp.einsum("BSKH->BKHS", k_BSKH)
    v_BKHS = jnp.einsum("BSKH->BKHS", v_BSKH)
    # Causal blocks of queries: no score above the block diagonal is computed.
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
    # Divided after the product: N queries of H numbers, where the weights are N times S.
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
    # The maximum only keeps exp in range: it cancels, so that its gradient would be work for nothing.
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
    """out_BTNH of queries at positions first, first + 1, ... of S keys; see packed_attention. Never [T, T] in
    memory. Source: jax.experimental.pallas.ops.tpu.splash_attention.

    `interpret` runs the kernel's operations one by one, anywhere. InputError unless T is a multiple of 128.
    """
    _, T, N, H = q_BTNH.shape
    S = first + T
    mask = masks.MultiHeadMask([masks.CausalMask((T, S), offset=first)] * N)
    attend = kernel.make_splash_mha(
        mask,
        block_sizes=block_sizes(T),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=FLASH,
        interpret=interpret,
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
    block = next(size for size in range(SPLASH_BLOCK, 0, -LANES) if T % size == 0)
    return kernel.BlockSizes(*[block] * 8)  # of queries and keys, forward and in both backward kernels


@functools.cache
def choose(setting: str, platform: str, device_kind: str, dtype: str, head_dim: int) -> str:
    """The kernel's name for this setting on a device (jax.Device.platform and device_kind).

    auto: splash on a TPU; cudnn on an NVIDIA GPU, where the compute dtype and head size allow it; else
    chunked. InputError for a kernel that cannot run there. cudnn_packed has to be asked for: no GPU has
    been seen to run it.
    """
    nvidia = platform == "gpu" and "AMD" not in device_kind
    half = dtype in ("bfloat16", "float16") and head_dim % 8 == 0 and head_dim <= 128
    runs = {"chunked": True, "splash": platform == "tpu", "cudnn": nvidia and half}
    runs["cudnn_packed"] = runs["cudnn"]
    if setting not in ("auto", *runs):
        raise InputError(f"attention {setting!r} is unknown: use auto, {', '.join(runs)}")
    name = setting  # refused where it cannot run, never replaced: figures would be another kernel's
    if setting == "auto":
        name = next(kernel for kernel in ("splash", "cudnn", "chunked") if runs[kernel])
    if not runs[name]:
        raise InputError(
            f"attention {name!r} cannot run on {device_kind} in {dtype} with head_dim {head_dim}: splash "
            "needs a TPU, cudnn an NVIDIA GPU, bfloat16 or float16, and a head_dim of at most 128 that is a "
            "multiple of 8; set it to auto"
        )
    if name == "cudnn_packed" and jax.__version_info__ < PACKED_SINCE:
        raise InputError(
            f"attention 'cudnn_packed' needs jax {'.'.join(map(str, PACKED_SINCE))}, and this is "
            f"{jax.__version__}, which reads wrong keys where queries are grouped and says nothing "
            "(jax#39521); update jax, or set attention to cudnn"
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
    S = first + q_BTNH.shape[1]  # keys past the last query are seen by none
    mask_BTS = causal_mask(q_segments_BT, segments_BS[:, :S], first)
    return jax.nn.dot_product_attention(
        q_BTNH,
        k_BSKH[:, :S],
        v_BSKH[:, :S],
        mask=mask_BTS[:, None],
        is_causal=first == 0,  # skips what the mask forbids anyway
        implementation="cudnn",
    )


def cudnn_packed_attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    q_segments_BT: jax.Array,
    segments_BS: jax.Array,
    *,
    first: int,
    most: int = MOST_SEGMENTS,
) -> jax.Array:
    """out_BTNH by cuDNN's kernel for packed rows, which is told where segments lie and computes no pair of
    two of them; see packed_attention. Padding comes last in a row, and gives 0.

    Its backward pass reads 4 * B * most * N * T bytes of statistics, `most` times those of cudnn. A row
    with more than `most` segments, of which the kernel would not see the last ones, gives NaN: batches have
    none (batches/stream.py). InputError for a row that is split over devices, and for GPUs before Hopper.
    """
    if first or q_BTNH.shape[1] != k_BSKH.shape[1]:
        raise InputError("attention 'cudnn_packed' takes whole rows: make the context axis 1, or use cudnn")
    starts_BX, lengths_BM, whole_B = segment_places(segments_BS, most)
    live_BT11 = (segments_BS > 0)[:, :, None, None]
    # Neither outputs nor gradients of padding are written: select keeps both out of what reads them.
    q_BTNH, k_BTKH, v_BTKH = (jnp.where(live_BT11, x, 0) for x in (q_BTNH, k_BSKH, v_BSKH))
    try:
        out_BTNH = cudnn.dot_product_attention(
            q_BTNH,
            k_BTKH,
            v_BTKH,
            q_seqlen=lengths_BM,
            kv_seqlen=lengths_BM,
            q_offsets=starts_BX,
            kv_offsets=starts_BX,
            scale=q_BTNH.shape[-1] ** -0.5,
            mask_type=cudnn.MaskType.PADDING_CAUSAL,
        )
    except NotImplementedError as error:  # jax's word for a GPU before Hopper
        raise InputError(f"attention 'cudnn_packed': {error} Set attention to cudnn.") from error
    return jnp.where(live_BT11, out_BTNH, 0) + jnp.where(whole_B, 0, jnp.nan)[:, None, None, None]


def segment_places(segments_BT: jax.Array, most: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(starts_BX, lengths_BM, whole_B) of the first M = `most` segments of every row, -1 where there is none,
    and whether these are all of a row. Segments lie one after the other, whatever their ids, padding last."""
    B, T = segments_BT.shape
    before_BT = jnp.pad(segments_BT[:, :-1], ((0, 0), (1, 0)))
    begins_BT = (segments_BT != before_BT) & (segments_BT > 0)
    number_BT = jnp.cumsum(begins_BT, axis=1) - 1  # of the segment, counted from 0
    rows_B1 = jnp.arange(B)[:, None]

    def by_segment(values_BT: jax.Array, here_BT: jax.Array) -> jax.Array:
        """The values of what is here, added up by segment; those of segments from M on are dropped."""
        places_BT = jnp.where(here_BT, number_BT, most)
        return jnp.zeros((B, most), jnp.int32).at[rows_B1, places_BT].add(values_BT, mode="drop")

    starts_BM = by_segment(jnp.broadcast_to(jnp.arange(T), (B, T)), begins_BT)
    lengths_BM = by_segment(jnp.ones((B, T), jnp.int32), segments_BT > 0)
    none_BM = lengths_BM == 0
    # X = M + 1. jax lines all rows' starts up behind each other, as it does lengths: an end among them, for
    # which its text leaves room, would give the next row's segments the wrong starts.
    starts_BX = jnp.pad(jnp.where(none_BM, -1, starts_BM), ((0, 0), (0, 1)), constant_values=-1)
    return starts_BX, jnp.where(none_BM, -1, lengths_BM), begins_BT.sum(axis=1) <= most


KERNELS: dict[str, Kernel] = {
    "chunked": chunked_attention,
    "splash": splash_attention,
    "cudnn": cudnn_attention,
    "cudnn_packed": cudnn_packed_attention,
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
        # Which queries a device has is known when it runs, and kernels want `first` when they are traced: a
        # branch for each part.
        firsts = [part * q_BTNH.shape[1] for part in range(parts)]
        branches = [functools.partial(kernel, first=first) for first in firsts]
        return jax.lax.switch(jax.lax.axis_index("context"), branches, *args)

    on_devices = per_device(local, mesh, [QUERIES, KEYS, KEYS, SEGMENTS], QUERIES)
    return on_devices(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT.astype(jnp.int32))
