"""The sections on training: policy gradient with its watchers and flags, and the loss of everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from o1jax.report import charts, markup
from o1jax.report import charts as axes
from o1jax.report.learning import arm_of
from o1jax.report.run_files import RunFiles, Stage

REWARDS = {
    "outcome": "Outcome: answers that pass every test",
    "reward": "Reward: outcome and process",
    "process": "Process: mean score of a step",
    "pass_any": "Problems with a pass",
}
WATCHED = {
    "entropy": "Entropy, nats a token",
    "sampler_difference": "Sampler and trainer differ, nats a token",
    "false_accept": "Passing programs that fail the audit",
    "steps": "Steps an answer",
    "complete": "Answers with all three actions",
    "malformed": "Malformed answers",
    "answer_tokens": "Tokens an answer",
}
SHARES = ("outcome", "pass_any", "false_accept", "complete", "malformed")
FLAGS = {
    "reward_hacking": "reward hacking: the steps' scores rise, the outcome does not",
    "entropy_collapse": "entropy collapse",
    "sampler_mismatch": "sampler and trainer disagree",
}
MOST_POINTS = 240  # of a line
MOST_LINES = 6

Rows = Sequence[Mapping[str, Any]]


def reinforcement(files: RunFiles, summary: Mapping[str, Any]) -> str:
    """Every figure of policy gradient by update, one line an arm, and what was flagged."""
    by_arm: dict[str, list[Mapping[str, Any]]] = {}
    for stage in _named(files, "policy_rl"):
        by_arm.setdefault(arm_of(stage.place), []).extend(_rows(files, stage))
    by_arm = {arm: rows for arm, rows in by_arm.items() if rows}
    if not by_arm:
        return _preferences(summary)
    rewards, watched = (_charts(titles, by_arm) for titles in (REWARDS, WATCHED))
    return f"{_flags(summary)}{rewards}<h3>Watched</h3>{watched}{_preferences(summary)}"


def losses(files: RunFiles, summary: Mapping[str, Any]) -> str:
    """The loss of every other training stage, one chart a kind of stage."""
    kinds = sorted({stage.name for stage in files.stages.values()} - {"policy_rl", ""})
    return _drawn("".join(_losses(files, kind) for kind in kinds))


def _charts(titles: Mapping[str, str], by_arm: Mapping[str, Rows]) -> str:
    return _drawn("".join(_by_update(title, key, by_arm) for key, title in titles.items()))


def _drawn(shown: str) -> str:
    thin = f"<p class=note>Lines of more than {MOST_POINTS} points are thinned out to that.</p>"
    return f"<div class=charts>{shown}</div>{thin}" if shown else ""


def _losses(files: RunFiles, kind: str) -> str:
    found = {stage.place: _points(_rows(files, stage), "step", "loss") for stage in _named(files, kind)}
    series = [charts.Series(place, points) for place, points in found.items() if points]
    which = f", the last {MOST_LINES} of {len(series)}" if len(series) > MOST_LINES else ""
    return _lines(f"{kind.replace('_', ' ')}{which}", "step", series[-MOST_LINES:])


def _by_update(title: str, key: str, by_arm: Mapping[str, Rows]) -> str:
    """A moving mean over a tenth of the updates; behind it every update."""
    raw = {arm: _points(rows, "update", key) for arm, rows in by_arm.items()}
    raw = {arm: points for arm, points in raw.items() if points}
    series = [charts.Series(arm, _smooth(points)) for arm, points in raw.items()]
    behind = [
        charts.Series(arm, points, is_faint=True, colour=k) for k, (arm, points) in enumerate(raw.items())
    ]
    return _lines(title, "update", [*series, *behind], percent=key in SHARES)


def _lines(title: str, by: str, series: Sequence[charts.Series], *, percent: bool = False) -> str:
    points = [point for one in series for point in one.points]
    if not points:
        return ""
    x = axes.of_counts(by, [point.x for point in points])
    return charts.lines(title, series, x, axes.of_numbers("", [point.y for point in points], percent=percent))


def _points(rows: Rows, x: str, y: str) -> list[charts.Point]:
    """At most MOST_POINTS of the rows that have both."""
    whole = [row for row in rows if _is_number(row.get(x)) and _is_number(row.get(y))]
    every = max(1, -(-len(whole) // MOST_POINTS))
    return [charts.Point(row[x], row[y]) for row in whole[::every]]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < float("inf")


def _smooth(points: Sequence[charts.Point]) -> list[charts.Point]:
    """The mean of each point and a twentieth of all on either side."""
    reach = len(points) // 20
    windows = [points[max(0, k - reach) : k + reach + 1] for k in range(len(points))]
    return [
        charts.Point(point.x, sum(near.y for near in window) / len(window))
        for point, window in zip(points, windows, strict=True)
    ]


def _flags(summary: Mapping[str, Any]) -> str:
    raised = [
        f"<li><strong>{markup.escape(place)}</strong>: {markup.escape(FLAGS.get(name, name))}</li>"
        for place, figures in summary["rl"].items()
        for name, is_raised in figures.get("flags", {}).items()
        if is_raised
    ]
    if raised:
        return f'<ul class="box warning">{"".join(raised)}</ul>'
    measured = [place for place, figures in summary["rl"].items() if "flags" in figures]
    return f"<p class=note>No flag is raised in {len(measured)} finished stages.</p>" if measured else ""


def _preferences(summary: Mapping[str, Any]) -> str:
    found = {place: figures for place, figures in summary["rl"].items() if "pairs" in figures}
    rows = [
        [place, *(f"{figures[key]:,}" for key in ("pairs", "problems", "steps"))]
        for place, figures in found.items()
    ]
    return markup.table(("DPO", "pairs", "problems", "steps"), rows) if rows else ""


def _named(files: RunFiles, name: str) -> list[Stage]:
    return [stage for stage in files.stages.values() if stage.name == name]


def _rows(files: RunFiles, stage: Stage) -> Rows:
    return files.json_lines(stage.directory / "fit" / "metrics.jsonl")
