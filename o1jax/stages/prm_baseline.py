"""What a step's place and length alone tell of its label: the baseline of a process reward model.

Labels are confounded with them (a long path is a late, often a failing one), so a scorer must beat this
before it can be said to read the steps. Reads no text and no token.
"""

from __future__ import annotations

import numpy as np
import scipy.optimize
import scipy.special

from o1jax.stages.prm_nodes import Nodes

L2 = 1e-4


def fit_and_score(train: Nodes, label_N: np.ndarray, held_out: Nodes) -> np.ndarray:
    """The rows of `held_out` scored by a logistic regression fitted on `train` and its labels in [0, 1].

    For every step number, of which numbers beyond the training rows' last count as the last: a
    quadratic in the logarithms of the step's and the path's tokens.
    """
    last = int(train.number_N.max())
    logs_N2 = _logs(train)
    mean_2, scale_2 = logs_N2.mean(axis=0), logs_N2.std(axis=0) + 1e-6
    inputs_ND = _inputs((logs_N2 - mean_2) / scale_2, train.number_N, last)

    def loss(weights_D: np.ndarray) -> tuple[float, np.ndarray]:
        logit_N = inputs_ND @ weights_D
        cross_entropy = np.mean(np.logaddexp(0, logit_N) - label_N * logit_N)
        gradient_D = inputs_ND.T @ (scipy.special.expit(logit_N) - label_N) / len(label_N)
        return cross_entropy + L2 * weights_D @ weights_D, gradient_D + 2 * L2 * weights_D

    weights_D = scipy.optimize.minimize(loss, np.zeros(inputs_ND.shape[1]), jac=True, method="L-BFGS-B").x
    held_out_ND = _inputs((_logs(held_out) - mean_2) / scale_2, held_out.number_N, last)
    return scipy.special.expit(held_out_ND @ weights_D)


def _logs(nodes: Nodes) -> np.ndarray:
    return np.log(np.stack([nodes.step_tokens_N, nodes.path_tokens_N], axis=1))


def _inputs(logs_N2: np.ndarray, number_N: np.ndarray, last: int) -> np.ndarray:
    """The quadratic's terms, in the columns of the step's number; 0 in the others'."""
    step_N, path_N = np.clip(logs_N2, -4, 4).T  # a held-out length far from all others is not extrapolated
    terms_N6 = np.stack([np.ones_like(step_N), step_N, path_N, step_N**2, path_N**2, step_N * path_N], axis=1)
    is_number_NK = np.minimum(number_N, last)[:, None] == np.arange(1, last + 1)
    return (is_number_NK[:, :, None] * terms_N6[:, None, :]).reshape(len(step_N), -1)
