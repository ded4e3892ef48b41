"""Losses of a model on a batch, as the train step takes them: (loss_sum, weight_sum, metric sums).

The mathematics is in losses/; here a batch's arrays meet a model's hidden states. The step divides
every sum by weight_sum, after adding up micro-batches, so that packing never changes a mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from o1jax.losses.likelihood import dpo_loss, part_sums, sft_loss
from o1jax.losses.logprobs import negative_log_likelihood, token_log_probs
from o1jax.losses.policy_gradient import pushed_down
from o1jax.losses.prm import pairwise_loss, pointwise_loss, scored_logits
from o1jax.model.transformer import Transformer

Batch = Mapping[str, jax.Array]
Sums = tuple[jax.Array, jax.Array, dict[str, jax.Array]]
Objective = Callable[[Transformer, Batch], Sums]
LARGEST_RATIO = 2.0  # how much harder than at first a token is pushed that has become likelier since


def sft(model: Transformer, batch: Batch) -> Sums:
    """Weighted cross-entropy of the targets; `accuracy` would cost an argmax, so there is none."""
    hidden_BTD, weights_BT = batch_hidden(model, batch), batch["weights_BT"]
    head_DV, n_tokens = model.padded_head_DV(), model.config.token_rows
    loss_sum = negative_log_likelihood(
        hidden_BTD, head_DV, batch["targets_BT"], weights_BT, n_tokens=n_tokens
    )
    return loss_sum, weights_BT.astype(jnp.float32).sum(), {}


def sft_with_pushes(low: float) -> Objective:
    """`sft` of examples (encode_pushed) some of whose tokens are made less likely, until their probability is
    1 - low of what it was. Means are over all weights and pushes. Metrics: push_share, of those sums, and
    clipped, the push that has reached its bound."""

    def objective(model: Transformer, batch: Batch) -> Sums:
        log_probs_BT, pushes_BT = batch_log_probs(model, batch), batch["push_BT"]
        loss_sum, weight_sum = sft_loss(log_probs_BT, batch["weights_BT"])
        terms = pushed_down(log_probs_BT, batch["behaviour_BT"], pushes_BT, low, LARGEST_RATIO)
        # In the divisor too, or a batch that holds little else would make a step of any size of them.
        push_sum = pushes_BT.sum()
        sums = {"push_share": push_sum, "clipped": weighted(terms.clipped_BT, pushes_BT).sum()}
        return loss_sum + terms.terms_BT.sum(), weight_sum + push_sum, sums

    return objective


def dpo(beta: float, nll_weight: float = 0.0) -> Objective:
    """Preference pairs (encode_pair) against the reference's log-probs in batch["reference_BT"].

    `nll_weight` adds that much of the chosen answers' mean negative log-prob a token, for DPO alone
    lets both answers' likelihoods fall (Pang et al. 2024, eq. 1). Means are over pairs; metrics are
    dpo_loss's, and chosen_nll.
    """

    def objective(model: Transformer, batch: Batch) -> Sums:
        segments_BT, weights_BT = batch["segment_ids_BT"], batch["weights_BT"]
        policy = pair_sums(weighted(batch_log_probs(model, batch), weights_BT), segments_BT)
        reference = pair_sums(weighted(batch["reference_BT"], weights_BT), segments_BT)
        loss_sum, count, sums = dpo_loss(*policy, *reference, paired(segments_BT), beta)
        tokens_BP = pair_sums(weights_BT, segments_BT).chosen_BP
        chosen_nll = -jnp.sum(policy.chosen_BP / jnp.where(tokens_BP == 0, 1.0, tokens_BP))
        return loss_sum + nll_weight * chosen_nll, count, sums | {"chosen_nll": chosen_nll}

    return objective


def prm_pointwise(good_id: int, bad_id: int) -> Objective:
    """Step labels (encode_step_labels), hard or soft. Metrics: score, the mean one, and accuracy, the
    share of labelled steps whose score is on their label's side of 1/2."""

    def objective(model: Transformer, batch: Batch) -> Sums:
        logits_BT = batch_step_logits(model, batch, good_id, bad_id)
        labels_BT, weights_BT = batch["label_BT"], batch["label_weight_BT"]
        hits_BT = (logits_BT > 0) == (labels_BT > 0.5)
        sums = {
            "accuracy": weighted(hits_BT, weights_BT).sum(),
            "score": weighted(jax.nn.sigmoid(logits_BT), weights_BT).sum(),
        }
        return *pointwise_loss(logits_BT, labels_BT, weights_BT), sums

    return objective


