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
    size = min(chunk, B * T)
    padding = -(B * T) % size
    hidden_CXD = jnp.pad(hidden_BTD.reshape(B * T, D), ((0, padding), (0, 0))).reshape(-1, size, D)
    targets_CX = jnp.pad(targets_BT.reshape(B * T), (0, padding)).reshape(-1, size)
    log_probs_CX = chunked_log_probs(hidden_CXD, head_DV, targets_CX, temperature)
    return log_probs_CX.reshape(-1)[: B * T].reshape(B, T)


def chunk_logits(hidden_XD: jax.Array, head_DV: jax.Array, temperature: float) -> jax.Array:
    """One chunk's logits_XV, float32."""
    head_DV = head_DV.astype(hidden_XD.dtype)
    return jnp.einsum("XD,DV->XV", hidden_XD, head_DV, preferred_element_type=jnp.float32) / temperature


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def chunked_log_probs(hidden_CXD, head_DV, targets_CX, temperature: float) -> jax.Array:
    """log_probs_CX of C chunks of X tokens."""
    return forward(hidden_CXD, head_DV, targets_CX, temperature)[0]


def forward(hidden_CXD, head_DV, targets_CX, temperature: float):
    """(log_probs_CX, what the backward pass needs: the inputs and each token's normaliser)."""

    def one_chunk(chunk):
        hidden_XD, targets_X = chunk
        logits_XV = chunk_logits(hidden_XD, head_DV, temperature)
        normaliser_X = jax.nn.logsumexp(logits_XV, axis=-1)
        target_X = jnp.take_along_axis(logits_XV, targets_X[:, None], axis=-1)[:, 0]
        return target_X - normaliser_X, normaliser_X

    log_probs_CX, normaliser_CX = jax.lax.map(one_chunk, (hidden_CXD, targets_CX))
    return log_probs_CX, (hidden_CXD, head_DV, targets_CX, normaliser_CX)


def backward(temperature: float, saved, gradient_CX):
    """Gradients to hidden and head: d log p / d logits = onehot(target) - softmax(logits)."""
    hidden_CXD, head_DV, targets_CX, normaliser_CX = saved

    def one_chunk(head_gradient_DV, chunk):
        hidden_XD, targets_X, normaliser_X, gradient_X = chunk
        scaled_X = gradient_X / temperature
        probs_XV = jnp.exp(chunk_logits(hidden_XD, head_DV, temperature) - normaliser_X[:, None])
        is_target_XV = targets_X[:, None] == jnp.arange(head_DV.shape[1])
        d_logits_XV = ((is_target_XV - probs_XV) * scaled_X[:, None]).astype(hidden_XD.dtype)
        d_hidden_XD = jnp.einsum("XV,DV->XD", d_logits_XV, head_DV.astype(hidden_XD.dtype))
        head_gradient_DV += jnp.einsum(
            "XD,XV->DV", hidden_XD, d_logits_XV, preferred_element_type=jnp.float32
        )
        return head_gradient_DV, d_hidden_XD

    zero_DV = jnp.zeros(head_DV.shape, jnp.float32)
    chunks = (hidden_CXD, targets_CX, normaliser_CX, gradient_CX)
    head_gradient_DV, d_hidden_CXD = jax.lax.scan(one_chunk, zero_DV, chunks)
    return d_hidden_CXD, head_gradient_DV.astype(head_DV.dtype), None


chunked_log_probs.defvjp(forward, backward)
