"""Where an RL run stands, what makes it this run and not another, and its figures, from the rows of its log.

Plain numbers, that go into a checkpoint's meta and the manifest as JSON.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from o1jax.parallel.seeds import stable_hash
from o1jax.records import Problem
from o1jax.rl.examples import Group, Lesson
from o1jax.rl.settings import NOT_IN_IDENTITY, Settings

# What to look at in the curve of an RL run: watchers and flags, from the rows of its metrics. Pure numpy.

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


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands after `updates`; `history`: problem id -> [samples, passes]."""

    updates: int = 0
    generated_tokens: int = 0
    trained_tokens: int = 0
    history: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)

    def is_done(self, settings: Settings) -> bool:
        """Whether the update that was the last has been."""
        return self.place(settings) >= settings.updates

    def place(self, settings: Settings) -> float:
        """The updates so far, or, where a limit of tokens is nearer, as large a share of all updates."""
        shares = [
            tokens / limit
            for tokens, limit in (
                (self.generated_tokens, settings.generated_tokens),
                (self.trained_tokens, settings.trained_tokens),
            )
            if limit
        ]
        return max([self.updates, *(share * settings.updates for share in shares)])


def after(progress: Progress, groups: Sequence[Group], lesson: Lesson, settings: Settings) -> Progress:
    """The progress after the update that learns `lesson` from `groups`."""
    history = dict(progress.history)
    for group in groups:
        problem_id = group[0].rollout.problem_id
        samples, passes = history.get(problem_id, (0, 0))
        passed = sum(answer.rollout.reward > 0 for answer in group)
        history[problem_id] = (samples + len(group), passes + passed)
    return Progress(
        updates=progress.updates + 1,
        generated_tokens=progress.generated_tokens + lesson.figures["generated_tokens"],
        trained_tokens=progress.trained_tokens + lesson.tokens * settings.epochs,
        history=history,
    )


def identity_of(settings: Settings, problems: Sequence[Problem], seed: int) -> dict[str, Any]:
    """Everything that decides the curve, as JSON: a checkpoint is resumed only under the same."""
    decisive = {k: v for k, v in dataclasses.asdict(settings).items() if k not in NOT_IN_IDENTITY}
    problems_hash = f"{stable_hash(repr(list(problems))):016x}"
    return json.loads(json.dumps({**decisive, "seed": seed, "problems": problems_hash}))


def read_rows(path: epath.Path) -> Rows:
    """The rows of a metrics.jsonl."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def figures_of(rows: Rows, settings: Settings) -> dict[str, Any]:
    """The stage's figures: sums over the updates, means of their first and last tenth, watchers and flags
    (rl_watch). A pure function of the run: nothing that a clock measured."""
    first_outcome, last_outcome = ends(column(rows, "outcome"))
    first_process, last_process = ends(column(rows, "process"))
    totals = ("generated_tokens", "trained_tokens", "groups_kept", "groups_dropped")
    return {
        "updates": len(rows),
        "first_update": settings.first_update,
        "next_update": settings.first_update + len(rows),
        **{name: int(column(rows, name).sum()) for name in totals},
        "updates_without_signal": sum("loss" not in row for row in rows),
        "first_outcome": first_outcome,
        "last_outcome": last_outcome,
        "first_process": first_process,
        "last_process": last_process,
        "watch": watch(rows),
        "flags": flags(rows),
    }


def timings_of(rows: Rows) -> dict[str, float]:
    """Seconds over all of the run's processes, and trained tokens a second of training."""
    sampling, training = (float(column(rows, f"{name}_seconds").sum()) for name in ("sampling", "training"))
    return {
        "sampling_seconds": round(sampling, 2),
        "training_seconds": round(training, 2),
        "tokens_per_second": round(column(rows, "trained_tokens").sum() / max(training, 1e-9)),
    }
