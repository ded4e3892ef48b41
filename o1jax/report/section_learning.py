"""The sections on what the policy passes: by round, arm and rung, and search beside sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from o1jax.report import axes, charts, dots, markup
from o1jax.report.headline import with_interval
from o1jax.report.learning import SELF_PLAY
from o1jax.report.run_files import RunFiles

MEASURES = {"held_out_pass_at_1": "pass@1", "held_out_pass_at_8": "pass@8"}
SOLVED = (
    "problems",
    "solved",
    "solved_share",
    "rollouts",
    "samples",
    "judged_programs",
    "passing_paths",
    "dead_paths",
)

Figure = Mapping[str, Any]  # mean, low, high, n


def learning(files: RunFiles, summary: Mapping[str, Any]) -> str:
    """pass@1 and pass@8 of every arm after every round, in all and by rung, and all of it as a table."""
    arms = {SELF_PLAY: summary} | summary["compare"]
    arms = {arm: curve for arm, curve in arms.items() if curve["held_out_pass_at_1"]}
    if not arms:
        return ""
    names = _names(arms)
    shown = [
        _chart(title, arms, names, lambda curve, name, k=key: curve[k].get(name))
        for key, title in MEASURES.items()
    ]
    rungs = sorted({rung for curve in arms.values() for by in curve["by_rung"].values() for rung in by})
    by_rung = [
        _chart(f"{title}, {rung}", arms, names, _of_rung(key, rung))
        for key, title in (("pass_at_1", "pass@1"), ("pass_at_8", "pass@8"))
        for rung in (rungs if len(rungs) > 1 else [])
    ]
    head = ("arm", "round", "rung", "pass@1", "pass@8")
    table = markup.details("All figures as a table", markup.table(head, list(_lines(arms))))
    rest = f"<h3>By rung</h3><div class=charts>{''.join(by_rung)}</div>" if by_rung else ""
    return f"<div class=charts>{''.join(shown)}</div>{rest}{table}{_note(arms)}"


def search(files: RunFiles, summary: Mapping[str, Any]) -> str:
    """What searches solved, and which programs search and sampling choose at equal tokens."""
    found = [
        (place, m["figures"]) for place, m in files.manifests.items() if m["stage"] in ("search", "sample")
    ]
    keys = [key for key in SOLVED if any(key in figures for _, figures in found)]
    rows = [[place, *(axes.text(f[key]) if key in f else "–" for key in keys)] for place, f in found]
    table = markup.table(["stage", *(key.replace("_", " ") for key in keys)], rows) if rows else ""
    compared = [
        figure
        for place, manifest in files.manifests.items()
        if isinstance(manifest["figures"].get("search"), Mapping)
        for figure in _compared(place, manifest["figures"])
    ]
    return f"<div class=charts>{''.join(compared)}</div>{table}" if compared else table


def _names(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The rounds that any arm was evaluated after, in order."""
    names = dict.fromkeys(name for curve in arms.values() for name in curve["held_out_pass_at_1"])
    rounds = sorted((name for name in names if name.startswith("round_")), key=lambda name: int(name[6:]))
    return [*(name for name in names if name in ("warm_up", "start")), *rounds]


def _chart(
    title: str,
    arms: Mapping[str, Mapping[str, Any]],
    names: list[str],
    figure_of: Callable[[Mapping[str, Any], str], Figure | None],
) -> str:
    series = [charts.Series(arm, [*_points(curve, names, figure_of)]) for arm, curve in arms.items()]
    ends = [end for one in series for point in one.points for end in (point.low, point.high, point.y)]
    y = axes.of_numbers("", ends, percent=True, zero=True)
    return charts.lines(title, series, axes.of_names("", [name.replace("_", " ") for name in names]), y)


def _points(
    curve: Mapping[str, Any], names: list[str], figure_of: Callable[[Mapping[str, Any], str], Figure | None]
) -> Iterator[charts.Point]:
    for x, name in enumerate(names):
        figure = figure_of(curve, name)
        if figure is not None:
            yield charts.Point(x, figure["mean"], figure["low"], figure["high"], f"{figure['n']} problems")


def _of_rung(key: str, rung: str) -> Callable[[Mapping[str, Any], str], Figure | None]:
    return lambda curve, name: curve["by_rung"].get(name, {}).get(rung, {}).get(key)


def _lines(arms: Mapping[str, Mapping[str, Any]]) -> Iterator[list[str]]:
    for arm, curve in arms.items():
        for name, by_rung in curve["by_rung"].items():
            if name != "final":
                whole = {key: curve[f"held_out_{key}"][name] for key in ("pass_at_1", "pass_at_8")}
                for rung, figures in {"all": whole, **by_rung}.items():
                    shares = [with_interval(figures[key]) for key in ("pass_at_1", "pass_at_8")]
                    yield [arm, name.replace("_", " "), rung, *shares]


def _note(arms: Mapping[str, Mapping[str, Any]]) -> str:
    figure = next(iter(next(iter(arms.values()))["held_out_pass_at_1"].values()))
    bars = "Bars are 95 % intervals over problems; another seed is not in them."
    return f"<p class=note>{figure['n']} held-out problems that nothing was trained on. {bars}</p>"


def _compared(place: str, figures: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        dots.row(f"{name.replace('_', ' ')} ({arm['generated_tokens']:,} tokens)", arm["pass_rate"])
        for name, arm in figures["search"].items()
    ]
    yield dots.shares(f"Programs chosen by the visible tests: {place}", rows, "pass the hidden tests")
    aspr, common = figures.get("aspr") or {}, (figures.get("aspr") or {}).get("common") or {}
    found = {
        "from the last pseudocode step": aspr.get("pseudocode"),
        "the same, on problems that both solved": common.get("pseudocode"),
        "direct prompt, on problems that both solved": common.get("direct"),
    }
    rows = [dots.row(name, figure) for name, figure in found.items() if figure]
    if rows:
        yield dots.shares(f"Average sampling pass rate (ASPR): {place}", rows, "of fresh programs pass")
