"""How well scores of steps agree with the labels that search gave them, beside a baseline that reads no step.

AUC is of the score against the hard label: does a pass lie below? Log-loss and calibration are against the
labels that the model was trained on, soft or hard: the two differ wherever some leaves below a step pass and
others fail. A figure that the labels do not define (all of one kind, say) is None. Asks no model (nodes.py
does).

A model that learned pairs is judged by its pair accuracy and its AUC within a problem. Its loss never sees
two problems together, so an AUC over all problems is not what it was trained for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from o1jax.intervals import BOOTSTRAP_DRAWS, mean_with_interval, with_interval
from o1jax.losses.prm import soft_label_floor
from o1jax.prm.nodes import LabelKind, Nodes

Interval = dict[str, Any] | None  # {mean, low, high, n}
BINS = 10  # of the calibration, as is usual (Guo et al., arXiv 1706.04599, have 15)
SMALLEST = 1e-6  # a float32 score may round to 0 or 1, whose log-loss would be infinite
# Without it, a step number whose steps all have one label would have infinite weights. It is small, so that
# the baseline stays as strong as the lengths allow.
L2 = 1e-4


def held_out_figures(
    train: Nodes, held_out: Nodes, scores: Mapping[str, np.ndarray], kind: LabelKind, seed: int
) -> dict[str, Any]:
    """{n_nodes, n_problems, hard_share, labels, log_loss_floor, baseline, auc_difference}, and under every
    name in `scores` its figures. The first name is the model's; for each other one, less_<name> has what
    the model's auc and within_problem_auc are above its, paired over problems.

    All have auc, with its interval, and the figures of `ranking`; those whose scores lie in [0, 1] have
    those of `calibration` too, against the labels of this `kind`. The baseline is fitted on the training
    steps: to hard labels for its ranking, to those of the kind for the rest.
    """
    ours, *others = scores
    ranked = {**scores, "baseline": fit_and_score(train, train.hard_N, held_out)}
    aucs, differences = auc_intervals(ranked, held_out.hard_N, held_out.problem_N, seed)
    label_N = held_out.labels_N(kind)
    rated = {
        **{name: score_N for name, score_N in scores.items() if 0 <= score_N.min() <= score_N.max() <= 1},
        "baseline": fit_and_score(train, train.labels_N(kind), held_out),
    }
    sides = {
        name: {"auc": aucs[name], **ranking(held_out, score_N, seed)}
        | (calibration(held_out, rated[name], label_N) if name in rated else {})
        for name, score_N in ranked.items()
    }
    within_P = {name: within_problems(held_out, score_N) for name, score_N in ranked.items()}
    return {
        "n_nodes": len(held_out),
        "n_problems": len(np.unique(held_out.problem_N)),
        "hard_share": rounded(held_out.hard_N.mean()),
        "labels": kind,
        "log_loss_floor": rounded(soft_label_floor(label_N, np.ones(len(held_out)))),
        **sides,
        "auc_difference": differences["baseline"],
        **{
            f"less_{name}": {
                "auc": differences[name],
                "within_problem_auc": _mean(within_P[ours] - within_P[name], seed),
            }
            for name in others
        },
    }


def fit_and_score(train: Nodes, label_N: np.ndarray, held_out: Nodes) -> np.ndarray:
    """The rows of `held_out` scored by a logistic regression fitted on `train` and its labels in [0, 1].

    For every step number, of which numbers beyond the training rows' last count as the last: a
    quadratic in the logarithms of the step's and the path's tokens.
    """
    # Labels are confounded with both: a long path is a late one, and often a failing one. A reward model must
    # beat this before it can be said to read the steps.
    last = int(train.number_N.max())
    logs_N2 = _logs(train)
    mean_2, scale_2 = logs_N2.mean(axis=0), logs_N2.std(axis=0) + 1e-6
    inputs_ND = _terms((logs_N2 - mean_2) / scale_2, train.number_N, last)
    # A soft label is a row of each class, weighted; C is L2 in scikit-learn's terms (w w / 2, sum over rows).
    # Newton's steps: the terms are few and correlated, and L-BFGS stops where figures still move.
    model = LogisticRegression(
        C=1 / (2 * L2 * len(label_N)), fit_intercept=False, solver="newton-cholesky", tol=1e-8
    )
    classes_2N = np.repeat([1, 0], len(label_N))
    model.fit(np.tile(inputs_ND, (2, 1)), classes_2N, np.concatenate([label_N, 1 - label_N]))
    held_out_ND = _terms((_logs(held_out) - mean_2) / scale_2, held_out.number_N, last)
    return model.predict_proba(held_out_ND)[:, 1]


def _logs(nodes: Nodes) -> np.ndarray:
    return np.log(np.stack([nodes.step_tokens_N, nodes.path_tokens_N], axis=1))


def _terms(logs_N2: np.ndarray, number_N: np.ndarray, last: int) -> np.ndarray:
    """The quadratic's terms, in the columns of the step's number; 0 in the others'."""
    step_N, path_N = np.clip(logs_N2, -4, 4).T  # a held-out length far from all others is not extrapolated
    terms_N6 = np.stack([np.ones_like(step_N), step_N, path_N, step_N**2, path_N**2, step_N * path_N], axis=1)
    is_number_NK = np.minimum(number_N, last)[:, None] == np.arange(1, last + 1)
    return (is_number_NK[:, :, None] * terms_N6[:, None, :]).reshape(len(step_N), -1)


