"""How well scores of steps agree with the labels that search gave them. Pure numpy.

AUC is of the score against the hard label; log-loss and calibration are against the soft one. A figure
that the labels do not define (all of one kind, say) is None.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.optimize
import scipy.special

from o1jax.intervals import auc, auc_intervals, mean_with_interval
from o1jax.losses.prm import soft_label_floor
from o1jax.prm.nodes import Nodes

# What a step's place and length alone tell of its label: the baseline of a process reward model.
#
# Labels are confounded with them (a long path is a late, often a failing one), so a scorer must beat this
# before it can be said to read the steps. Reads no text and no token.

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


BINS = 10
SMALLEST = 1e-6  # a float32 score may round to 0 or 1


def held_out_figures(train: Nodes, held_out: Nodes, score_N: np.ndarray, seed: int) -> dict[str, Any]:
    """{n_nodes, n_problems, hard_share, log_loss_floor, prm, baseline, auc_difference}.

    prm and baseline hold the figures of `ranking` and `calibration`, auc with its interval. The
    baseline is fitted on the training steps: to hard labels for its ranking, to soft ones for the rest.
    """
    by_hard = fit_and_score(train, train.hard_N, held_out)
    by_soft = fit_and_score(train, train.soft_N, held_out)
    aucs = auc_intervals({"prm": score_N, "baseline": by_hard}, held_out.hard_N, held_out.problem_N, seed)
    ours = ranking(held_out, score_N, seed) | calibration(held_out, score_N)
    baseline = ranking(held_out, by_hard, seed) | calibration(held_out, by_soft)
    return {
        "n_nodes": len(held_out),
        "n_problems": len(np.unique(held_out.problem_N)),
        "hard_share": rounded(held_out.hard_N.mean()),
        "log_loss_floor": rounded(soft_label_floor(held_out.soft_N, np.ones(len(held_out)))),
        "prm": {"auc": aucs["prm"], **ours},
        "baseline": {"auc": aucs["baseline"], **baseline},
        "auc_difference": aucs["difference"],
    }


def ranking(nodes: Nodes, score_N: np.ndarray, seed: int) -> dict[str, Any]:
    """auc_by_depth, auc_leaves, auc_inner, pair_accuracy (of siblings with different soft labels), and
    within_problem_auc, the mean over problems that have both labels: what counts for search."""
    by_problem = [_auc_where(nodes, score_N, nodes.problem_N == p) for p in np.unique(nodes.problem_N)]
    within = [auc for auc in by_problem if auc is not None]
    return {
        "auc_by_depth": {
            str(d): rounded(_auc_where(nodes, score_N, nodes.number_N == d))
            for d in np.unique(nodes.number_N)
        },
        "auc_leaves": rounded(_auc_where(nodes, score_N, nodes.is_leaf_N)),
        "auc_inner": rounded(_auc_where(nodes, score_N, ~nodes.is_leaf_N)),
        "within_problem_auc": mean_with_interval(within, seed) if within else None,
        **pair_figures(nodes, score_N),
    }


def calibration(nodes: Nodes, score_N: np.ndarray) -> dict[str, Any]:
    """log_loss, calibration_error, calibration_error_by_depth and calibration, all against the soft label."""
    score_N = np.clip(score_N, SMALLEST, 1 - SMALLEST)
    losses_N = -nodes.soft_N * np.log(score_N) - (1 - nodes.soft_N) * np.log1p(-score_N)
    by_depth = {
        str(d): calibration_error(score_N[nodes.number_N == d], nodes.soft_N[nodes.number_N == d])
        for d in np.unique(nodes.number_N)
    }
    return {
        "log_loss": rounded(losses_N.mean()),
        "calibration_error": rounded(calibration_error(score_N, nodes.soft_N)),
        "calibration_error_by_depth": {depth: rounded(error) for depth, error in by_depth.items()},
        "calibration": calibration_curve(score_N, nodes.soft_N),
    }


def calibration_error(score_N: np.ndarray, label_N: np.ndarray) -> float:
    """The mean over N of |mean score - mean label| of its bin; ten bins of equal width on [0, 1]."""
    return float(np.abs(np.bincount(_bins(score_N), score_N - label_N)).sum() / len(score_N))


def calibration_curve(score_N: np.ndarray, label_N: np.ndarray) -> list[dict[str, float | int | None]]:
    """{score, label, n} of each bin that is not empty: its mean score, its mean label, its steps."""
    bin_N = _bins(score_N)
    return [
        {"score": rounded(score_N[rows].mean()), "label": rounded(label_N[rows].mean()), "n": int(rows.sum())}
        for rows in (bin_N == k for k in np.unique(bin_N))
    ]


def _bins(score_N: np.ndarray) -> np.ndarray:
    """bin_N, of BINS of equal width on [0, 1]."""
    return np.minimum((score_N * BINS).astype(int), BINS - 1)


def pair_figures(nodes: Nodes, score_N: np.ndarray) -> dict[str, Any]:
    """pair_accuracy, the share of sibling pairs whose step with the higher soft label scores higher, a
    tie counting half, and n_pairs; the pairs are those of samples.step_pairs."""
    order = np.argsort(nodes.parent_N, kind="stable")
    starts = np.flatnonzero(np.diff(nodes.parent_N[order])) + 1
    hits, pairs = 0.0, 0
    for siblings in np.split(order, starts):
        better, worse = np.nonzero(nodes.soft_N[siblings][:, None] > nodes.soft_N[siblings])
        margins = score_N[siblings][better] - score_N[siblings][worse]
        hits, pairs = hits + np.sum((np.sign(margins) + 1) / 2), pairs + len(margins)
    return {"pair_accuracy": rounded(hits / pairs) if pairs else None, "n_pairs": pairs}


def rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)


def _auc_where(nodes: Nodes, score_N: np.ndarray, rows_N: np.ndarray) -> float | None:
    return auc(score_N[rows_N], nodes.hard_N[rows_N]) if rows_N.any() else None
