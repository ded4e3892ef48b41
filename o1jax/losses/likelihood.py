"""Losses of the likelihoods of tokens (SFT) and of whole answers (DPO), and sums over answers in packed rows.

Every loss is a sum and a count, so that accumulation over micro-batches and processes is exact. Does not
compute log-probs (logprobs.py), score a reference model or divide by the weights.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def sft_loss(log_probs_BT: Array, weights_BT: Array) -> tuple[Array, Array]:
    """(sum of -log p * weight, sum of weights), float32 scalars: their ratio is the mean loss."""
    assert log_probs_BT.shape == weights_BT.shape
    weights_BT = weights_BT.astype(jnp.float32)
    # where, not a product: a position without weight may hold -inf, and 0 * inf is NaN
    losses_BT = jnp.where(weights_BT == 0, 0.0, -log_probs_BT * weights_BT)
    return losses_BT.sum(), weights_BT.sum()


def dpo_loss(
    chosen_P: Array,
    rejected_P: Array,
    reference_chosen_P: Array,
    reference_rejected_P: Array,
    mask_P: Array,
    beta: float,
) -> tuple[Array, Array, dict[str, Array]]:
    """(sum of -log sigmoid(beta * margin), number of pairs, sums for metrics), float32 scalars.

    margin = (chosen - reference_chosen) - (rejected - reference_rejected), of log-probs of whole
    answers (Rafailov et al. 2023, eq. 7). The sums: accuracy (margin > 0), margin, chosen_reward and
    rejected_reward (beta * (policy - reference)). Where mask_P is 0 anything may stand: it adds nothing.
    """
    mask_P = mask_P.astype(bool)
    log_ratio_P = only(mask_P, chosen_P) - only(mask_P, reference_chosen_P)
    rejected_ratio_P = only(mask_P, rejected_P) - only(mask_P, reference_rejected_P)
    margin_P = log_ratio_P - rejected_ratio_P
    losses_P = only(mask_P, jax.nn.softplus(-beta * margin_P))
    sums = {
        "accuracy": jnp.sum(margin_P > 0, dtype=jnp.float32),
        "margin": margin_P.sum(),
        "chosen_reward": beta * log_ratio_P.sum(),
        "rejected_reward": beta * rejected_ratio_P.sum(),
    }
    return losses_P.sum(), mask_P.sum(dtype=jnp.float32), sums


def only(mask_P: Array, values_P: Array) -> Array:
    """The masked values in float32, 0 elsewhere, whatever stands there."""
    assert mask_P.shape == values_P.shape
    return jnp.where(mask_P, values_P.astype(jnp.float32), 0.0)


def part_sums(values_BT: Array, segment_ids_BT: Array) -> Array:
    """sums_BS over the positions of every segment, S = T + 1; segment 0 is padding."""
    assert values_BT.shape == segment_ids_BT.shape
    segments = values_BT.shape[1] + 1
    return jax.vmap(lambda x_T, s_T: jax.ops.segment_sum(x_T, s_T, segments))(values_BT, segment_ids_BT)


def spread(values_BS: Array, segment_ids_BT: Array) -> Array:
    """values_BT: at every position its segment's value."""
    return jnp.take_along_axis(values_BS, segment_ids_BT, axis=1)
