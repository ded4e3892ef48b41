"""The process reward model's score of a step, and its losses: point-wise, or on pairs of siblings.

A score is sigmoid(h . (W[:, good] - W[:, bad])) of the hidden state at a step's last token: the
probability of the good token against the bad one. To the logit of a step that is a program its own
log-likelihood may be added, with a weight: a program is determined by the pseudocode above it, and its
unlikely tokens are mostly its mistakes. Of a head on a frozen policy (prm/head.py) the first part is read at
the prompt's last token. Does not know where steps end.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from o1jax.losses.logprobs import token_log_probs
from o1jax.records import InputError

Calibration = Sequence[tuple[float, float]]  # (a, b) of steps 1, 2, ...


def step_logits(hidden_BTD: Array, head_DV: Array, good_id: int, bad_id: int) -> Array:
    """logits_BT, float32: the good token's logit less the bad one's, at every position."""
    assert hidden_BTD.ndim == 3 and hidden_BTD.shape[2] == head_DV.shape[0]
    direction_D = head_DV[:, good_id].astype(jnp.float32) - head_DV[:, bad_id].astype(jnp.float32)
    hidden_BTD = hidden_BTD.astype(jnp.float32)
    return jnp.einsum("BTD,D->BT", hidden_BTD, direction_D, precision=jax.lax.Precision.HIGHEST)


def scored_logits(
    hidden_BTD: Array,
    head_DV: Array,
    targets_BT: Array,
    program_tokens_BT: Array,
    good_id: int,
    bad_id: int,
    likelihood: float,
    n_tokens: int | None = None,
) -> Array:
    """logits_BT: step_logits, and `likelihood` times the log-likelihood of the program that ends there, by
    the same model in the same pass (0: step_logits alone). targets_BT are the next tokens, program_tokens_BT
    the number of a program's tokens at its last one, else 0. `n_tokens`: as token_log_probs has it."""
    logits_BT = step_logits(hidden_BTD, head_DV, good_id, bad_id)
    if not likelihood:
        return logits_BT
    log_probs_BT = token_log_probs(hidden_BTD, head_DV, targets_BT, n_tokens=n_tokens)
    return logits_BT + likelihood * log_likelihoods(log_probs_BT, program_tokens_BT)


def prompt_logits(hidden_BTD: Array, prompt_ends_B: Array, weights_D: Sequence[float]) -> Array:
    """logits_BT, float32, the same at every position of a row: weights_D times the hidden state at the index
    prompt_ends_B."""
    assert hidden_BTD.ndim == 3 and hidden_BTD.shape[2] == len(weights_D)
    hidden_BD = jnp.take_along_axis(hidden_BTD, prompt_ends_B[:, None, None], axis=1)[:, 0]
    direction_D = jnp.asarray(weights_D, jnp.float32)
    logits_B = jnp.einsum(
        "BD,D->B", hidden_BD.astype(jnp.float32), direction_D, precision=jax.lax.Precision.HIGHEST
    )
    return jnp.broadcast_to(logits_B[:, None], hidden_BTD.shape[:2])


def log_likelihoods(log_probs_BT: Array, program_tokens_BT: Array) -> Array:
    """sums_BT, float32: at every position, the log-probs of the last program_tokens_BT tokens up to it, its
    own included; 0 where that is 0. log_probs_BT[t] is token t + 1's, read at t (logprobs.py)."""
    assert log_probs_BT.shape == program_tokens_BT.shape
    own_BT = jnp.pad(log_probs_BT.astype(jnp.float32)[:, :-1], ((0, 0), (1, 0)))
    sums_BT = jnp.cumsum(own_BT, axis=1)
    before_BT = jnp.arange(sums_BT.shape[1]) - program_tokens_BT.astype(jnp.int32)
    return sums_BT - jnp.take_along_axis(sums_BT, jnp.maximum(before_BT, 0), axis=1)


def calibrated(logits: np.ndarray, numbers: np.ndarray, calibration: Calibration) -> np.ndarray:
    """Scores, float64: sigmoid(a * logit + b) with the (a, b) of each step's number, counted from 1; steps
    after the last number have the last one's. Without any, the sigmoid alone (Platt 1999, by depth)."""
    logits = np.asarray(logits, np.float64)  # in float32 a logit of 17 is a score of 1
    if len(calibration):
        ab_K2 = np.asarray(calibration, np.float64)
        scale, shift = ab_K2[np.minimum(numbers, len(ab_K2)) - 1].T
        logits = scale * logits + shift
    return np.exp(-np.logaddexp(0.0, -logits))


def pointwise_loss(logits: Array, labels: Array, weights: Array) -> tuple[Array, Array]:
    """(sum of cross-entropy * weight, sum of weights), float32 scalars; all three of one shape. A label in
    [0, 1] is the wanted probability: 0 and 1 are hard labels, a mean value is a soft one. Where the weight is
    0 anything may stand: it adds nothing."""
    assert logits.shape == labels.shape == weights.shape
    counts, weights = weights != 0, weights.astype(jnp.float32)
    logits = jnp.where(counts, logits.astype(jnp.float32), 0.0)
    labels = jnp.where(counts, labels.astype(jnp.float32), 0.0)
    # not softplus(x) - label * x, which loses its digits where x is large
    losses = labels * jax.nn.softplus(-logits) + (1 - labels) * jax.nn.softplus(logits)
    return jnp.sum(losses * weights), weights.sum()


def pairwise_loss(chosen_logits: Array, rejected_logits: Array, mask: Array) -> tuple[Array, Array]:
    """(sum of -log sigmoid(chosen - rejected), number of pairs), float32 scalars: Bradley-Terry. Where the
    mask is 0 anything may stand: it adds nothing."""
    assert chosen_logits.shape == rejected_logits.shape == mask.shape
    mask = mask.astype(bool)
    chosen = jnp.where(mask, chosen_logits.astype(jnp.float32), 0.0)
    rejected = jnp.where(mask, rejected_logits.astype(jnp.float32), 0.0)
    losses = jnp.where(mask, jax.nn.softplus(rejected - chosen), 0.0)
    return losses.sum(), mask.sum(dtype=jnp.float32)


def soft_label_floor(labels: np.ndarray, weights: np.ndarray) -> float:
    """The weighted mean binary entropy of labels in [0, 1], in nats: the least point-wise loss a
    scorer can have on them. InputError if nothing has weight."""
    labels, weights = np.asarray(labels, np.float64), np.asarray(weights, np.float64)
    assert labels.shape == weights.shape
    labels, weights = labels[weights != 0], weights[weights != 0]
    if not weights.size:
        raise InputError("no label has weight, so their loss has no floor; give labels with leaves")
    return float(np.average(entropy(labels) + entropy(1 - labels), weights=weights))


def entropy(p: np.ndarray) -> np.ndarray:
    """-p log p, 0 at 0."""
    return -p * np.log(np.where(p == 0, 1.0, p))