def auc(score_N: np.ndarray, label_N: np.ndarray) -> float | None:
    """The probability that a row labelled 1 scores above one labelled 0, a tie counting half. None
    without rows of both labels."""
    return float(roc_auc_score(label_N, score_N)) if len(np.unique(label_N)) == 2 else None


def auc_intervals(
    scores: Mapping[str, np.ndarray], label_N: np.ndarray, problem_N: np.ndarray, seed: int
) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """{name: {mean, low, high, n}} of the scores' AUC, and for each name but the first that of the first's
    less its own: 95 % percentile bootstrap over the n problems, all from the same draws. None without AUC."""
    first, *others = scores
    whole = {name: auc(score_N, label_N) for name, score_N in scores.items()}
    if whole[first] is None:
        return dict.fromkeys(scores), dict.fromkeys(others)
    problem_N = np.unique(problem_N, return_inverse=True)[1]
    P = int(problem_N.max()) + 1
    # Problems are drawn, not steps: the steps of one problem are not independent.
    times_DP = np.random.default_rng(seed).multinomial(P, np.full(P, 1 / P), BOOTSTRAP_DRAWS)
    draws = {name: drawn_aucs(score_N, label_N, problem_N, times_DP) for name, score_N in scores.items()}
    return (
        {name: with_interval(value, draws[name], P) for name, value in whole.items()},
        {n: with_interval(whole[first] - whole[n], draws[first] - draws[n], P) for n in others},
    )


def drawn_aucs(
    score_N: np.ndarray, label_N: np.ndarray, problem_N: np.ndarray, times_DP: np.ndarray
) -> np.ndarray:
    """`auc` with every row as often as its problem was drawn; NaN where that leaves one label."""
    # Not roc_auc_score, which sorts again and takes milliseconds: twenty seconds for all draws of two scores.
    rank_N = np.unique(score_N, return_inverse=True)[1]
    aucs = np.full(len(times_DP), np.nan)
    for d, times_P in enumerate(times_DP):
        good_R = np.bincount(rank_N, times_P[problem_N] * label_N)
        bad_R = np.bincount(rank_N, times_P[problem_N] * (1 - label_N))
        if pairs := good_R.sum() * bad_R.sum():
            aucs[d] = good_R @ (np.cumsum(bad_R) - bad_R / 2) / pairs  # half: a tie
    return aucs


def ranking(nodes: Nodes, score_N: np.ndarray, seed: int) -> dict[str, Any]:
    """auc_by_depth, auc_leaves, auc_inner, pair_accuracy (of siblings with different soft labels), and
    within_problem_auc, the mean over problems that have both labels: what counts for search; of their leaves
    alone, within_problem_auc_leaves: what counts for a choice."""
    # A step with many leaves below has a pass among them more often, so that a score may be right within a
    # problem by depth alone; among leaves it may not.
    leaves = nodes.is_leaf_N

    def auc_of(rows_N: np.ndarray) -> float | None:
        return auc(score_N[rows_N], nodes.hard_N[rows_N])

    return {
        "auc_by_depth": {str(d): rounded(auc_of(nodes.number_N == d)) for d in np.unique(nodes.number_N)},
        "auc_leaves": rounded(auc_of(leaves)),
        "auc_inner": rounded(auc_of(~leaves)),
        # Search compares steps of one problem only; which problem is hard, a score over all may tell as well.
        "within_problem_auc": _mean(within_problems(nodes, score_N), seed),
        "within_problem_auc_leaves": _mean(within_problems(nodes, score_N, leaves), seed),
        **pair_figures(nodes, score_N),
    }


def within_problems(nodes: Nodes, score_N: np.ndarray, of_N: np.ndarray | bool = True) -> np.ndarray:
    """auc_P of each problem's steps, of those in `of_N`; NaN of a problem whose steps have one label."""
    rows_P = ((nodes.problem_N == problem) & of_N for problem in np.unique(nodes.problem_N))
    aucs = (auc(score_N[rows], nodes.hard_N[rows]) for rows in rows_P)
    return np.array([np.nan if value is None else value for value in aucs])


def _mean(value_P: np.ndarray, seed: int) -> Interval:
    """The mean over the problems that have a value, or None."""
    known = value_P[~np.isnan(value_P)]
    return mean_with_interval(known, seed) if len(known) else None


def calibration(nodes: Nodes, score_N: np.ndarray, label_N: np.ndarray) -> dict[str, Any]:
    """log_loss, calibration_error, calibration_error_by_depth and calibration, all against these labels."""
    score_N = np.clip(score_N, SMALLEST, 1 - SMALLEST)
    losses_N = -label_N * np.log(score_N) - (1 - label_N) * np.log1p(-score_N)
    depths = {str(d): nodes.number_N == d for d in np.unique(nodes.number_N)}
    return {
        "log_loss": rounded(losses_N.mean()),
        "calibration_error": rounded(calibration_error(score_N, label_N)),
        "calibration_error_by_depth": {
            d: rounded(calibration_error(score_N[at_N], label_N[at_N])) for d, at_N in depths.items()
        },
        "calibration": calibration_curve(score_N, label_N),
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
