"""Charts as values: where every line, mark and tick lies. templates/elements.jinja writes them as SVG.

The number of a series in its chart is its colour and its mark (circle, square, diamond, triangle), so that a
reader who does not see colours loses nothing. Reads no run and writes no markup.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from o1jax.report.learning import with_interval

STEPS = (1, 2, 2.5, 5, 10)  # round numbers between ticks, times a power of ten
WHOLE_STEPS = (1, 2, 5, 10)
TICKS = 4  # about so many on an axis
MOST_TICKS = 8  # of names: more texts do not fit below a chart
MOST_MARKS = 24  # points of a series; of more, only the line is drawn
DODGE = 7  # between the marks of two series at the same value of x


@dataclasses.dataclass(frozen=True)
class Axis:
    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]  # value and text
    pad: float = 0.0  # the share of its length that is kept free before the first value and after the last

    def at(self, value: float, start: float, length: float) -> float:
        """Where a value lies on a line from `start`, to one decimal."""
        share = (value - self.low) / (self.high - self.low)
        return round(start + length * (self.pad + (1 - 2 * self.pad) * share), 1)


def number_axis(label: str, values: Iterable[float], *, is_share: bool = False, zero: bool = False) -> Axis:
    """Round numbers around the values; `zero`: from 0. With `is_share`, in percent and within [0, 1]."""
    values = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = (0.0 if zero else min(values)), max(values)
    # Equal but for rounding, as a constant and its moving mean are: the ticks, of 9 digits, would be one.
    if high - low <= 1e-7 * max(abs(low), abs(high)):
        low, high = (low, low + 0.05) if is_share else (low - abs(low) / 2, high + (abs(high) / 2 or 1.0))
    step = _step((high - low) / TICKS)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [float(f"{step * k:.9g}") for k in range(first, last + 1)]
    if is_share and ticks[-1] > 1 >= max(values):
        ticks = [tick for tick in ticks if tick <= 1]
    end = max(ticks[-1], high) if is_share else ticks[-1]
    return Axis(label, ticks[0], end, [(tick, short(tick, is_share)) for tick in ticks])


def count_axis(label: str, values: Iterable[float]) -> Axis:
    """From the first value to the last, with ticks at whole numbers."""
    values = list(values) or [0.0]
    low, high = min(values), max(values)
    if high <= low:
        return Axis(label, low - 1, low + 1, [(low, short(low))])
    step = _step(max(1.0, (high - low) / TICKS), WHOLE_STEPS)
    ticks = [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return Axis(label, low, high, [(tick, short(tick)) for tick in ticks])


def name_axis(names: Sequence[str]) -> Axis:
    """The names in order, at 0, 1, ..."""
    return Axis("", 0, max(1, len(names) - 1), list(enumerate(names)), pad=0.08 if len(names) > 1 else 0.5)


def short(value: float, is_share: bool = False) -> str:
    """A number in as few characters as it needs."""
    if is_share:
        return f"{100 * value:.4g} %"
    if value and (abs(value) >= 10_000 or abs(value) < 0.001):
        return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"


def _step(least: float, steps: Sequence[float] = STEPS) -> float:
    """The smallest round number that is not below `least`."""
    power = 10 ** math.floor(math.log10(least))
    return next(step * power for step in steps if step * power >= least * (1 - 1e-9))


@dataclasses.dataclass(frozen=True)
class Point:
    x: float
    y: float
    low: float | None = None  # of its interval, where there is one
    high: float | None = None
    note: str = ""  # more of its tooltip


@dataclasses.dataclass(frozen=True)
class Series:
    name: str
    points: Sequence[Point]
    is_faint: bool = False  # drawn behind, thin, without marks and outside the legend
    number: int | None = None  # of another series whose colour it has; None: its own, or grey if it is faint


@dataclasses.dataclass(frozen=True)
class Line:
    """A series as it is drawn."""

    series: Series
    number: int  # of its colour and mark
    path: str
    marks: Sequence[tuple[float, float, Point]]  # x and y on the page; none of a faint or long series


@dataclasses.dataclass(frozen=True)
class LineChart:
    LEFT, RIGHT, TOP, FLOOR = 46, 368, 10, 190  # where the axes lie on the page

    title: str
    lines: Sequence[Line]  # what is behind comes first
    x: Axis
    y: Axis

    @property
    def x_ticks(self) -> list[tuple[float, str]]:
        """The ticks below, on the page; every second or third where there are many."""
        every = -(-len(self.x.ticks) // MOST_TICKS)
        return [(_across(self.x, tick), text) for tick, text in self.x.ticks[::every]]

    def up(self, value: float) -> float:
        """The height of a value on the page."""
        return _up(self.y, value)


def line_chart(title: str, series: Iterable[Series], x: Axis, y: Axis) -> LineChart:
    """Every series that has points, as a line with marks and intervals."""
    shown = [one for one in series if one.points]
    clear = sum(not one.is_faint for one in shown)
    lines = [_line(one, k if one.number is None else one.number, clear, x, y) for k, one in enumerate(shown)]
    return LineChart(title, sorted(lines, key=lambda line: not line.series.is_faint), x, y)


def _line(series: Series, number: int, clear: int, x: Axis, y: Axis) -> Line:
    has_marks = not series.is_faint and len(series.points) <= MOST_MARKS
    has_intervals = any(point.low is not None for point in series.points)
    # Beside each other: at the same x, the interval of one series would hide that of another.
    aside = DODGE * (number - (clear - 1) / 2) if has_marks and has_intervals else 0.0
    marks = [(round(_across(x, p.x) + aside, 1), _up(y, p.y), p) for p in series.points]
    path = "M" + "L".join(f"{across},{up}" for across, up, _ in marks)
    return Line(series, number, path, marks if has_marks else ())


def _across(x: Axis, value: float) -> float:
    return x.at(value, LineChart.LEFT, LineChart.RIGHT - LineChart.LEFT)


def _up(y: Axis, value: float) -> float:
    return y.at(value, LineChart.FLOOR, LineChart.TOP - LineChart.FLOOR)


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    value: float | None  # None where nothing was measured
    low: float | None
    high: float | None
    text: str  # what is written of the value


@dataclasses.dataclass(frozen=True)
class DotChart:
    """A row a name, with its value as a dot and its interval as a line, between 0 and 1."""

    LEFT, RIGHT = 22, 356  # of the axis on the page; names begin further left

    title: str
    rows: Sequence[Row]
    axis: Axis

    def across(self, value: float) -> float:
        return self.axis.at(value, self.LEFT, self.RIGHT - self.LEFT)


Figures = Iterable[tuple[str, Mapping[str, Any] | float | None]]  # name, and a share or it with its interval


def shares(title: str, figures: Figures, label: str = "") -> DotChart:
    """From 0 to 100 %."""
    axis = number_axis(label, (0.0, 1.0), is_share=True)
    return DotChart(title, [_row(name, figure, with_interval) for name, figure in figures], axis)


def scores(title: str, figures: Figures) -> DotChart:
    """From 0 to 1."""
    axis = number_axis("", (0.0, 1.0))
    return DotChart(title, [_row(name, figure, _score) for name, figure in figures], axis)


def _row(name: str, figure: Mapping[str, Any] | float | None, text: Callable[[Mapping], str]) -> Row:
    if not isinstance(figure, Mapping):
        figure = {"mean": figure, "low": None, "high": None}
    return Row(name, figure["mean"], figure["low"], figure["high"], text(figure))


def _score(figure: Mapping[str, Any]) -> str:
    if figure["mean"] is None:
        return "–"
    bounds = "" if figure["low"] is None else f" [{figure['low']:.3f}, {figure['high']:.3f}]"
    return f"{figure['mean']:.3f}{bounds}"
