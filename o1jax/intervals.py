"""Estimates with intervals: unbiased pass@k, and means and ratios with a bootstrap over problems. Pure numpy.

What is drawn are problems, never samples of them: those of one problem are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    return float(1.0 - np.prod(1.0 - k / np.arange(n - passed + 1, n + 1)))  # no binomials: they overflow


def mean_with_interval(values: Sequence[float], seed: int) -> dict[str, float | int]:
    """{mean, low, high, n}: the mean over problems, and the 95 % percentile bootstrap over them. NaN are the
    problems of which nothing is known: they are left out, and not in n.

    Raises ValueError on no values.
    """
    array = np.asarray(values, np.float64)
    array = array[~np.isnan(array)]
    if not len(array):
        raise ValueError("a mean of no values")
    rng = np.random.default_rng(seed)
    means = array[rng.integers(0, len(array), (BOOTSTRAP_DRAWS, len(array)))].mean(axis=1)
    return with_interval(array.mean(), means, len(array))


def ratio_with_interval(parts: Sequence[float], wholes: Sequence[float], seed: int) -> dict[str, float | int]:
    """{mean, low, high, n}: sum of parts / sum of wholes, with a 95 % bootstrap over problems; `n` is the sum
    of wholes. With no wholes at all mean, low and high are None."""
    part, whole = np.asarray(parts, np.float64), np.asarray(wholes, np.float64)
    if not whole.sum():
        return {"mean": None, "low": None, "high": None, "n": 0}
    draws = np.random.default_rng(seed).integers(0, len(part), (BOOTSTRAP_DRAWS, len(part)))
    sums = whole[draws].sum(axis=1)
    ratios = part[draws].sum(axis=1)[sums > 0] / sums[sums > 0]
    return with_interval(part.sum() / whole.sum(), ratios, int(whole.sum()))


def with_interval(value: float, draws: np.ndarray, n: int) -> dict[str, Any]:
    """{mean, low, high, n}: an estimate and the middle 95 % of its bootstrap draws, without those that are
    NaN: where the problems that were drawn do not define it."""
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return {
        "mean": round(float(value), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "n": n,
    }
