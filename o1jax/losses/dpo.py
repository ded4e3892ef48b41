"""The loss of direct preference optimization, on log-probs of whole answers.

Does not sum tokens into answers or score the reference model; objectives.py and reference.py do.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def dpo_loss(
    chosen_P: jax.Array,
    rejected_P: jax.Array,
    reference_chosen_P: jax.Array,
    reference_rejected_P: jax.Array,
    mask_P: jax.Array,
    beta: float,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
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


def only(mask_P: jax.Array, values_P: jax.Array) -> jax.Array:
    """The masked values in float32, 0 elsewhere: where, not a product, for 0 * inf is NaN."""
    assert mask_P.shape == values_P.shape
    return jnp.where(mask_P, values_P.astype(jnp.float32), 0.0)
