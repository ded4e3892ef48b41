"""Charts of lines with intervals, as inline SVG: no script, and colours by CSS.

A series' place in a chart is its colour and its mark (circle, square, diamond, triangle), so that colour
alone says nothing. Every mark has its numbers as a tooltip. Rows of dots are in dots.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from o1jax.report.headline import with_interval
from o1jax.report.markup import escape

# Axes of charts: where a value lies on the page, and which values are written beside it.

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
    # Equal but for rounding, as a constant and its moving mean are: the ticks, of 9 digits, would be one.
    if high - low <= 1e-7 * max(abs(low), abs(high)):
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


WIDTH = 380
LEFT, RIGHT, TOP, FLOOR = 46, 368, 10, 190  # where the axes lie
TICKS_BELOW, LABEL_BELOW = 22, 18  # what the texts under them take
DODGE = 7  # between the marks of two series at one place
MOST_MARKS = 24  # points of a series; of more, only the line is drawn
MOST_TICKS = 8
COLOURS = 6
MARKS = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
    "M-3.6,-3.6h7.2v7.2h-7.2z",
    "M0,-5L5,0L0,5L-5,0z",
    "M0,-4.6L4.6,3.8L-4.6,3.8z",
)


@dataclasses.dataclass(frozen=True)
class Point:
    """`low` and `high`: the interval, where there is one. `note`: more of its tooltip."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Series:
    """`is_faint`: drawn behind, thin, without marks and outside the legend. `colour`: the number of another
    series whose colour it has; None for its own, or for grey if it is faint."""

    name: str
    points: Sequence[Point]
    is_faint: bool = False
    colour: int | None = None


def lines(title: str, series: Sequence[Series], x: Axis, y: Axis) -> str:
    """A figure: every series a line, its points with marks and intervals."""
    shown = [one for one in series if one.points]
    colours = [k if one.colour is None else one.colour for k, one in enumerate(shown)]
    drawn = sorted(zip(shown, colours, strict=True), key=lambda item: not item[0].is_faint)
    clear = [(one, colour) for one, colour in drawn if not one.is_faint]
    body = _grid(x, y) + "".join(_series(one, colour, len(clear), x, y) for one, colour in drawn)
    legend = "".join(_key(one.name, colour) for one, colour in clear) if len(clear) > 1 else ""
    height = FLOOR + TICKS_BELOW + (LABEL_BELOW if x.label else 0)
    return figure(title, height, body, f"<ul class=legend>{legend}</ul>" if legend else "")


def figure(title: str, height: int, body: str, legend: str = "") -> str:
    """A drawing with its title; `body` and `legend` are markup already."""
    name = escape(title)
    drawing = f'<svg viewBox="0 0 {WIDTH} {height}" role=img aria-label="{name}">{body}</svg>'
    return f"<figure><figcaption>{name}</figcaption>{legend}{drawing}</figure>"


def vertical(at: float, text: str, floor: int) -> str:
    """A line of the grid, with its tick's text below."""
    line = f'<path class=grid d="M{at},{TOP}V{floor}"/>'
    return f"{line}<text x={at} y={floor + 15} class=middle>{escape(text)}</text>"


def x_label(label: str, floor: int) -> str:
    """An axis' label, below its ticks."""
    return f"<text x={WIDTH / 2} y={floor + 33} class=middle>{escape(label)}</text>" if label else ""


