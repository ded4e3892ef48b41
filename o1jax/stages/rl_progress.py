"""Where an RL run stands, what makes it this run and not another, and its figures, from the rows of its log.

Plain numbers, that go into a checkpoint's meta and the manifest as JSON.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from o1jax.parallel.seeds import stable_hash
from o1jax.records import Problem
from o1jax.stages.rl_examples import Group, Lesson
from o1jax.stages.rl_settings import NOT_IN_IDENTITY, Settings
from o1jax.stages.rl_watch import Rows, column, ends, flags, watch


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
