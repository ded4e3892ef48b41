"""A process reward model whose body is the policy itself, frozen: what is fitted is a head, in a minute.

The logit of a step is that of its problem, read at the prompt's last token, and the step's log-likelihood
with a weight, one of programs and one of other steps. A policy knows which problems are hard for it and which
of its steps it doubts; of a few hundred problems' labels a trained body learns the first, and forgets some of
the second (tests/benchmarks/RESULTS.md). Trains no body (prm.py), and calibrates nothing (calibrate.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from o1jax.model.init import merge
from o1jax.train.checkpoint import Policy

FOLDS = 5  # of problems
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # C of the prompt's weights, whose inputs have a variance of 1


class Head(NamedTuple):
    """What the model's config has of the head (model/config.py)."""

    score_prompt: tuple[float, ...]
    score_likelihood: float
    score_step_likelihood: float


class HeadInputs(NamedTuple):
    """Of N steps, what the head reads; float64 or float32."""

    prompt_ND: np.ndarray  # the hidden state at the prompt's last token
    program_N: np.ndarray  # the sum of a program's log-probs, 0 of other steps
    step_N: np.ndarray  # the sum of another step's log-probs, 0 of programs

    def logits(self, head: Head) -> np.ndarray:
        """logit_N, as the scorer has it."""
        likelihood_N = head.score_likelihood * self.program_N + head.score_step_likelihood * self.step_N
        return self.prompt_ND @ np.asarray(head.score_prompt) + likelihood_N


def prompt_states(policy: Policy, prompts: Sequence[tuple[int, ...]], slots: int) -> np.ndarray:
    """hidden_PD, float32, at the last token of each prompt; `slots` prompts a forward pass."""
    length = max(map(len, prompts))

    @jax.jit
    def states(params, tokens_BT: jax.Array, lengths_B: jax.Array) -> jax.Array:
        positions_BT = jnp.broadcast_to(jnp.arange(length), tokens_BT.shape)
        segments_BT = (positions_BT < lengths_B[:, None]).astype(jnp.int32)
        hidden_BTD = merge(policy.graphdef, params)(tokens_BT, positions_BT, segments_BT)
        return jnp.take_along_axis(hidden_BTD, lengths_B[:, None, None] - 1, axis=1)[:, 0].astype(jnp.float32)

    found = []
    for start in range(0, len(prompts), slots):
        part = prompts[start : start + slots]
        tokens_BT, lengths_B = np.zeros((slots, length), np.int32), np.ones(slots, np.int32)
        for row, ids in enumerate(part):
            tokens_BT[row, : len(ids)], lengths_B[row] = ids, len(ids)
        found.append(np.asarray(states(policy.params, tokens_BT, lengths_B))[: len(part)])
    return np.concatenate(found)


def fit_head(
    inputs: HeadInputs, number_N: np.ndarray, label_N: np.ndarray, weight_N: np.ndarray, problem_N: np.ndarray
) -> Head:
    """The least cross-entropy with labels in [0, 1]; the strength of L2 on the prompt's weights is the one
    with the least on problems that are left out. What a step's number adds is fitted too and not returned:
    it is the calibration's."""
    # What varies by less than a hundredth of a usual number may be rounding: it is not scaled up.
    scale_D = np.maximum(inputs.prompt_ND.std(axis=0), 1e-2 * np.median(np.abs(inputs.prompt_ND)) + 1e-6)
    prompt_ND = (inputs.prompt_ND - inputs.prompt_ND.mean(axis=0)) / scale_D
    likelihood_N2 = np.stack([inputs.program_N, inputs.step_N], axis=1)
    scale_2 = likelihood_N2.std(axis=0) + 1e-6
    is_number_NK = number_N[:, None] == np.arange(1, number_N.max() + 1)
    rest_NE = np.concatenate([likelihood_N2 / scale_2, is_number_NK], axis=1)

    def fitted(strength: float, rows: np.ndarray) -> np.ndarray:
        """weights of the columns of [prompt, rest], fitted to these rows."""
        # The rest has a penalty of its own, next to none: its columns are few.
        columns_ND = np.concatenate([np.sqrt(strength) * prompt_ND[rows], rest_NE[rows]], axis=1)
        model = LogisticRegression(C=1.0, fit_intercept=False, solver="newton-cholesky", tol=1e-6)
        both = np.repeat([1, 0], len(rows))
        weights = np.concatenate([weight_N[rows] * label_N[rows], weight_N[rows] * (1 - label_N[rows])])
        model.fit(np.tile(columns_ND, (2, 1)), both, weights)
        return model.coef_[0] * np.r_[np.full(len(scale_D), np.sqrt(strength)), np.ones(rest_NE.shape[1])]

    columns_ND = np.concatenate([prompt_ND, rest_NE], axis=1)
    folds = min(FOLDS, len(np.unique(problem_N)))
    losses = dict.fromkeys(STRENGTHS, 0.0)
    for rows, left_out in GroupKFold(folds).split(problem_N, groups=problem_N) if folds > 1 else ():
        for strength in STRENGTHS:
            logit_N = columns_ND[left_out] @ fitted(strength, rows)
            terms = label_N[left_out] * np.logaddexp(0, -logit_N)
            terms += (1 - label_N[left_out]) * np.logaddexp(0, logit_N)
            losses[strength] += float(weight_N[left_out] @ terms)
    best = fitted(min(losses, key=losses.get), np.arange(len(label_N)))
    D = len(scale_D)
    # A likelier step is never a worse one: of a few rows, or of labels all alike, it may seem so.
    program, step = np.maximum(best[D : D + 2] / scale_2, 0.0)
    return Head(tuple((best[:D] / scale_D).tolist()), float(program), float(step))