def _grid(x: Axis, y: Axis) -> str:
    parts = [
        f'<path class=grid d="M{LEFT},{_up(y, tick)}H{RIGHT}"/>'
        f"<text x={LEFT - 6} y={_up(y, tick) + 4} class=end>{escape(text)}</text>"
        for tick, text in y.ticks
    ]
    every = -(-len(x.ticks) // MOST_TICKS)
    parts += [vertical(_across(x, tick), text, FLOOR) for tick, text in x.ticks[::every]]
    return "".join(parts) + x_label(x.label, FLOOR)


def _series(series: Series, colour: int, count: int, x: Axis, y: Axis) -> str:
    has_marks = not series.is_faint and len(series.points) <= MOST_MARKS
    has_intervals = any(point.low is not None for point in series.points)
    aside = DODGE * (colour - (count - 1) / 2) if has_marks and has_intervals else 0.0
    places = [(round(_across(x, p.x) + aside, 1), _up(y, p.y)) for p in series.points]
    path = "M" + "L".join(f"{at_x},{at_y}" for at_x, at_y in places)
    parts = [f'<path class="line{" faint" if series.is_faint else ""}" d="{path}"/>']
    if has_marks:
        pairs = zip(places, series.points, strict=True)
        parts += [_mark(series.name, colour, place, point, y) for place, point in pairs]
    kind = "quiet" if series.is_faint and series.colour is None else f"s{colour % COLOURS}"
    return f"<g class={kind}>{''.join(parts)}</g>"


def _mark(name: str, colour: int, place: tuple[float, float], point: Point, y: Axis) -> str:
    interval, said = "", f"{name}: {point.y:.4g}"
    if point.low is not None and point.high is not None:
        interval = f'<path class=interval d="M{place[0]},{_up(y, point.low)}V{_up(y, point.high)}"/>'
        said += f" [{point.low:.4g}, {point.high:.4g}]"
    said += f", {point.note}" if point.note else ""
    return f"<g>{interval}{mark(colour, place)}<title>{escape(said)}</title></g>"


def mark(colour: int, place: tuple[float, float]) -> str:
    """The mark of a series."""
    shape = MARKS[colour % len(MARKS)]
    return f'<path class=mark transform="translate({place[0]},{place[1]})" d="{shape}"/>'


def _key(name: str, colour: int) -> str:
    drawing = f'<svg viewBox="-6 -6 12 12" class="key s{colour % COLOURS}" aria-hidden=true>'
    return f"<li>{drawing}{mark(colour, (0, 0))}</svg>{escape(name)}</li>"


def _across(x: Axis, value: float) -> float:
    return x.at(value, LEFT, RIGHT - LEFT)


def _up(y: Axis, value: float) -> float:
    return y.at(value, FLOOR, TOP - FLOOR)


# Charts of dots: a row a name, with its value as a dot and its interval as a line, as inline SVG.

DOTS_LEFT, DOTS_RIGHT = 22, 356  # of the axis; names begin further left
NAMES, VALUES = 8, 372
HEIGHT = 40  # of a row
LINE = 54  # characters that fit beside each other


@dataclasses.dataclass(frozen=True)
class Row:
    """A name and a value, None where nothing was measured. `text`: what is written of it."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    text: str


def row(name: str, figure: Mapping[str, Any] | float | None) -> Row:
    """Of a share with its interval, or one without."""
    if isinstance(figure, Mapping):
        return Row(name, figure["mean"], figure["low"], figure["high"], with_interval(figure))
    return Row(name, figure, None, None, "–" if figure is None else f"{100 * figure:.1f} %")


def score(name: str, figure: Mapping[str, Any] | float | None) -> Row:
    """As `row`, told as a number."""
    of = row(name, figure)
    bounds = "" if of.low is None else f" [{of.low:.3f}, {of.high:.3f}]"
    return dataclasses.replace(of, text="–" if of.value is None else f"{of.value:.3f}{bounds}")


def shares(title: str, rows: Sequence[Row], label: str = "") -> str:
    """A figure, from 0 to 100 %."""
    return _drawn(title, rows, of_numbers(label, (0.0, 1.0), percent=True))


def scores(title: str, rows: Sequence[Row]) -> str:
    """A figure, from 0 to 1."""
    return _drawn(title, rows, of_numbers("", (0.0, 1.0)))


def _drawn(title: str, rows: Sequence[Row], axis: Axis) -> str:
    floor = TOP + HEIGHT * len(rows)
    body = "".join(vertical(_dot_across(axis, tick), text, floor) for tick, text in axis.ticks)
    body += "".join(_row(one, TOP + HEIGHT * k, axis) for k, one in enumerate(rows))
    below = TICKS_BELOW + (LABEL_BELOW if axis.label else 0)
    return figure(title, floor + below, body + x_label(axis.label, floor))


def _row(of: Row, top: int, axis: Axis) -> str:
    room = LINE - len(of.text)
    name = of.name if len(of.name) <= room else f"{of.name[: room - 1]}…"
    said = f"<text x={NAMES} y={top + 14}>{escape(name)}<title>{escape(of.name)}</title></text>"
    said += f"<text x={VALUES} y={top + 14} class=end>{escape(of.text)}</text>"
    if of.value is None:
        return said
    interval, y = "", top + 26
    if of.low is not None and of.high is not None:
        interval = f'<path class=interval d="M{_dot_across(axis, of.low)},{y}H{_dot_across(axis, of.high)}"/>'
    return f"<g class=s0>{interval}{mark(0, (_dot_across(axis, of.value), y))}</g>{said}"


def _dot_across(axis: Axis, value: float) -> float:
    return axis.at(value, DOTS_LEFT, DOTS_RIGHT - DOTS_LEFT)
