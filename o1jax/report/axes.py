"""Axes of charts: where a value lies on the page, and which values are written beside it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

STEPS = (1, 2, 2.5, 5, 10)
WHOLE_STEPS = (1, 2, 5, 10)
TICKS = 4  # about so many


@dataclasses.dataclass(frozen=True)
class Axis:
    """From `low` to `high`, with (value, text) at its ticks. `pad`: the share of its length that is kept free
    before the first value and after the last."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    pad: float = 0.0

    def at(self, value: float, start: float, length: float) -> float:
        """Where a value lies on a line from `start`, to one decimal."""
        share = (value - self.low) / (self.high - self.low)
        return round(start + length * (self.pad + (1 - 2 * self.pad) * share), 1)


def of_numbers(label: str, values: Iterable[float], *, percent: bool = False, zero: bool = False) -> Axis:
    """Round numbers around the values; `zero`: from 0. Shares, as `percent`, stay within [0, 1]."""
    values = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = (0.0 if zero else min(values)), max(values)
    if high <= low:
        low, high = (low, low + 0.05) if percent else (low - abs(low) / 2, high + (abs(high) / 2 or 1.0))
    step = _step((high - low) / TICKS)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [float(f"{step * k:.9g}") for k in range(first, last + 1)]
    if percent and ticks[-1] > 1 >= max(values):
        ticks = [tick for tick in ticks if tick <= 1]
    return Axis(
        label,
        ticks[0],
        max(ticks[-1], high if percent else ticks[-1]),
        [(t, text(t, percent)) for t in ticks],
    )


def of_counts(label: str, values: Iterable[float]) -> Axis:
    """From the first value to the last, with ticks at whole numbers."""
    values = list(values) or [0.0]
    low, high = min(values), max(values)
    if high <= low:
        return Axis(label, low - 1, low + 1, [(low, text(low))])
    step = _step(max(1.0, (high - low) / TICKS), WHOLE_STEPS)
    ticks = [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return Axis(label, low, high, [(tick, text(tick)) for tick in ticks])


def of_names(label: str, names: Sequence[str]) -> Axis:
    """One place a name: 0, 1, ..."""
    return Axis(label, 0, max(1, len(names) - 1), list(enumerate(names)), pad=0.08 if len(names) > 1 else 0.5)


def text(value: float, percent: bool = False) -> str:
    """As short as it can be told."""
    if percent:
        return f"{100 * value:.4g} %"
    if value and (abs(value) >= 10_000 or abs(value) < 0.001):
        return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"


def _step(least: float, steps: Sequence[float] = STEPS) -> float:
    """The smallest round number that is not below `least`."""
    power = 10 ** math.floor(math.log10(least))
    return next(step * power for step in steps if step * power >= least * (1 - 1e-9))
