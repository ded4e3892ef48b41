"""The values that each section of the page shows. No markup: templates/<section>.jinja holds the words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from o1jax.report import charts
from o1jax.report.charts import DotChart, LineChart, Point, Series
from o1jax.report.learning import SELF_PLAY, arm_of, arms, main_arm, other_evaluations
from o1jax.report.run_files import RunFiles, Stage

MEASURES = {"pass_at_1": "pass@1", "pass_at_8": "pass@8"}
BEFORE_GATE = {
    "parse_rate": "Well-formed, of the cases asked for",
    "validity": "Valid: the reference program gives the stated output",
    "degenerate_share": "Degenerate: an empty or constant output",
}
AFTER_GATE = {
    "false_accept_mutants": "False accepts: mutants that pass all cases",
    "false_accept_policy": "False accepts: wrong programs of the policy",
    "false_reject": "False rejects: right programs that fail one",
}
PROMPTS = {"program": "reference shown", "question": "question only"}
TESTS = {"generated": "generated", "own": "own tests", "random": "random inputs"}
CHOICES = ("agreement", "prm_vote", "majority", "random", "any_passes")
RANKINGS = {
    "auc": "AUC of a step's score: does a pass lie below?",
    "within_problem_auc": "AUC within a problem",
    "pair_accuracy": "Pairs of siblings in the right order",
}
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
SPENT_ON = ("sampling", "judging", "training", "evaluating", "waiting")  # shares of a process's time
MOST_POINTS = 240  # of a line; more cannot be told apart on a page
MOST_LINES = 6  # of a chart, as many as there are colours

Make = Callable[[RunFiles, Mapping[str, Any]], dict[str, Any]]  # a section's values, of a run and its summary
Figures = Mapping[str, Mapping[str, Any]]  # name of a round, of an arm, ... -> its figures
Rows = Sequence[Mapping[str, Any]]  # of a stage's metrics.jsonl


def tiles(files: RunFiles, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The few numbers at the top of the page, each with what it is to be seen beside."""
    arm, searches = main_arm(summary), files.figures("search")
    own = [figures for path, figures in searches.items() if not path.startswith("compare/")]
    models = [figures for figures in summary["prm"].values() if isinstance(figures.get("auc"), Mapping)]
    updated = [figures for figures in summary["rl"].values() if "flags" in figures]
    return {
        "arm": "" if arm == SELF_PLAY else arm,
        "curve": arms(summary).get(arm, {}),
        "search": _last(own or list(searches.values())),
        "generator": _last([figures for figures in summary["tcg"].values() if "before" in figures]),
        "model": max(models, key=lambda figures: figures["auc"]["mean"], default=None),
        "rl": _last(updated),
        "raised": sorted({name for figures in updated for name, is_so in figures["flags"].items() if is_so}),
        "totals": summary["totals"],
    }


def _last(items: Sequence[Any]) -> Any:
    return items[-1] if items else None


def learning(files: RunFiles, summary: Mapping[str, Any]) -> dict[str, Any]:
    """pass@1 and pass@8 of every arm after every round, in all and by rung; of evaluations beside them."""
    curves = arms(summary)
    rungs = sorted({rung for curve in curves.values() for by in curve["by_rung"].values() for rung in by})
    others = other_evaluations(files, summary)
    keys = sorted({key for figures in others.values() for key in figures if key.startswith("pass_at_")})
    return {
        "arms": curves,
        "whole": [
            _by_round(title, curves, {arm: curve[f"held_out_{key}"] for arm, curve in curves.items()})
            for key, title in MEASURES.items()
        ],
        "by_rung": list(_by_rung(curves, rungs)) if len(rungs) > 1 else [],
        "other_figures": others,
        "others": [
            charts.shares(
                key.replace("pass_at_", "pass@"), [(name, f[key]) for name, f in others.items() if key in f]
            )
            for key in keys
        ],
    }


def _by_rung(curves: Figures, rungs: Sequence[str]) -> Iterator[LineChart]:
    """One arm's rungs in one chart; of several arms, a chart a rung."""
    for key, title in MEASURES.items():
        if len(curves) == 1:
            curve = next(iter(curves.values()))
            yield _by_round(f"{title} by rung", curves, {rung: _of_rung(curve, key, rung) for rung in rungs})
        else:
            for rung in rungs:
                lines = {arm: _of_rung(curve, key, rung) for arm, curve in curves.items()}
                yield _by_round(f"{title}, {rung}", curves, lines)


def _of_rung(curve: Mapping[str, Any], key: str, rung: str) -> Figures:
    return {name: by[rung][key] for name, by in curve["by_rung"].items() if rung in by}


