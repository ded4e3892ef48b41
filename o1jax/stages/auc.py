"""The area under the ROC curve of scores against labels, with intervals over problems. Pure numpy.

Steps of one problem are not independent: the bootstrap draws problems, not steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from o1jax.stages.estimators import BOOTSTRAP_DRAWS


def auc(score_N: np.ndarray, label_N: np.ndarray) -> float | None:
    """The probability that a row labelled 1 scores above one labelled 0, a tie counting half. None
    without rows of both labels."""
    return _auc_of_ranks(_ranks(score_N), label_N, np.ones(len(label_N)))


def auc_intervals(
    scores: Mapping[str, np.ndarray], label_N: np.ndarray, problem_N: np.ndarray, seed: int
) -> dict[str, dict[str, Any] | None]:
    """{name: {mean, low, high, n}} of two scores' AUC and, as "difference", of the first less the second:
    95 % percentile bootstrap over the n problems, the same draws for all three. None without an AUC."""
    first, second = scores
    ranks = {name: _ranks(score_N) for name, score_N in scores.items()}
    whole = {name: _auc_of_ranks(rank_N, label_N, np.ones(len(label_N))) for name, rank_N in ranks.items()}
    if whole[first] is None:
        return {first: None, second: None, "difference": None}
    problem_N = _ranks(problem_N)
    P = int(problem_N.max()) + 1
    times_DP = np.random.default_rng(seed).multinomial(P, np.full(P, 1 / P), BOOTSTRAP_DRAWS)
    draws = {
        name: np.array([_auc_of_ranks(rank_N, label_N, times_P[problem_N]) for times_P in times_DP], float)
        for name, rank_N in ranks.items()
    }
    whole["difference"] = whole[first] - whole[second]
    draws["difference"] = draws[first] - draws[second]
    return {name: _interval(value, draws[name], P) for name, value in whole.items()}


def _ranks(value_N: np.ndarray) -> np.ndarray:
    """The place of each value among the different ones, from 0."""
    return np.unique(value_N, return_inverse=True)[1]


def _auc_of_ranks(rank_N: np.ndarray, label_N: np.ndarray, weight_N: np.ndarray) -> float | None:
    good_R = np.bincount(rank_N, weight_N * label_N)
    bad_R = np.bincount(rank_N, weight_N * (1 - label_N))
    below_R = np.cumsum(bad_R) - bad_R / 2
    pairs = good_R.sum() * bad_R.sum()
    return float(good_R @ below_R / pairs) if pairs else None


def _interval(value: float, draws: np.ndarray, n: int) -> dict[str, Any]:
    low, high = np.nanpercentile(draws, [2.5, 97.5])  # NaN: a draw of problems of one label has no AUC
    return {"mean": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4), "n": n}
