"""Charts of lines with intervals, as inline SVG: no script, and colours by CSS.

A series' place in a chart is its colour and its mark (circle, square, diamond, triangle), so that colour
alone says nothing. Every mark has its numbers as a tooltip. Rows of dots are in dots.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from o1jax.report.axes import Axis
from o1jax.report.markup import escape

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
