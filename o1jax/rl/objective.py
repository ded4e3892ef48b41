"""The objective of policy-gradient RL: rollouts (encode_rollout) with their advantages.

The terms are in losses/policy_gradient.py; here they are put together, weighted for staleness and normalised.
Makes no advantages, and decides no update.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from o1jax.losses import policy_gradient as losses
from o1jax.losses.likelihood import part_sums, spread
from o1jax.losses.prm import step_logits
from o1jax.model.transformer import Transformer
from o1jax.records import InputError
from o1jax.train.objectives import Batch, Objective, Sums, batch_hidden, target_log_probs, weighted


@dataclasses.dataclass(frozen=True)
class PolicyGradient:
    """The loss. Its KL and value terms are normalised as the policy's is: a value that stands at every 30th
    token counts a 30th of `value_weight`."""

    # To the proximal policy: "none" REINFORCE, "clip" PPO, "cispo" CISPO, "sequence" GSPO.
    ratio: Literal["none", "clip", "cispo", "sequence"] = "clip"
    clip_low: Annotated[float, Field(ge=0, le=1)] = 0.2  # the ratio is bounded by 1 - this (PPO's epsilon)
    clip_high: NonNegativeFloat = 0.28  # and by 1 + this (DAPO's: rare tokens may rise further than fall)
    # Bounds the importance weights of the proximal policy to the sampler, without which one token that the
    # engine found unlikely could outweigh all others (published recipes take about 2); 0: no such weights.
    importance_cap: NonNegativeFloat = 2.0
    kl_weight: NonNegativeFloat = 0.0  # of KL to the policy that the run began with
    value_weight: NonNegativeFloat = 0.0  # of the squared error of the score head's values (gae)
    # Of the negative log-likelihood of replayed examples: its sum over their tokens is divided by what the
    # policy's loss is divided by (the pretraining term of InstructGPT's PPO-ptx, arXiv 2203.02155, eq. 2).
    # Filled in from Settings.replay.
    replay_weight: NonNegativeFloat = 0.0
    # The mean over tokens, over sequences of their means over tokens, or over sequences of their sums divided
    # by `constant` (Dr. GRPO).
    normalize: Literal["token", "sequence", "constant"] = "token"
    constant: NonNegativeInt = 0  # tokens
    temperature: PositiveFloat = 1.0  # that of sampling, inside the log-prob; filled in
    good_id: int = 0  # the score tokens, read as a value in [0, 1]; filled in from the tokenizer
    bad_id: int = 0

    def __post_init__(self):
        if self.normalize == "constant" and not self.constant:
            raise InputError("policy gradient: constant 0; normalize='constant' needs a number of tokens")


def policy_gradient(settings: PolicyGradient) -> Objective:
    """The objective by these settings. InputError for a value_weight without two different score tokens.

    Columns: advantage and behaviour (the sampler's log-probs); old, the proximal policy's log-probs, else
    that policy is the current one, which fits one update a batch of rollouts; reference, for kl_weight;
    value_target and value_weight, for that. All log-probs are at `temperature`. Tokens whose weight is not 0
    are actions, all alike. A value is read where its token is predicted: what stands at a step's first
    token is the value before that step.

    Metrics, each the mean over action tokens, by "sequence" and "constant" within each sequence first:
    importance, clip_share, ratio (to the proximal policy), sampler_difference (|log_prob - behaviour|),
    entropy (-log_prob, its estimate), kl (k3), replay (the sum over replayed tokens, divided as the loss is)
    and value_error (its square, over the positions with a value).
    """
    if settings.value_weight and settings.good_id == settings.bad_id:
        raise InputError(f"policy gradient: good_id and bad_id are both {settings.good_id}")

    # All sums are plain sums over tokens or sequences, so that micro-batches and packing change nothing.
    def objective(model: Transformer, batch: Batch) -> Sums:
        mask_BT, segments_BT = batch["weights_BT"] != 0, batch["segment_ids_BT"]
        hidden_BTD, targets_BT = batch_hidden(model, batch), batch["targets_BT"]
        log_probs_BT = target_log_probs(model, hidden_BTD, targets_BT, settings.temperature)
        shares = shares_of(settings, mask_BT, segments_BT)
        loss_BT, metrics = policy_loss(settings, log_probs_BT, batch, mask_BT)
        if settings.kl_weight:
            metrics["kl"] = losses.kl_k3(log_probs_BT, batch["reference_BT"], mask_BT)
            loss_BT += settings.kl_weight * metrics["kl"]
        if settings.value_weight:
            # The score head of the policy itself is its value function: no second model, and no new weights.
            ids = settings.good_id, settings.bad_id
            values_BT = jax.nn.sigmoid(step_logits(hidden_BTD, model.padded_head_DV(), *ids))
            weights_BT = batch["value_weight_BT"]
            value_BT = losses.value_loss(values_BT, batch["value_target_BT"], weights_BT != 0)
            value_BT = weighted(value_BT, weights_BT)
            loss_BT += settings.value_weight * value_BT
            metrics["value_error"] = 2 * value_BT * tokens_a_value(batch, mask_BT)
        sums = {name: jnp.sum(shares.metric_BT * values_BT) for name, values_BT in metrics.items()}
        loss = jnp.sum(shares.loss_BT * loss_BT)
        if settings.replay_weight:
            sums["replay"] = jnp.sum(weighted(-log_probs_BT, batch["replay_BT"]))
            loss += settings.replay_weight * sums["replay"]
        return loss, shares.weight_sum, sums

    return objective


def policy_loss(
    settings: PolicyGradient, log_probs_BT: jax.Array, batch: Batch, mask_BT: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(losses of the action tokens, by importance; their metrics), each [B, T] and 0 outside the mask."""
    fixed_BT, behaviour_BT = jax.lax.stop_gradient(log_probs_BT), batch["behaviour_BT"]
    # Without a column `old` the policy is its own proximal one: the ratio is 1, with the log-prob's gradient.
    old_BT = batch["old_BT"] if "old_BT" in batch else fixed_BT
    importance_BT = mask_BT.astype(jnp.float32)
    # Two ratios, not one: the clipped one is to the policy at the update's beginning, and this one makes up
    # for what lies between that and the engine that sampled (decoupled PPO, arXiv 2110.00641).
    if settings.importance_cap:
        importance_BT = losses.truncated_weights(old_BT, behaviour_BT, mask_BT, settings.importance_cap)
    terms_BT, clipped_BT = policy_terms(settings, log_probs_BT, old_BT, batch, mask_BT)
    metrics = {
        "importance": importance_BT,
        "clip_share": clipped_BT.astype(jnp.float32),
        "ratio": losses.only(mask_BT, jnp.exp(losses.log_ratio(fixed_BT, old_BT, mask_BT))),
        "sampler_difference": jnp.abs(losses.log_ratio(fixed_BT, behaviour_BT, mask_BT)),
        "entropy": -losses.only(mask_BT, fixed_BT),  # of sampled tokens: no [B, T, V] is needed for it
    }
    return importance_BT * terms_BT, metrics


def policy_terms(
    settings: PolicyGradient, log_probs_BT: jax.Array, old_BT: jax.Array, batch: Batch, mask_BT: jax.Array
) -> losses.Terms:
    """The terms of the algorithm that `ratio` names."""
    advantages_BT, bounds = batch["advantage_BT"], (settings.clip_low, settings.clip_high)
    if settings.ratio == "none":
        return losses.reinforce(log_probs_BT, advantages_BT, mask_BT)
    if settings.ratio == "clip":
        return losses.clipped(log_probs_BT, old_BT, advantages_BT, mask_BT, *bounds)
    if settings.ratio == "cispo":
        return losses.cispo(log_probs_BT, old_BT, advantages_BT, mask_BT, *bounds)
    segments_BT = batch["segment_ids_BT"]
    return losses.sequence_clipped(log_probs_BT, old_BT, advantages_BT, mask_BT, segments_BT, *bounds)


def tokens_a_value(batch: Batch, mask_BT: jax.Array) -> jax.Array:
    """At every position its segment's action tokens / value weights: it makes of a mean over tokens one
    over values."""
    segments_BT = batch["segment_ids_BT"]
    values_BS = part_sums(batch["value_weight_BT"], segments_BT)
    tokens_BS = part_sums(mask_BT.astype(jnp.float32), segments_BT)
    return spread(tokens_BS / jnp.where(values_BS == 0, 1.0, values_BS), segments_BT)


class Shares(NamedTuple):
    """What a position's loss and its metrics count, and what their sums are divided by."""

    loss_BT: jax.Array
    metric_BT: jax.Array
    weight_sum: jax.Array


def shares_of(settings: PolicyGradient, mask_BT: jax.Array, segments_BT: jax.Array) -> Shares:
    """The shares by `normalize`."""
    # Sequences are the segments with an action token: replayed examples and padding have none, and what the
    # policy's loss is divided by must not depend on them.
    tokens_BS = part_sums(mask_BT.astype(jnp.float32), segments_BT)
    one_BT = jnp.ones(mask_BT.shape, jnp.float32)
    if settings.normalize == "token":  # long answers count for more, each token for the same
        return Shares(one_BT, one_BT, tokens_BS.sum())
    of_sequence_BT = spread(jnp.where(tokens_BS == 0, 0.0, 1 / jnp.maximum(tokens_BS, 1.0)), segments_BT)
    loss_BT = of_sequence_BT if settings.normalize == "sequence" else one_BT / settings.constant
    return Shares(loss_BT, of_sequence_BT, jnp.sum(tokens_BS > 0, dtype=jnp.float32))
