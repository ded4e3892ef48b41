"""How well scores of steps agree with the labels that search gave them. Pure numpy.

AUC is of the score against the hard label; log-loss and calibration are against the soft one. A figure
that the labels do not define (all of one kind, say) is None.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from o1jax.losses.prm import soft_label_floor
from o1jax.stages.auc import auc, auc_intervals
from o1jax.stages.estimators import mean_with_interval
from o1jax.stages.prm_baseline import fit_and_score
from o1jax.stages.prm_nodes import Nodes

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
