"""cuDNN's kernels against chunked attention in float32, on the NVIDIA GPU that is there."""

import jax
import jax.numpy as jnp
import pytest

from o1jax.model.attention import (
    PACKED_SINCE,
    chunked_attention,
    cudnn_attention,
    cudnn_packed_attention,
)

DEVICE = jax.devices()[0]
pytestmark = pytest.mark.skipif(
    DEVICE.platform != "gpu" or "NVIDIA" not in DEVICE.device_kind, reason="there is no NVIDIA GPU here"
)
B, T, H = 3, 512, 128


def rows(N, K):
    """Queries, keys, values, weights of the sum, and the segments of packed rows with padding."""
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(B, T, N, H), (B, T, K, H), (B, T, K, H), (B, T, N, H)]
    # Each row with other numbers of segments: what a row's first segment reads tells if rows are kept apart.
    ends = jnp.array([[100, 101, 400, 480], [1, 256, 512, 512], [0, 0, 0, 0]])
    segments_BT = 1 + jnp.sum(jnp.arange(T) >= ends[:, :, None], axis=1)
    segments_BT = jnp.where(jnp.arange(T) >= ends[:, -1:], 0, segments_BT)
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)], segments_BT


def outputs_and_gradients(kernel, q, k, v, weights, segments_BT):
    def total(q, k, v):
        out = kernel(q, k, v, segments_BT, segments_BT, first=0)
        out = jnp.where((segments_BT > 0)[..., None, None], out, 0)  # of padding kernels make what they like
        return jnp.sum(out.astype(jnp.float32) * weights), out

    gradients, out = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return [out, *gradients]


@pytest.mark.parametrize("N, K", [(12, 2), (4, 4)])
@pytest.mark.parametrize("kernel", [cudnn_attention, cudnn_packed_attention])
def test_cudnn_gives_the_outputs_and_gradients_of_chunked_attention(kernel, N, K):
    if kernel is cudnn_packed_attention and jax.__version_info__ < PACKED_SINCE:
        pytest.skip(f"jax {jax.__version__} computes grouped keys wrongly (jax#39521)")
    (q, k, v, weights), segments_BT = rows(N, K)
    rounded = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    got = outputs_and_gradients(kernel, *rounded, weights, segments_BT)
    with jax.default_matmul_precision("highest"):
        exact = [x.astype(jnp.float32) for x in rounded]
        wanted = outputs_and_gradients(chunked_attention, *exact, weights, segments_BT)
    for ours, theirs in zip(got, wanted, strict=True):
        error = jnp.linalg.norm(ours.astype(jnp.float32) - theirs) / jnp.linalg.norm(theirs)
        assert error < 1e-2
