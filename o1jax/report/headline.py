"""What a run came to, in a sentence: for the top of its page and the end of a terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from o1jax.report.learning import SELF_PLAY, Change, change, curves, main_arm, other_evaluations
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
