"""Per-token log-probs straight from hidden states and the head: [B, T, V] never exists.

The tokens are walked in chunks, forward and backward; the backward pass recomputes each chunk's
logits. Everything that needs a log-prob (losses, engines' checks) comes here.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp


def token_log_probs(
    hidden_BTD: jax.Array,
    head_DV: jax.Array,
    targets_BT: jax.Array,
    *,
    temperature: float = 1.0,
    chunk: int = 1024,
) -> jax.Array:
    """log softmax(hidden @ head / temperature) at the targets: log_probs_BT, float32.

    `chunk` is how many tokens' logits exist at once; it changes memory, not values. Gradients flow
    to hidden_BTD and head_DV. Logits are float32, whatever the inputs' dtype.
    """
    B, T, D = hidden_BTD.shape
    assert targets_BT.shape == (B, T) and head_DV.shape[0] == D
    size = min(max(1, chunk // B), T)
    hidden_CBXD = split_chunks(hidden_BTD, size)
    log_probs_CBX = chunked_log_probs(hidden_CBXD, head_DV, split_chunks(targets_BT, size), temperature)
    return jnp.moveaxis(log_probs_CBX, 0, 1).reshape(B, -1)[:, :T]


def split_chunks(x_BT: jax.Array, size: int) -> jax.Array:
    """x_CBX (further axes follow) of C chunks of X = `size` positions, zero-padded at the end.

    Rows stay whole rows: an array split over devices by rows is scanned without being gathered.
    """
    B, T, *rest = x_BT.shape
    padding = [(0, 0), (0, -T % size)] + [(0, 0)] * len(rest)
    return jnp.moveaxis(jnp.pad(x_BT, padding).reshape(B, -1, size, *rest), 1, 0)


def chunk_logits(hidden_BXD: jax.Array, head_DV: jax.Array, temperature: float) -> jax.Array:
    """One chunk's logits_BXV, float32."""
    head_DV = head_DV.astype(hidden_BXD.dtype)
    return jnp.einsum("BXD,DV->BXV", hidden_BXD, head_DV, preferred_element_type=jnp.float32) / temperature


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def chunked_log_probs(hidden_CBXD, head_DV, targets_CBX, temperature: float) -> jax.Array:
    """log_probs_CBX of C chunks, X positions of B rows each."""
    return forward(hidden_CBXD, head_DV, targets_CBX, temperature)[0]


def forward(hidden_CBXD, head_DV, targets_CBX, temperature: float):
    """(log_probs_CBX, what the backward pass needs: the inputs and each token's normaliser)."""

    def one_chunk(chunk):
        hidden_BXD, targets_BX = chunk
        logits_BXV = chunk_logits(hidden_BXD, head_DV, temperature)
        normaliser_BX = jax.nn.logsumexp(logits_BXV, axis=-1)
        target_BX = jnp.take_along_axis(logits_BXV, targets_BX[..., None], axis=-1)[..., 0]
        return target_BX - normaliser_BX, normaliser_BX

    log_probs_CBX, normaliser_CBX = jax.lax.map(one_chunk, (hidden_CBXD, targets_CBX))
    return log_probs_CBX, (hidden_CBXD, head_DV, targets_CBX, normaliser_CBX)


def backward(temperature: float, saved, gradient_CBX):
    """Gradients to hidden and head: d log p / d logits = onehot(target) - softmax(logits)."""
    hidden_CBXD, head_DV, targets_CBX, normaliser_CBX = saved

    def one_chunk(head_gradient_DV, chunk):
        hidden_BXD, targets_BX, normaliser_BX, gradient_BX = chunk
        scaled_BX = gradient_BX / temperature
        probs_BXV = jnp.exp(chunk_logits(hidden_BXD, head_DV, temperature) - normaliser_BX[..., None])
        is_target_BXV = targets_BX[..., None] == jnp.arange(head_DV.shape[1])
        d_logits_BXV = ((is_target_BXV - probs_BXV) * scaled_BX[..., None]).astype(hidden_BXD.dtype)
        d_hidden_BXD = jnp.einsum("BXV,DV->BXD", d_logits_BXV, head_DV.astype(hidden_BXD.dtype))
        head_gradient_DV += jnp.einsum(
            "BXD,BXV->DV", hidden_BXD, d_logits_BXV, preferred_element_type=jnp.float32
        )
        return head_gradient_DV, d_hidden_BXD

    zero_DV = jnp.zeros(head_DV.shape, jnp.float32)
    chunks = (hidden_CBXD, targets_CBX, normaliser_CBX, gradient_CBX)
    head_gradient_DV, d_hidden_CBXD = jax.lax.scan(one_chunk, zero_DV, chunks)
    return d_hidden_CBXD, head_gradient_DV.astype(head_DV.dtype), None


chunked_log_probs.defvjp(forward, backward)
