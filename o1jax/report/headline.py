"""What a run came to, in a sentence: for the top of its page and the end of a terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from o1jax.report.learning import SELF_PLAY, Change, arms, change, curves, main_arm, other_evaluations
from o1jax.report.run_files import RunFiles


@dataclasses.dataclass(frozen=True)
class Headline:
    """What a run came to, in a word, a sentence and perhaps more of them."""

    state: Literal["better", "unclear", "worse", "none"]
    word: str
    text: str
    more: tuple[str, ...] = ()


WORDS = {"better": "It learned", "unclear": "No clear change", "worse": "It got worse"}


def headline(files: RunFiles, summary: Mapping[str, Any]) -> Headline:
    """Of the policy where it was evaluated twice, else of what the run made beside it."""
    found, name = curves(files, summary), main_arm(summary)
    first = found[name].change if name in found else None
    if first is None:
        return _without_change(files, summary)
    ends = f"{percent(first.before)} → {percent(first.after)}"
    text = f"pass@1 on {first.n} held-out problems: {ends}, {points(first)}"
    others = {arm: change(curve.last, found[name].last) for arm, curve in found.items() if arm != name}
    more = [f"{name} less {arm}: {points(less)}" for arm, less in others.items() if less is not None]
    whose = "" if list(found) == [SELF_PLAY] else f"{name}: "
    return Headline(first.state, WORDS[first.state], whose + text, tuple(more))


def _without_change(files: RunFiles, summary: Mapping[str, Any]) -> Headline:
    parts = [*_rates(files, summary), *_models(summary), *_searches(files)]
    if not parts:
        return Headline("none", "Nothing measured yet", f"{len(files.manifests)} stages are finished")
    return Headline("none", "So far", parts[0], tuple(parts[1:]))


def _rates(files: RunFiles, summary: Mapping[str, Any]) -> list[str]:
    rates = {name.replace("_", "-"): rate for name, rate in summary["held_out_pass_at_1"].items()}
    others = other_evaluations(files, summary).items()
    rates |= {name: figures["pass_at_1"] for name, figures in others if "pass_at_1" in figures}
    return [f"pass@1 on {rate['n']} problems ({name}): {with_interval(rate)}" for name, rate in rates.items()]


def _models(summary: Mapping[str, Any]) -> list[str]:
    """The reward models and generators that were measured on what they were not trained on."""
    lines = []
    for objective, found in summary["prm"].items():
        if isinstance(found.get("auc"), Mapping):
            less = found["auc_difference"]
            lines.append(
                f"reward model ({objective}): held-out AUC {found['auc']['mean']:.3f}, {less['mean']:+.3f} "
                f"[{less['low']:+.3f}, {less['high']:+.3f}] on a step's number and length alone"
            )
    for name, found in summary["tcg"].items():
        if "before" in found:
            valid = with_interval(found["before"]["program"]["validity"])
            lines.append(f"test-case generator {name}: {valid} of its cases are valid")
    return lines


def _searches(files: RunFiles) -> list[str]:
    found = {p: m["figures"] for p, m in files.manifests.items() if m["stage"] in ("search", "sample")}
    return [f"{place}: {f['solved']} of {f['problems']} problems solved" for place, f in found.items()]


def points(of: Change) -> str:
    """A difference in percentage points."""
    return f"{100 * of.mean:+.1f} points (95 % interval {100 * of.low:+.1f} to {100 * of.high:+.1f})"


def with_interval(figure: Mapping[str, Any]) -> str:
    """A share and its interval in percent; a dash where nothing was measured."""
    if figure.get("mean") is None:
        return "–"
    return f"{percent(figure['mean'])} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"


def percent(value: float | None) -> str:
    """A share in percent; a dash where nothing was measured."""
    return "–" if value is None else f"{100 * value:.1f} %"


# The few numbers at the top of a run's page, each with what it is to be seen beside.


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
