"""Charts of dots: a row a name, with its value as a dot and its interval as a line, as inline SVG."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from o1jax.report import axes, charts
from o1jax.report.axes import Axis
from o1jax.report.headline import with_interval
from o1jax.report.markup import escape

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
    return _drawn(title, rows, axes.of_numbers(label, (0.0, 1.0), percent=True))


def scores(title: str, rows: Sequence[Row]) -> str:
    """A figure, from 0 to 1."""
    return _drawn(title, rows, axes.of_numbers("", (0.0, 1.0)))


def _drawn(title: str, rows: Sequence[Row], axis: Axis) -> str:
    floor = charts.TOP + HEIGHT * len(rows)
    body = "".join(charts.vertical(_dot_across(axis, tick), text, floor) for tick, text in axis.ticks)
    body += "".join(_row(one, charts.TOP + HEIGHT * k, axis) for k, one in enumerate(rows))
    below = charts.TICKS_BELOW + (charts.LABEL_BELOW if axis.label else 0)
    return charts.figure(title, floor + below, body + charts.x_label(axis.label, floor))


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
    return f"<g class=s0>{interval}{charts.mark(0, (_dot_across(axis, of.value), y))}</g>{said}"


def _dot_across(axis: Axis, value: float) -> float:
    return axis.at(value, DOTS_LEFT, DOTS_RIGHT - DOTS_LEFT)
