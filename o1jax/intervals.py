"""Figures of an evaluation: unbiased pass@k, means with bootstrap intervals. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BOOTSTRAP_DRAWS = 2000


def pass_at_k(n: int, passed: int, k: int) -> float:
    """The unbiased estimator 1 - C(n - c, k) / C(n, k) (Chen et al., arXiv 2107.03374, eq. 1).

    Raises ValueError when k > n.
    """
    if k > n:
        raise ValueError(f"pass@{k} needs at least {k} samples, saw {n}")
    if n - passed < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - passed + 1, n + 1)))


def mean_with_interval(values: Sequence[float], seed: int) -> dict[str, float | int]:
    """{mean, low, high, n}: the mean over problems, and the 95 % percentile bootstrap over them.

    Raises ValueError on no values.
    """
    if not len(values):
        raise ValueError("a mean of no values")
    array = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    means = array[rng.integers(0, len(array), (BOOTSTRAP_DRAWS, len(array)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "mean": round(float(array.mean()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "n": len(array),
    }


def ratio_with_interval(parts: Sequence[float], wholes: Sequence[float], seed: int) -> dict[str, float | int]:
    """{mean, low, high, n}: sum of parts / sum of wholes, with a 95 % bootstrap over problems; `n` is the sum
    of wholes. With no wholes at all mean, low and high are None."""
    part, whole = np.asarray(parts, np.float64), np.asarray(wholes, np.float64)
    if not whole.sum():
        return {"mean": None, "low": None, "high": None, "n": 0}
    draws = np.random.default_rng(seed).integers(0, len(part), (BOOTSTRAP_DRAWS, len(part)))
    sums = whole[draws].sum(axis=1)
    low, high = np.percentile(part[draws].sum(axis=1)[sums > 0] / sums[sums > 0], [2.5, 97.5])
    return {
        "mean": round(float(part.sum() / whole.sum()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "n": int(whole.sum()),
    }


# The area under the ROC curve of scores against labels, with intervals over problems. Pure numpy.
#
# Steps of one problem are not independent: the bootstrap draws problems, not steps.


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
