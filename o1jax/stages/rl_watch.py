"""What to look at in the curve of an RL run: watchers and flags, from the rows of its metrics. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

FEWEST = 10  # rows of a trend: of fewer, nothing is said
COLLAPSED = 0.2  # entropy at the end, as a share of that at the beginning
MISMATCH = 0.01  # nats a token between the engine and the trainer
NORMAL_95 = 1.96
WATCHED = ("entropy", "sampler_difference", "push_difference", "steps", "complete", "false_accept")

Rows = Sequence[Mapping[str, float]]


def watch(rows: Rows) -> dict[str, dict[str, float]]:
    """Name -> {first, last}, the means of the first and of the last tenth, of each of WATCHED that was seen:
    without an audit there is no false_accept, and without an update that trained no entropy. (The outcome
    and the process score are figures of their own.)"""
    columns = {name: column(rows, name) for name in WATCHED}
    found = {name: ends(values_N) for name, values_N in columns.items() if len(values_N)}
    return {name: {"first": first, "last": last} for name, (first, last) in found.items()}


def flags(rows: Rows) -> dict[str, bool]:
    """reward_hacking: the steps' scores, which the reward counts (alpha below 1), rise over the updates and
    the outcome does not. entropy_collapse: in the last tenth of the updates it is below COLLAPSED of what it
    was in the first. sampler_mismatch: where the sampler's weights were the trainer's, their log-probs
    differ by more than MISMATCH on the mean."""
    return {
        "reward_hacking": reward_hacking(rows),
        "entropy_collapse": entropy_collapse(rows),
        "sampler_mismatch": sampler_mismatch(rows),
    }


def reward_hacking(rows: Rows) -> bool:
    counted = [row for row in rows if "process" in row and row["alpha"] < 1]
    return rises(column(counted, "process")) and not rises(column(counted, "outcome"))


def entropy_collapse(rows: Rows) -> bool:
    first, last = ends(column(rows, "entropy"))
    return first is not None and last < COLLAPSED * first


def sampler_mismatch(rows: Rows) -> bool:
    differences = column([row for row in rows if row["staleness"] == 0], "sampler_difference")
    return len(differences) > 0 and float(differences.mean()) > MISMATCH


def column(rows: Rows, name: str) -> np.ndarray:
    """The values of the rows that have one."""
    return np.array([row[name] for row in rows if name in row], np.float64)


def ends(values_N: np.ndarray) -> tuple[float | None, float | None]:
    """The means of the first and of the last tenth; None of nothing."""
    if not len(values_N):
        return None, None
    tenth = max(1, len(values_N) // 10)
    return float(values_N[:tenth].mean()), float(values_N[-tenth:].mean())


def rises(values_N: np.ndarray) -> bool:
    """Whether the least-squares slope over the index lies above 0 with its 95 % interval."""
    if len(values_N) < FEWEST:
        return False
    x_N = np.arange(len(values_N)) - (len(values_N) - 1) / 2
    slope = (x_N * values_N).sum() / (x_N**2).sum()
    residuals_N = values_N - values_N.mean() - slope * x_N
    error = np.sqrt((residuals_N**2).sum() / (len(values_N) - 2) / (x_N**2).sum())
    return bool(slope > NORMAL_95 * error)
