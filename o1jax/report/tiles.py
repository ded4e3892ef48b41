"""The few numbers at the top of a run's page, each with what it is to be seen beside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from o1jax.report.headline import percent, with_interval
from o1jax.report.learning import SELF_PLAY, arms, main_arm
from o1jax.report.run_files import RunFiles


class Tile(NamedTuple):
    """A name, a value, and a line below it."""

    name: str
    value: str
    below: str = ""
    is_warning: bool = False


def tiles(files: RunFiles, summary: Mapping[str, Any]) -> list[Tile]:
    """Those that the run has figures for."""
    return [
        *_passes(summary),
        *_searched(files),
        *_model_tiles(summary),
        *_reinforced(summary),
        _spent(summary),
    ]


def _passes(summary: Mapping[str, Any]) -> Iterator[Tile]:
    arm = main_arm(summary)
    curve = arms(summary).get(arm, {})
    for key, name in (("held_out_pass_at_1", "pass@1"), ("held_out_pass_at_8", "pass@8")):
        figures = curve.get(key)
        if figures:
            first, last = next(iter(figures.items())), list(figures.values())[-1]
            before = (
                f"{first[0].replace('_', '-')}: {percent(first[1]['mean'])}"
                if len(figures) > 1
                else "held-out problems"
            )
            whose = "" if arm == SELF_PLAY else f" of {arm}"
            yield Tile(name + whose, percent(last["mean"]), before)


def _searched(files: RunFiles) -> Iterator[Tile]:
    searches = {place: m["figures"] for place, m in files.manifests.items() if m["stage"] == "search"}
    if searches:
        own = [place for place in searches if not place.startswith("compare/")]
        last = searches[(own or list(searches))[-1]]
        yield Tile(
            "solved by search", f"{last['solved']} of {last['problems']}", f"{last['rollouts']:,} rollouts"
        )


def _model_tiles(summary: Mapping[str, Any]) -> Iterator[Tile]:
    generators = [figures for figures in summary["tcg"].values() if "before" in figures]
    if generators:
        last = generators[-1]
        accepted = last["after"].get("generated", {}).get("false_accept_mutants", {}).get("mean")
        below = "before the gate" if accepted is None else f"after it {percent(accepted)} of mutants pass"
        yield Tile(
            "valid test cases", with_interval(last["before"]["program"]["validity"]).split(" [")[0], below
        )
    models = [f for f in summary["prm"].values() if isinstance(f.get("auc"), Mapping)]
    if models:
        best = max(models, key=lambda figures: figures["auc"]["mean"])
        yield Tile(
            "reward model's AUC",
            f"{best['auc']['mean']:.3f}",
            f"by length alone {best['baseline']['auc']['mean']:.3f}",
        )


def _reinforced(summary: Mapping[str, Any]) -> Iterator[Tile]:
    found = [figures for figures in summary["rl"].values() if "flags" in figures]
    raised = sorted({name for figures in found for name, is_raised in figures["flags"].items() if is_raised})
    if found:
        first, last = found[-1]["first_outcome"], found[-1]["last_outcome"]
        below = ", ".join(raised).replace("_", " ") or "no flag raised"
        yield Tile("passing answers in RL", f"{100 * first:.1f} → {percent(last)}", below, bool(raised))


def _spent(summary: Mapping[str, Any]) -> Tile:
    totals = summary["totals"]
    tokens = f"{totals['generated_tokens']:,.0f} tokens generated, {totals['trained_tokens']:,.0f} trained"
    return Tile("time", f"{totals['seconds'] / 60:.0f} min", tokens)
