"""The section on what the run cost: seconds, tokens and occupancy by stage, and each stage's own record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from o1jax.report import markup
from o1jax.report.run_files import RunFiles, Stage

HEAD = ("stage", "time", "", "generated", "trained", "trained tokens/s", "slots in use", "engine busy")
TOKENS = ("generated_tokens", "trained_tokens")
SHARES = ("slot_occupancy", "engine_busy_share")


def cost(files: RunFiles, summary: Mapping[str, Any]) -> str:
    """One line a stage, the unfinished too, and their sum."""
    longest = max((spent["seconds"] for spent in summary["stages"].values()), default=0)
    lines = [_line(stage, summary["stages"].get(place, {}), longest) for place, stage in files.stages.items()]
    totals = summary["totals"]
    tokens = "".join(f"<td>{totals[key]:,.0f}</td>" for key in TOKENS)
    sums = f"<td>{_time(totals['seconds'])}</td><td></td>{tokens}"
    head = "".join(f"<th scope=col>{name}</th>" for name in HEAD)
    return (
        f"<div class=scroll><table class=cost><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
        f"<tfoot><tr><th scope=row>all</th>{sums}<td></td><td></td><td></td></tr></tfoot></table></div>"
        + markup.details(
            "Every stage's settings, figures and versions", "".join(map(_record, files.stages.values()))
        )
    )


def _line(stage: Stage, spent: Mapping[str, Any], longest: float) -> str:
    name = f"<th scope=row>{markup.escape(stage.place)}</th>"
    if stage.manifest is None or not spent:
        return f"<tr class=unfinished>{name}<td colspan={len(HEAD) - 1}>not finished</td></tr>"
    timings = stage.manifest["timings"]
    width = 100 * spent["seconds"] / longest if longest else 0
    rate = timings.get("tokens_per_second")
    shares = [f"{100 * timings[key]:.0f} %" if key in timings else "" for key in SHARES]
    counts = [f"{spent[key]:,}" if key in spent else "" for key in TOKENS]
    cells = "".join(f"<td>{cell}</td>" for cell in (*counts, f"{rate:,.0f}" if rate else "", *shares))
    bar = f'<td class=bar><span style="width:{width:.1f}%"></span></td>'
    return f"<tr>{name}<td>{_time(spent['seconds'])}</td>{bar}{cells}</tr>"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _record(stage: Stage) -> str:
    return markup.details(stage.place, markup.pre(stage.manifest or stage.spec))
