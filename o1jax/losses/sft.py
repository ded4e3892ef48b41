"""The supervised loss. Does not compute log-probs (logprobs.py) or divide by the weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def sft_loss(log_probs_BT: jax.Array, weights_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sum of -log p * weight, sum of weights), float32 scalars: their ratio is the mean loss.

    A sum and a count, so that accumulation over micro-batches and processes is exact.
    """
    assert log_probs_BT.shape == weights_BT.shape
    weights_BT = weights_BT.astype(jnp.float32)
    # where, not a product: a position without weight may hold -inf, and 0 * inf is NaN
    losses_BT = jnp.where(weights_BT == 0, 0.0, -log_probs_BT * weights_BT)
    return losses_BT.sum(), weights_BT.sum()
