"""Plans beside each other as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(plans: Sequence[Mapping[str, Any]]) -> str:
    """One line a figure, one column a plan."""
    plans = [flat(plan) for plan in plans]
    names = dict.fromkeys(name for plan in plans for name in plan)  # in the order in which they come
    rows = [[name, *(cell(plan.get(name, "")) for plan in plans)] for name in names]
    widths = [max(len(row[column]) for row in rows) for column in range(len(plans) + 1)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def flat(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The plan with a line a kind of collective, and its mesh as text."""
    found = dict(plan)
    for kind, traffic in found.pop("collectives").items():
        found[kind] = f"{traffic['calls']} x, {traffic['sent_gib_per_device']:.3g} GiB"
    if "mesh" in found:
        found["mesh"] = ",".join(f"{axis}={size}" for axis, size in found["mesh"].items())
    return found


def cell(value: Any) -> str:
    """A figure, short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
