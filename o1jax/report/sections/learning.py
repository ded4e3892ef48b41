"""The sections on what the policy passes: by round, arm and rung, and search beside sampling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from o1jax.report import charts, markup
from o1jax.report import charts as axes
from o1jax.report import charts as dots
from o1jax.report.headline import with_interval
from o1jax.report.learning import arms as arms_of
from o1jax.report.learning import other_evaluations
from o1jax.report.run_files import RunFiles

MEASURES = {"pass_at_1": "pass@1", "pass_at_8": "pass@8"}
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

Figures = Mapping[str, Mapping[str, Any]]  # by name of the round: mean, low, high, n


def learning(files: RunFiles, summary: Mapping[str, Any]) -> str:
    """pass@1 and pass@8 of every arm after every round, in all and by rung, and all of it as a table."""
    arms = arms_of(summary)
    return (_curves(arms) if arms else "") + _others(other_evaluations(files, summary))


def _curves(arms: Mapping[str, Mapping[str, Any]]) -> str:
    names = _names(arms)
    whole = [
        _chart(title, names, {arm: _figures(curve, key) for arm, curve in arms.items()})
        for key, title in MEASURES.items()
    ]
    rungs = sorted({rung for curve in arms.values() for by in curve["by_rung"].values() for rung in by})
    by_rung = list(_by_rung(arms, names, rungs)) if len(rungs) > 1 else []
    head = ("arm", "round", "rung", "pass@1", "pass@8")
    table = markup.details("All figures as a table", markup.table(head, list(_lines(arms))))
    if by_rung and len(arms) > 1:
        whole.append("</div><h3>By rung</h3><div class=charts>")
    return f"<div class=charts>{''.join([*whole, *by_rung])}</div>{table}{_note(arms)}"


def _others(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Evaluations of other policies or prompts, a chart for every k."""
    keys = sorted({key for figures in found.values() for key in figures if key.startswith("pass_at_")})
    shown = [
        dots.shares(
            key.replace("pass_at_", "pass@"),
            [dots.row(name, f[key]) for name, f in found.items() if key in f],
        )
        for key in keys
    ]
    return f"<h3>Other evaluations</h3><div class=charts>{''.join(shown)}</div>" if shown else ""


def search(files: RunFiles, summary: Mapping[str, Any]) -> str:
    """What searches solved, and which programs search and sampling choose at equal tokens."""
    found = [
        (place, m["figures"]) for place, m in files.manifests.items() if m["stage"] in ("search", "sample")
    ]
    keys = [key for key in SOLVED if any(key in figures for _, figures in found)]
    rows = [[place, *(_cell(key, f[key]) if key in f else "–" for key in keys)] for place, f in found]
    table = markup.table(["stage", *(key.replace("_", " ") for key in keys)], rows) if rows else ""
    compared = [
        figure
        for place, manifest in files.manifests.items()
        if isinstance(manifest["figures"].get("search"), Mapping)
        for figure in _compared(place, manifest["figures"])
    ]
    return f"<div class=charts>{''.join(compared)}</div>{table}" if compared else table


def _cell(key: str, value: float) -> str:
    return f"{100 * value:.1f} %" if key.endswith("share") else f"{value:,}"


def _names(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The rounds that any arm was evaluated after, in order."""
    names = dict.fromkeys(name for curve in arms.values() for name in curve["held_out_pass_at_1"])
    rounds = sorted((name for name in names if name.startswith("round_")), key=lambda name: int(name[6:]))
    return [*(name for name in names if name in ("warm_up", "start")), *rounds]


def _figures(curve: Mapping[str, Any], key: str) -> Figures:
    return curve[f"held_out_{key}"]


def _of_rung(curve: Mapping[str, Any], key: str, rung: str) -> Figures:
    return {name: by[rung][key] for name, by in curve["by_rung"].items() if rung in by}


def _by_rung(arms: Mapping[str, Mapping[str, Any]], names: list[str], rungs: list[str]) -> Iterator[str]:
    """One arm's rungs in one chart; of several arms, a chart a rung."""
    for key, title in MEASURES.items():
        if len(arms) == 1:
            curve = next(iter(arms.values()))
            yield _chart(f"{title} by rung", names, {rung: _of_rung(curve, key, rung) for rung in rungs})
        else:
            for rung in rungs:
                lines = {arm: _of_rung(curve, key, rung) for arm, curve in arms.items()}
                yield _chart(f"{title}, {rung}", names, lines)


def _chart(title: str, names: list[str], lines: Mapping[str, Figures]) -> str:
    series = [charts.Series(line, _points(figures, names)) for line, figures in lines.items()]
    ends = [end for one in series for point in one.points for end in (point.low, point.high, point.y)]
    y = axes.of_numbers("", ends, percent=True, zero=True)
    return charts.lines(title, series, axes.of_names("", [name.replace("_", " ") for name in names]), y)


def _points(figures: Figures, names: list[str]) -> list[charts.Point]:
    found = [(x, figures[name]) for x, name in enumerate(names) if name in figures]
    return [charts.Point(x, f["mean"], f["low"], f["high"], f"{f['n']} problems") for x, f in found]


def _lines(arms: Mapping[str, Mapping[str, Any]]) -> Iterator[list[str]]:
    for arm, curve in arms.items():
        for name, by_rung in curve["by_rung"].items():
            if name != "final":
                whole = {key: _figures(curve, key)[name] for key in MEASURES}
                for rung, figures in {"all": whole, **by_rung}.items():
                    shares = [with_interval(figures[key]) for key in MEASURES]
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
        "last pseudocode step": aspr.get("pseudocode"),
        "the same, where both solved": common.get("pseudocode"),
        "direct prompt, where both solved": common.get("direct"),
    }
    rows = [dots.row(name, figure) for name, figure in found.items() if figure]
    if rows:
        yield dots.shares(f"Average sampling pass rate (ASPR): {place}", rows, "of fresh programs pass")
