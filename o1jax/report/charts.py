"""Charts as inline SVG: lines with intervals, and rows of dots with intervals. No script, colours by CSS.

A series' place in a chart is its colour and its mark (circle, square, diamond, triangle), so that colour alone
says nothing. Every mark has its numbers as a tooltip.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from o1jax.report.axes import Axis
from o1jax.report.markup import escape

WIDTH, HEIGHT = 380, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 40
ROW, DODGE = 40, 7
MOST_MARKS = 24  # points of a series; of more, only the line is drawn
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
    series whose colour it has; None for its own."""

    name: str
    points: Sequence[Point]
    is_faint: bool = False
    colour: int | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """Of a chart of dots: a name and a value, None where nothing was measured."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    text: str = ""


def lines(title: str, series: Sequence[Series], x: Axis, y: Axis, note: str = "") -> str:
    """A figure: every series a line, its points with marks and intervals."""
    shown = [one for one in series if one.points]
    colours = [k if one.colour is None else one.colour for k, one in enumerate(shown)]
    drawn = sorted(zip(shown, colours, strict=True), key=lambda item: not item[0].is_faint)
    counted = sum(not one.is_faint for one in shown)
    body = _grid(x, y) + "".join(_series(one, colour, counted, x, y) for one, colour in drawn)
    keys = "".join(
        _key(one.name, colour) for one, colour in zip(shown, colours, strict=True) if not one.is_faint
    )
    legend = f"<ul class=legend>{keys}</ul>" if counted > 1 else ""
    return _figure(title, WIDTH, HEIGHT, body, legend, note)


def dots(title: str, rows: Sequence[Row], x: Axis, note: str = "") -> str:
    """A figure: a row a name, with its value as a dot and its interval as a line."""
    height = TOP + ROW * len(rows) + BOTTOM
    body = "".join(_vertical(x, tick, text, height, left=8) for tick, text in x.ticks) + _x_label(x, height)
    body += "".join(_row(row, k, x) for k, row in enumerate(rows))
    return _figure(title, WIDTH, height, body, "", note)


def _figure(title: str, width: int, height: int, body: str, legend: str, note: str) -> str:
    below = f"<p class=note>{escape(note)}</p>" if note else ""
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>{legend}"
        f'<svg viewBox="0 0 {width} {height}" role=img aria-label="{escape(title)}">{body}</svg>{below}</figure>'
    )


def _grid(x: Axis, y: Axis) -> str:
    across, up = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    parts = [
        f'<path class=grid d="M{LEFT},{(at := y.at(tick, HEIGHT - BOTTOM, -up))}h{across}"/>'
        f"<text x={LEFT - 6} y={at + 3.5} class=end>{escape(text)}</text>"
        for tick, text in y.ticks
    ]
    every = -(-len(x.ticks) // 8)
    parts += [_vertical(x, tick, text, HEIGHT, left=LEFT) for tick, text in x.ticks[::every]]
    return "".join(parts) + _x_label(x, HEIGHT)


def _vertical(x: Axis, tick: float, text: str, height: int, *, left: int) -> str:
    at = x.at(tick, left, WIDTH - left - RIGHT)
    return (
        f'<path class=grid d="M{at},{TOP}V{height - BOTTOM}"/>'
        f"<text x={at} y={height - BOTTOM + 14} class=middle>{escape(text)}</text>"
    )


def _x_label(x: Axis, height: int) -> str:
    return f'<text x={WIDTH / 2} y={height - 6} class="middle label">{escape(x.label)}</text>'


def _series(series: Series, colour: int, count: int, x: Axis, y: Axis) -> str:
    across, up = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    has_marks = not series.is_faint and len(series.points) <= MOST_MARKS
    aside = (
        DODGE * (colour - (count - 1) / 2)
        if has_marks and any(p.low is not None for p in series.points)
        else 0.0
    )
    places = [
        (round(x.at(p.x, LEFT, across) + aside, 1), y.at(p.y, HEIGHT - BOTTOM, -up), p) for p in series.points
    ]
    path = "M" + "L".join(f"{at_x},{at_y}" for at_x, at_y, _ in places)
    parts = [f'<path class="line{" faint" if series.is_faint else ""}" d="{path}"/>']
    if has_marks:
        parts += [_mark(series.name, colour, at_x, at_y, point, y, up) for at_x, at_y, point in places]
    return f"<g class=s{colour % COLOURS}>{''.join(parts)}</g>"


def _mark(name: str, colour: int, at_x: float, at_y: float, point: Point, y: Axis, up: float) -> str:
    interval, said = "", f"{name}: {point.y:.4g}"
    if point.low is not None and point.high is not None:
        ends = (y.at(point.low, HEIGHT - BOTTOM, -up), y.at(point.high, HEIGHT - BOTTOM, -up))
        interval = f'<path class=interval d="M{at_x},{ends[0]}V{ends[1]}"/>'
        said += f" [{point.low:.4g}, {point.high:.4g}]"
    said += f", {point.note}" if point.note else ""
    mark = f'<path class=mark transform="translate({at_x},{at_y})" d="{MARKS[colour % len(MARKS)]}"/>'
    return f"<g>{interval}{mark}<title>{escape(said)}</title></g>"


def _row(row: Row, k: int, x: Axis) -> str:
    top, across = TOP + ROW * k, WIDTH - 8 - RIGHT
    said = f"<text x=8 y={top + 14}>{escape(row.name)}</text><text x={WIDTH - RIGHT} y={top + 14} class=end>{escape(row.text)}</text>"
    if row.value is None:
        return said
    at, y = x.at(row.value, 8, across), top + 27
    interval = ""
    if row.low is not None and row.high is not None:
        interval = f'<path class=interval d="M{x.at(row.low, 8, across)},{y}H{x.at(row.high, 8, across)}"/>'
    return (
        f'<g class=s0>{interval}<path class=mark transform="translate({at},{y})" d="{MARKS[0]}"/></g>{said}'
    )


def _key(name: str, colour: int) -> str:
    mark = f'<svg viewBox="-6 -6 12 12" class="key s{colour % COLOURS}" aria-hidden=true><path class=mark d="{MARKS[colour % len(MARKS)]}"/></svg>'
    return f"<li>{mark}{escape(name)}</li>"