def prm_pairwise(good_id: int, bad_id: int) -> Objective:
    """Pairs of sibling steps (encode_step_pair). Means are over pairs; metrics: accuracy, the share
    whose chosen step scores higher, and margin, the difference of their logits."""

    def objective(model: Transformer, batch: Batch) -> Sums:
        segments_BT, weights_BT = batch["segment_ids_BT"], batch["label_weight_BT"]
        logits_BT = batch_step_logits(model, batch, good_id, bad_id)
        chosen_BP, rejected_BP = pair_sums(weighted(logits_BT, weights_BT), segments_BT)
        margin_BP = chosen_BP - rejected_BP  # 0 where there is no pair
        sums = {"accuracy": jnp.sum(margin_BP > 0, dtype=jnp.float32), "margin": margin_BP.sum()}
        return *pairwise_loss(chosen_BP, rejected_BP, paired(segments_BT)), sums

    return objective


def batch_log_probs(model: Transformer, batch: Batch, temperature: float = 1.0) -> jax.Array:
    """log_probs_BT of the targets at a temperature, each at the position that predicts it."""
    return target_log_probs(model, batch_hidden(model, batch), batch["targets_BT"], temperature)


def target_log_probs(
    model: Transformer, hidden_BTD: jax.Array, targets_BT: jax.Array, temperature: float
) -> jax.Array:
    """log_probs_BT under the model's distribution over its tokens, in which a padded vocabulary's other rows
    have no share, as they have none where it is sampled from."""
    head_DV, n_tokens = model.padded_head_DV(), model.config.token_rows
    return token_log_probs(hidden_BTD, head_DV, targets_BT, temperature=temperature, n_tokens=n_tokens)


def batch_step_logits(model: Transformer, batch: Batch, good_id: int, bad_id: int) -> jax.Array:
    """The step scorer's logits_BT, of which those at steps' last tokens mean something."""
    hidden_BTD, likelihood = batch_hidden(model, batch), model.config.score_likelihood
    targets_BT, lengths_BT = batch["targets_BT"], batch["program_tokens_BT"]
    head_DV, n_tokens = model.padded_head_DV(), model.config.token_rows
    return scored_logits(
        hidden_BTD, head_DV, targets_BT, lengths_BT, good_id, bad_id, likelihood, n_tokens=n_tokens
    )


def batch_hidden(model: Transformer, batch: Batch) -> jax.Array:
    """hidden_BTD of a packed batch."""
    return model(batch["tokens_BT"], batch["positions_BT"], batch["segment_ids_BT"])


def weighted(values_BT: jax.Array, weights_BT: jax.Array) -> jax.Array:
    """values * weights, and 0 where the weight is, whatever the value."""
    return jnp.where(weights_BT == 0, 0.0, values_BT * weights_BT)


class PairSums(NamedTuple):
    """Sums over both parts of every pair; there are P = T // 2 slots a row, the empty ones 0."""

    chosen_BP: jax.Array
    rejected_BP: jax.Array


def pair_sums(values_BT: jax.Array, segment_ids_BT: jax.Array) -> PairSums:
    """Sums by part. In rows of pairs, segments 1, 3, ... are chosen answers, 2, 4, ... rejected ones."""
    sums_BS = part_sums(values_BT, segment_ids_BT)
    parts = values_BT.shape[1] // 2 * 2
    return PairSums(sums_BS[:, 1 : parts + 1 : 2], sums_BS[:, 2 : parts + 1 : 2])


def paired(segment_ids_BT: jax.Array) -> jax.Array:
    """mask_BP: the slots that hold a pair."""
    return pair_sums(jnp.ones(segment_ids_BT.shape, jnp.float32), segment_ids_BT).rejected_BP > 0
