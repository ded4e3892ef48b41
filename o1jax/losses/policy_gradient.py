"""Policy-gradient losses of single tokens, from log-probs, advantages and a mask of action tokens.

Every array is [B, T]; column t is the token that position t predicts. Where mask_BT is 0 anything may
stand, also NaN: the result there is 0, and so is its gradient. Gradients flow to log_probs_BT (and to
values_BT) alone. Does not sum or normalise (rl/objective.py) or make advantages.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from o1jax.losses.likelihood import only, part_sums, spread

# Ratios of probabilities end at e^20, and have no gradient there: e^89 is infinite, and 0 * inf is NaN.
LARGEST_LOG_RATIO = 20.0


class Terms(NamedTuple):
    """The loss of every action token, to be summed, and whether its ratio was clipped."""

    terms_BT: Array
    clipped_BT: Array


def reinforce(log_probs_BT: Array, advantages_BT: Array, mask_BT: Array) -> Terms:
    """-advantage * log-prob (Williams 1992); nothing is clipped."""
    terms_BT = -only(mask_BT, stop_gradient(advantages_BT)) * only(mask_BT, log_probs_BT)
    return Terms(terms_BT, jnp.zeros(mask_BT.shape, bool))


def clipped(
    log_probs_BT: Array, old_BT: Array, advantages_BT: Array, mask_BT: Array, low: float, high: float
) -> Terms:
    """-min(r * advantage, clip(r, 1 - low, 1 + high) * advantage), r = exp(log_prob - old) (PPO, Schulman
    et al. 2017, eq. 7; an upper bound of its own: DAPO, arXiv 2503.14476, eq. 10). Clipped are the tokens
    whose gradient the bound took away."""
    ratio_BT = jnp.exp(log_ratio(log_probs_BT, stop_gradient(old_BT), mask_BT))
    return pessimistic(ratio_BT, only(mask_BT, stop_gradient(advantages_BT)), low, high)


def cispo(
    log_probs_BT: Array, old_BT: Array, advantages_BT: Array, mask_BT: Array, low: float, high: float
) -> Terms:
    """-clip(r, 1 - low, 1 + high) * advantage * log-prob, with no gradient through the ratio (CISPO,
    MiniMax-M1, arXiv 2506.13585, eqs. 4 and 5): a clipped token keeps a bounded gradient."""
    ratio_BT = jnp.exp(log_ratio(stop_gradient(log_probs_BT), stop_gradient(old_BT), mask_BT))
    bounded_BT = jnp.clip(ratio_BT, 1 - low, 1 + high)
    terms_BT = bounded_BT * reinforce(log_probs_BT, advantages_BT, mask_BT).terms_BT
    return Terms(terms_BT, mask_BT.astype(bool) & (bounded_BT != ratio_BT))


def sequence_clipped(
    log_probs_BT: Array,
    old_BT: Array,
    advantages_BT: Array,
    mask_BT: Array,
    segment_ids_BT: Array,
    low: float,
    high: float,
) -> Terms:
    """`clipped` with one ratio a segment, the geometric mean of its action tokens' (GSPO, arXiv
    2507.18071, eq. 7), in the form that takes an advantage a token (GSPO-token, eqs. 13 and 14): every
    token has the segment's ratio, with the gradient of its own log-prob."""
    log_ratio_BT = log_ratio(log_probs_BT, stop_gradient(old_BT), mask_BT)
    fixed_BT = stop_gradient(log_ratio_BT)
    tokens_BS = part_sums(mask_BT.astype(bool).astype(jnp.float32), segment_ids_BT)
    mean_BS = part_sums(fixed_BT, segment_ids_BT) / jnp.maximum(tokens_BS, 1.0)
    ratio_BT = jnp.exp(spread(mean_BS, segment_ids_BT) + log_ratio_BT - fixed_BT)
    return pessimistic(ratio_BT, only(mask_BT, stop_gradient(advantages_BT)), low, high)


def pessimistic(ratio_BT: Array, advantages_BT: Array, low: float, high: float) -> Terms:
    """-min(ratio * advantage, clip(ratio) * advantage), chosen by the bound that the advantage's sign
    can meet, so that the gradient is whole at a bound and none beyond it."""
    bound_BT = jnp.where(advantages_BT > 0, 1 + high, 1 - low)
    beyond_BT = jnp.where(advantages_BT > 0, ratio_BT > bound_BT, ratio_BT < bound_BT)
    clipped_BT = beyond_BT & (advantages_BT != 0)
    return Terms(-jnp.where(clipped_BT, bound_BT, ratio_BT) * advantages_BT, clipped_BT)


def pushed_down(log_probs_BT: Array, old_BT: Array, pushes_BT: Array, low: float, cap: float) -> Terms:
    """push * min(r, cap) * log-prob, r = exp(log_prob - old) without gradient, where r >= 1 - low; 0 where it
    is less: the gradient of PPO's `clipped` with the advantage -push, but never more than `cap` pushes.
    Pushes are at least 0."""
    # By PPO a bad token that has become ten times as likely since it was sampled is pushed ten times as hard;
    # what is learned from may be rounds old, so that happens here.
    mask_BT = pushes_BT > 0
    ratio_BT = jnp.exp(log_ratio(stop_gradient(log_probs_BT), stop_gradient(old_BT), mask_BT))
    clipped_BT = mask_BT & (ratio_BT < 1 - low)
    pushed_BT = mask_BT & ~clipped_BT
    weights_BT = only(pushed_BT, pushes_BT) * jnp.minimum(ratio_BT, cap)
    return Terms(weights_BT * only(pushed_BT, log_probs_BT), clipped_BT)


def truncated_weights(proximal_BT: Array, behaviour_BT: Array, mask_BT: Array, cap: float) -> Array:
    """min(exp(proximal - behaviour), cap), without gradient: what a token counts that another policy
    sampled, an older one or the engine's rounding of this one (truncated importance weights, Ionides
    2008; for the engine, Yao et al. 2025)."""
    weights_BT = jnp.minimum(jnp.exp(log_ratio(proximal_BT, behaviour_BT, mask_BT)), cap)
    return only(mask_BT, stop_gradient(weights_BT))


def kl_k3(log_probs_BT: Array, reference_BT: Array, mask_BT: Array) -> Array:
    """exp(x) - x - 1 with x = reference - log_prob, >= 0: the mean over sampled tokens estimates
    KL(policy || reference) (Schulman's k3; DeepSeekMath, arXiv 2402.03300, eq. 4)."""
    x_BT = log_ratio(stop_gradient(reference_BT), log_probs_BT, mask_BT)
    return jnp.expm1(x_BT) - x_BT


def value_loss(values_BT: Array, targets_BT: Array, mask_BT: Array) -> Array:
    """(value - target)^2 / 2."""
    return jnp.square(only(mask_BT, values_BT) - only(mask_BT, stop_gradient(targets_BT))) / 2


def log_ratio(above_BT: Array, below_BT: Array, mask_BT: Array) -> Array:
    """above - below, float32, at most LARGEST_LOG_RATIO; 0 outside the mask."""
    return jnp.minimum(only(mask_BT, above_BT) - only(mask_BT, below_BT), LARGEST_LOG_RATIO)
