"""The sections on the models beside the policy: the generator of test cases and the process reward model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from o1jax.report import charts, markup
from o1jax.report import charts as axes
from o1jax.report import charts as dots
from o1jax.report.run_files import RunFiles

BEFORE = {
    "parse_rate": "Well-formed, of the cases asked for",
    "validity": "Valid: the reference program gives the stated output",
    "degenerate_share": "Degenerate: an empty or constant output",
}
AFTER = {
    "false_accept_mutants": "False accepts: mutants that pass all cases",
    "false_accept_policy": "False accepts: wrong programs of the policy",
    "false_reject": "False rejects: right programs that fail one",
}
PROMPTS = {"program": "reference shown", "question": "question only"}
SETS = {"generated": "generated", "own": "own tests", "random": "random inputs"}
ADVERSARIAL = ("answers", "mean_reward", "kill_share", "valid_share", "pairs")
NO_HELD_OUT = (
    "<p class=note>No held-out trees in this run, so there is no AUC and no calibration of it; "
    "<code>launch/prm.py</code> measures both.</p>"
)
RANKINGS = {
    "auc": "AUC of a step's score: does a pass lie below?",
    "within_problem_auc": "AUC within a problem",
    "pair_accuracy": "Pairs of siblings in the right order",
}


def generator(files: RunFiles, summary: Mapping[str, Any]) -> str:
    """Its cases before the gate and after it, beside other tests, and what became of them."""
    found = {name: figures for name, figures in summary["tcg"].items() if "before" in figures}
    shown = [_before(found, key, title) for key, title in BEFORE.items()] if found else []
    after = {name: figures["after"] for name, figures in found.items() if figures["after"]}
    shown += [_after(after, key, title) for key, title in AFTER.items()] if after else []
    chosen = summary["tcg"].get("selection")
    if chosen:
        rows = [
            dots.row(name.replace("_", " "), chosen[name])
            for name in ("agreement", "majority", "random", "any_passes")
        ]
        shown.append(dots.shares("Choosing among programs without a test", rows))
    drawn = f"<div class=charts>{''.join(shown)}</div>" if shown else ""
    return drawn + _fates(files) + _adversarial(files)


def _before(found: Mapping[str, Any], key: str, title: str) -> str:
    rows = [
        dots.row(f"{name}, {PROMPTS[prompt]}", of_prompt[key])
        for name, figures in found.items()
        for prompt, of_prompt in figures["before"].items()
    ]
    return dots.shares(title, rows)


def _after(after: Mapping[str, Any], key: str, title: str) -> str:
    rows = [
        dots.row(f"{name}: {SETS[tests]}", figures[key])
        for name, sets in after.items()
        for tests, figures in sets.items()
    ]
    return dots.shares(title, rows)


def _fates(files: RunFiles) -> str:
    found = {p: m["figures"]["fates"] for p, m in files.manifests.items() if "fates" in m["figures"]}
    names = sorted({name for fates in found.values() for name in fates})
    rows = [[place, *(fates.get(name, 0) for name in names)] for place, fates in found.items()]
    return markup.table(["cases by fate", *names], rows) if rows else ""


def _adversarial(files: RunFiles) -> str:
    found = {p: m["figures"] for p, m in files.manifests.items() if m["stage"] == "tcg_adversarial"}
    rows = [[place, *(axes.text(figures[key]) for key in ADVERSARIAL)] for place, figures in found.items()]
    head = ["adversarial turn", *(key.replace("_", " ") for key in ADVERSARIAL)]
    return markup.table(head, rows) if rows else ""


def reward_model(files: RunFiles, summary: Mapping[str, Any]) -> str:
    """Ranking and calibration on held-out trees; without such, what it was trained on."""
    trained = {place: m["figures"] for place, m in files.manifests.items() if m["stage"] == "prm"}
    if not trained:
        return ""
    held_out = {place.removeprefix("prm/"): f["held_out"] for place, f in trained.items()}
    held_out = {name: figures for name, figures in held_out.items() if figures}
    if not held_out:
        return _trained(trained) + NO_HELD_OUT
    shown = [dots.scores(title, list(_ranking(held_out, key))) for key, title in RANKINGS.items()]
    shown += [*_calibration(held_out), _by_depth(held_out)]
    return f"<div class=charts>{''.join(shown)}</div>{_errors(held_out)}{_trained(trained)}"


def _trained(trained: Mapping[str, Any]) -> str:
    counts = ("examples", "problems", "steps", "trained_tokens")
    rows = [[place, f["objective"], *(f"{f[key]:,}" for key in counts)] for place, f in trained.items()]
    return markup.table(("stage", "labels", *(key.replace("_", " ") for key in counts)), rows)


def _ranking(held_out: Mapping[str, Any], key: str) -> Iterator[dots.Row]:
    for name, figures in held_out.items():
        yield dots.score(name, figures["prm"][key])
    yield dots.score("a step's number and length alone", next(iter(held_out.values()))["baseline"][key])


def _calibration(held_out: Mapping[str, Any]) -> Iterator[str]:
    found = {name: f["prm"]["calibration"] for name, f in held_out.items() if f["prm"].get("calibration")}
    series = [
        charts.Series(name, [charts.Point(b["score"], b["label"], note=f"{b['n']} steps") for b in bins])
        for name, bins in found.items()
    ]
    if series:
        right = charts.Series("calibrated", [charts.Point(0.0, 0.0), charts.Point(1.0, 1.0)], is_faint=True)
        x, y = (axes.of_numbers(label, (0.0, 1.0)) for label in ("mean score", ""))
        yield charts.lines("Calibration: how often a pass lies below, by score", [*series, right], x, y)


def _by_depth(held_out: Mapping[str, Any]) -> str:
    found = {
        name: sorted((int(depth), auc) for depth, auc in figures["prm"]["auc_by_depth"].items())
        for name, figures in held_out.items()
    }
    series = [
        charts.Series(name, [charts.Point(depth, auc) for depth, auc in by if auc is not None])
        for name, by in found.items()
    ]
    points = [point for one in series for point in one.points]
    x = axes.of_counts("step", [point.x for point in points])
    return charts.lines("AUC by step", series, x, axes.of_numbers("", [0.5, *(p.y for p in points)]))


def _errors(held_out: Mapping[str, Any]) -> str:
    sides = {name: figures["prm"] for name, figures in held_out.items()}
    first = next(iter(held_out.values()))
    sides["number and length alone"] = first["baseline"]
    rows = [[name, f["log_loss"], f["calibration_error"], f["n_pairs"]] for name, f in sides.items()]
    caption = f"{first['n_nodes']:,} steps of {first['n_problems']} held-out problems; "
    caption += f"log-loss floor {first['log_loss_floor']}"
    return markup.table(("scores", "log-loss", "calibration error", "pairs"), rows, caption)
