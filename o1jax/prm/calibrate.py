"""Platt scaling by depth: for every step number, the a and b of sigmoid(a * logit + b) that fit labels best.

Fitted on trees of problems that the model was not trained on: of those it was, it is too sure. They are best
searched as those are whose steps will be scored, for how often a pass lies below a step depends on it.
Applied by losses/prm.calibrated.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

LEAST_ROWS = 50  # of a number for an (a, b) of its own; later numbers with fewer share one
# Of a depth where scores tell nothing, or of a few rows the wrong thing: no ranking is turned round.
LEAST_SLOPE = 0.01


def fit_calibration(
    logit_N: np.ndarray, number_N: np.ndarray, label_N: np.ndarray
) -> tuple[tuple[float, float], ...]:
    """(a, b) of step numbers 1, 2, ..., of which the last counts for all after it; labels in [0, 1]."""
    assert logit_N.shape == number_N.shape == label_N.shape
    numbers = range(1, int(number_N.max()) + 1)
    last = max((n for n in numbers if np.sum(number_N >= n) >= LEAST_ROWS), default=1)
    return tuple(_fit(logit_N[rows], label_N[rows]) for rows in _rows(number_N, last))


def _rows(number_N: np.ndarray, last: int) -> list[np.ndarray]:
    """Which rows are of step 1, 2, ..., `last` and later."""
    return [np.minimum(number_N, last) == number for number in range(1, last + 1)]


def _fit(logit_N: np.ndarray, label_N: np.ndarray) -> tuple[float, float]:
    """The least cross-entropy, with Platt's smoothed labels and slopes that are drawn a little to 0."""
    # Where all labels are 0, or all 1, b would be infinite without the smoothing (Platt 1999, section 2.2).
    label_N = (label_N * len(label_N) + 0.5) / (len(label_N) + 1)
    model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-8)
    rows_2N1, classes_2N = np.tile(logit_N, 2)[:, None], np.repeat([1, 0], len(label_N))
    model.fit(rows_2N1, classes_2N, np.concatenate([label_N, 1 - label_N]))
    slope, shift = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope < LEAST_SLOPE:
        mean = label_N.mean()
        slope, shift = LEAST_SLOPE, float(np.log(mean / (1 - mean)) - LEAST_SLOPE * logit_N.mean())
    return slope, shift