def _by_round(title: str, curves: Figures, lines: Mapping[str, Figures]) -> LineChart:
    """A line each of figures by round, over the rounds that any arm was evaluated after, in order."""
    known = dict.fromkeys(name for curve in curves.values() for name in curve["held_out_pass_at_1"])
    rounds = sorted((name for name in known if name.startswith("round_")), key=lambda name: int(name[6:]))
    names = [*(name for name in known if name in ("warm_up", "start")), *rounds]
    series = []
    for line, figures in lines.items():
        found = [(x, figures[name]) for x, name in enumerate(names) if name in figures]
        points = [Point(x, f["mean"], f["low"], f["high"], f"{f['n']} problems") for x, f in found]
        series.append(Series(line, points))
    ends = [end for one in series for point in one.points for end in (point.low, point.high, point.y)]
    y = charts.number_axis("", ends, is_share=True, zero=True)
    return charts.line_chart(title, series, charts.name_axis([name.replace("_", " ") for name in names]), y)


def search(files: RunFiles, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What searches solved, and which programs search and sampling choose at equal tokens."""
    found = files.figures("search", "sample")
    compared = [
        chart
        for path, manifest in files.manifests.items()
        if isinstance(manifest["figures"].get("search"), Mapping)
        for chart in _compared(path, manifest["figures"])
    ]
    known = {key for figures in found.values() for key in figures}
    return {"found": found, "known": known, "compared": compared}


def _compared(path: str, figures: Mapping[str, Any]) -> Iterator[DotChart]:
    rates = [
        (f"{name.replace('_', ' ')} ({arm['generated_tokens']:,} tokens)", arm["pass_rate"])
        for name, arm in figures["search"].items()
    ]
    yield charts.shares(f"Programs chosen by the visible tests: {path}", rates, "pass the hidden tests")
    aspr = figures.get("aspr") or {}
    common = aspr.get("common") or {}
    found = {
        "last pseudocode step": aspr.get("pseudocode"),
        "the same, where both solved": common.get("pseudocode"),
        "direct prompt, where both solved": common.get("direct"),
    }
    measured = [(name, figure) for name, figure in found.items() if figure]
    if measured:
        title = f"Average sampling pass rate (ASPR): {path}"
        yield charts.shares(title, measured, "of fresh programs pass")


def generator(files: RunFiles, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Its cases before the gate and after it, beside other tests, and what became of them."""
    found = {name: figures for name, figures in summary["tcg"].items() if "before" in figures}
    before = {
        f"{name}, {PROMPTS[prompt]}": figures
        for name, of in found.items()
        for prompt, figures in of["before"].items()
    }
    after = {
        f"{name}: {TESTS[tests]}": figures
        for name, of in found.items()
        for tests, figures in (of["after"] or {}).items()
    }
    shown = [_of_key(title, before, key) for key, title in BEFORE_GATE.items() if before]
    shown += [_of_key(title, after, key) for key, title in AFTER_GATE.items() if after]
    chosen = summary["tcg"].get("selection")
    if chosen:
        rates = [(name.replace("_", " "), chosen[name]) for name in CHOICES if name in chosen]
        shown.append(charts.shares("Choosing among programs without a test", rates))
    fates = {p: m["figures"]["fates"] for p, m in files.manifests.items() if "fates" in m["figures"]}
    return {
        "charts": shown,
        "fates": fates,
        "names": sorted({name for of in fates.values() for name in of}),
        "adversarial": files.figures("tcg_adversarial"),
    }


def _of_key(title: str, figures: Mapping[str, Mapping[str, Any]], key: str) -> DotChart:
    return charts.shares(title, [(name, of[key]) for name, of in figures.items()])


def reward_model(files: RunFiles, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Ranking and calibration on held-out trees; without such, what it was trained on."""
    trained = files.figures("prm")
    held_out = {path.removeprefix("prm/"): f["held_out"] for path, f in trained.items() if f["held_out"]}
    sides = {name: figures["prm"] for name, figures in held_out.items()}
    first = next(iter(held_out.values()), None)
    beside = {"a step's number and length alone": first["baseline"]} if first else {}
    if first and "likelihood" in first:
        beside |= {"likelihood by the model it began as": first["likelihood"]}
    rankings = [
        charts.scores(title, [(name, side[key]) for name, side in (sides | beside).items()])
        for key, title in RANKINGS.items()
    ]
    curves = [*_calibration(sides), _auc_by_depth(sides)]
    return {"trained": trained, "sides": sides, "first": first, "rankings": rankings, "curves": curves}


def _calibration(sides: Figures) -> Iterator[LineChart]:
    series = [
        Series(name, [Point(b["score"], b["label"], note=f"{b['n']} steps") for b in side["calibration"]])
        for name, side in sides.items()
        if side.get("calibration")
    ]
    if series:
        right = Series("calibrated", [Point(0.0, 0.0), Point(1.0, 1.0)], is_faint=True)
        x, y = (charts.number_axis(label, (0.0, 1.0)) for label in ("mean score", ""))
        title = "Calibration: how often a pass lies below, by score"
        yield charts.line_chart(title, [*series, right], x, y)


def _auc_by_depth(sides: Figures) -> LineChart:
    found = {
        name: sorted((int(depth), auc) for depth, auc in side["auc_by_depth"].items())
        for name, side in sides.items()
    }
    series = [
        Series(name, [Point(depth, auc) for depth, auc in by if auc is not None])
        for name, by in found.items()
    ]
    points = [point for one in series for point in one.points]
    x = charts.count_axis("step", [point.x for point in points])
    return charts.line_chart("AUC by step", series, x, charts.number_axis("", [0.5, *(p.y for p in points)]))


def reinforcement(files: RunFiles, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Every figure of policy gradient by update, one line an arm, and what was flagged."""
    by_arm: dict[str, list[Mapping[str, Any]]] = {}
    for path, rows in _metrics(files, "policy_rl").items():
        by_arm.setdefault(arm_of(path), []).extend(rows)
    rewards, watched = (
        [chart for key, title in titles.items() for chart in _by_update(title, key, by_arm)]
        for titles in (REWARDS, WATCHED)
    )
    flags = {path: figures["flags"] for path, figures in summary["rl"].items() if "flags" in figures}
    return {
        "has_updates": any(by_arm.values()),
        "raised": [(path, name) for path, of in flags.items() for name, is_raised in of.items() if is_raised],
        "watched_stages": len(flags),
        "rewards": rewards,
        "watched": watched,
        "preferences": {path: figures for path, figures in summary["rl"].items() if "pairs" in figures},
        "most_points": MOST_POINTS,
    }


def losses(files: RunFiles, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The loss of every other training stage, one chart a kind of stage."""
    kinds = sorted({stage.name for stage in files.stages.values()} - {"policy_rl", ""})
    shown = [chart for kind in kinds for chart in _losses(files, kind)]
    return {"charts": shown, "most_points": MOST_POINTS}


def _losses(files: RunFiles, kind: str) -> Iterator[LineChart]:
    found = {path: _metric_points(rows, "step", "loss") for path, rows in _metrics(files, kind).items()}
    series = [Series(path, points) for path, points in found.items() if points]
    which = f", the last {MOST_LINES} of {len(series)}" if len(series) > MOST_LINES else ""
    return _measured(f"{kind.replace('_', ' ')}{which}", "step", series[-MOST_LINES:])


def _by_update(title: str, key: str, by_arm: Mapping[str, Rows]) -> Iterator[LineChart]:
    """A moving mean over a tenth of the updates; behind it every update."""
    found = {arm: _metric_points(rows, "update", key) for arm, rows in by_arm.items()}
    raw = {arm: points for arm, points in found.items() if points}
    series = [Series(arm, _smooth(points)) for arm, points in raw.items()]
    behind = [Series(arm, points, is_faint=True, number=k) for k, (arm, points) in enumerate(raw.items())]
    return _measured(title, "update", [*series, *behind], is_share=key in SHARES)


def _measured(
    title: str, by: str, series: Sequence[Series], *, is_share: bool = False
) -> Iterator[LineChart]:
    """A chart where there is a point."""
    points = [point for one in series for point in one.points]
    if points:
        x = charts.count_axis(by, [point.x for point in points])
        y = charts.number_axis("", [point.y for point in points], is_share=is_share)
        yield charts.line_chart(title, series, x, y)


def _metric_points(rows: Rows, x: str, y: str) -> list[Point]:
    """At most MOST_POINTS of the rows that have both."""
    whole = [row for row in rows if _is_number(row.get(x)) and _is_number(row.get(y))]
    every = max(1, -(-len(whole) // MOST_POINTS))
    return [Point(row[x], row[y]) for row in whole[::every]]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < float("inf")


def _smooth(points: Sequence[Point]) -> list[Point]:
    """The mean of each point and a twentieth of all on either side."""
    reach = len(points) // 20
    windows = [points[max(0, k - reach) : k + reach + 1] for k in range(len(points))]
    means = [sum(near.y for near in window) / len(window) for window in windows]
    return [Point(point.x, mean) for point, mean in zip(points, means, strict=True)]


def _metrics(files: RunFiles, name: str) -> dict[str, Rows]:
    """Path -> what was logged in training, of every stage of that name, also of one under way."""
    stages = [stage for stage in files.stages.values() if stage.name == name]
    return {stage.path: files.json_lines(stage.directory / "fit" / "metrics.jsonl") for stage in stages}


def cost(files: RunFiles, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds, tokens and occupancy by stage, also of those that are not finished, and their sum; and where
    the time of training went."""
    shares = {path: share for path, stage in files.stages.items() if (share := _throughput(files, stage))}
    totals = {"costs": summary["stages"], "totals": summary["totals"]}
    return {"stages": files.stages.values(), **totals, "throughput": shares, "spent_on": SPENT_ON}


def _throughput(files: RunFiles, stage: Stage) -> dict[str, float]:
    """Means by time of process 0's lines: tokens_per_s, mfu where it is known, and the share of each kind."""
    rows = files.json_lines(stage.directory / "fit" / "throughput.jsonl")
    seconds = sum(row["seconds"] for row in rows)
    names = {name for row in rows for name in row} - {"at", "seconds"}
    return {
        name: sum(row.get(name, 0.0) * row["seconds"] for row in rows) / seconds for name in names if seconds
    }
