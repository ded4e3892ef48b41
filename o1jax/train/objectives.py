"""Losses of a model on a batch, as the train step takes them: (loss_sum, weight_sum, metric sums).

The mathematics is in losses/; here a batch's arrays meet a model's hidden states. The step divides
every sum by weight_sum, after adding up micro-batches, so that packing never changes a mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax

from o1jax.losses.logprobs import token_log_probs
from o1jax.losses.sft import sft_loss
from o1jax.model.transformer import Transformer

Sums = tuple[jax.Array, jax.Array, dict[str, jax.Array]]
Objective = Callable[[Transformer, Mapping[str, jax.Array]], Sums]


def sft(model: Transformer, batch: Mapping[str, jax.Array]) -> Sums:
    """Weighted cross-entropy of the targets; `accuracy` would cost an argmax, so there is none."""
    hidden_BTD = model(batch["tokens_BT"], batch["positions_BT"], batch["segment_ids_BT"])
    log_probs_BT = token_log_probs(hidden_BTD, model.head_DV(), batch["targets_BT"])
    return *sft_loss(log_probs_BT, batch["weights_BT"]), {}
