"""The sections on the models beside the policy: the generator of test cases and the process reward model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from o1jax.report import axes, charts, dots, markup
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
SETS = {"generated": "generated", "own": "the problem's own tests", "random": "random inputs"}
ADVERSARIAL = ("answers", "mean_reward", "kill_share", "valid_share", "pairs")
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
    return (
        (f"<div class=charts>{''.join(shown)}</div>" if shown else "") + _fates(files) + _adversarial(files)
    )


def _before(found: Mapping[str, Any], key: str, title: str) -> str:
    """`program`: the prompt shows the reference program; `question`: it does not."""
    rows = [
        dots.row(
            f"{name}, {'with the program' if prompt == 'program' else 'question only'}",
            figures["before"][prompt][key],
        )
        for name, figures in found.items()
        for prompt in figures["before"]
    ]
    return dots.shares(title, rows)


def _after(after: Mapping[str, Any], key: str, title: str) -> str:
    rows = [
        dots.row(
            f"{name}: {SETS.get(tests, tests)}" if len(after) > 1 else SETS.get(tests, tests), figures[key]
        )
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
    return (
        markup.table(["adversarial turn", *(key.replace("_", " ") for key in ADVERSARIAL)], rows)
        if rows
        else ""
    )


def reward_model(files: RunFiles, summary: Mapping[str, Any]) -> str:
    """Ranking and calibration on held-out trees; without such, what it was trained on."""
    trained = {place: m["figures"] for place, m in files.manifests.items() if m["stage"] == "prm"}
    if not trained:
        return ""
    held_out = {
        place.removeprefix("prm/"): f["held_out"] for place, f in trained.items() if f.get("held_out")
    }
    head = ("stage", "labels", "examples", "problems", "steps", "trained tokens")
    keys = ("objective", "examples", "problems", "steps", "trained_tokens")
    table = markup.table(
        head,
        [[place, *(f"{f[k]:,}" if k != "objective" else f[k] for k in keys)] for place, f in trained.items()],
    )
    if not held_out:
        return (
            table
            + "<p class=note>No held-out trees in this run, so there is no AUC and no calibration of it; "
            "<code>launch/prm.py</code> measures both.</p>"
        )
    shown = [dots.scores(title, list(_ranking(held_out, key))) for key, title in RANKINGS.items()]
    shown += [*_calibration(held_out), _by_depth(held_out)]
    return f"<div class=charts>{''.join(shown)}</div>{_errors(held_out)}{table}"


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
        x = axes.of_numbers("mean score", (0.0, 1.0))
        yield charts.lines(
            "Calibration: how often a pass lies below, by score",
            [*series, right],
            x,
            axes.of_numbers("", (0.0, 1.0)),
        )


def _by_depth(held_out: Mapping[str, Any]) -> str:
    found = {
        name: {int(d): v for d, v in f["prm"]["auc_by_depth"].items() if v is not None}
        for name, f in held_out.items()
    }
    series = [
        charts.Series(name, [charts.Point(d, v) for d, v in sorted(by.items())]) for name, by in found.items()
    ]
    depths = sorted({depth for by in found.values() for depth in by})
    values = [value for by in found.values() for value in by.values()]
    x = axes.Axis(
        "step",
        min(depths, default=0),
        max(depths, default=1) + (len(depths) < 2),
        [(d, str(d)) for d in depths],
        0.08,
    )
    return charts.lines("AUC by step", series, x, axes.of_numbers("", [*values, 0.5]))


def _errors(held_out: Mapping[str, Any]) -> str:
    sides = {name: figures["prm"] for name, figures in held_out.items()}
    first = next(iter(held_out.values()))
    sides["number and length alone"] = first["baseline"]
    rows = [[name, f["log_loss"], f["calibration_error"], f["n_pairs"]] for name, f in sides.items()]
    caption = f"{first['n_nodes']:,} steps of {first['n_problems']} held-out problems; "
    caption += f"log-loss floor {first['log_loss_floor']}"
    return markup.table(("scores", "log-loss", "calibration error", "pairs"), rows, caption)
