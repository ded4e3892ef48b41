"""The settings of a fit, where it stands, and what makes it this run and not another.

Plain numbers, that go into a checkpoint's meta as JSON; knows no devices and no files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath

from o1jax.batches.stream import Batches
from o1jax.records import InputError
from o1jax.train.optimizer import OptimizerSettings


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """`patience` evaluations without a loss lower by `min_improvement` end the run, and the best
    parameters are the result; 0 runs to `max_steps`, and the last ones are. Checkpoints come every
    `checkpoint_every` steps and `checkpoint_every_s` seconds (0: never); of several processes, the first
    one's clock counts, and is asked every AGREE_EVERY steps."""

    max_steps: int
    evaluate_every: int = 0
    patience: int = 0
    min_improvement: float = 0.0
    checkpoint_every: int = 0
    checkpoint_every_s: float = 120.0
    log_every: int = 1
    micro_batches: int = 1


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands; saved with every checkpoint. `tokens` counts all but padding."""

    step: int = 0
    tokens: int = 0
    best_step: int = 0
    best_loss: float | None = None
    stale_evaluations: int = 0


def check(settings: FitSettings, *, evaluates: bool) -> None:
    """InputError for settings that ask for what cannot be."""
    if settings.patience and not (evaluates and settings.evaluate_every):
        raise InputError(
            f"patience {settings.patience} needs evaluate and evaluate_every; give both, or patience 0"
        )


def judged(progress: Progress, loss: float, min_improvement: float) -> Progress:
    """The progress after an evaluation with this loss."""
    if progress.best_loss is None or loss < progress.best_loss - min_improvement:
        return dataclasses.replace(progress, best_step=progress.step, best_loss=loss, stale_evaluations=0)
    return dataclasses.replace(progress, stale_evaluations=progress.stale_evaluations + 1)


def identity_of(batches: Batches, optimizer: OptimizerSettings, settings: FitSettings) -> dict[str, Any]:
    """What a checkpoint must have in common with the run that resumes it, as JSON: optimizer, data, and the
    settings that decide the curve. Not the objective, the model's config or the parameters begun with: who
    calls gives the same ones in the same directory."""
    names = ("evaluate_every", "patience", "min_improvement", "micro_batches")
    return {
        "optimizer": dataclasses.asdict(optimizer),
        "data": batches.digest(),
        **{name: getattr(settings, name) for name in names},
    }


def refuse_other(directory: epath.PathLike, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """InputError unless a directory's checkpoint, of identity `old`, is of this run."""
    if old != new:
        raise InputError(
            f"{directory} holds a run of other settings or data ({changed(old, new)}); "
            "use another directory, or delete that one"
        )


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The names under which two identities differ."""
    return ", ".join(name for name in new if old.get(name) != new[name])
