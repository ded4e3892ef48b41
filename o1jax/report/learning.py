"""Whether a run learned: what its policies pass of the held-out problems, problem by problem; the headline.

A change is paired over problems; its 95 % interval is the mean's by the normal approximation. It is that of
one run: another seed is not in it. The headline stands at the top of the page and at the end of a terminal.
Every figure is of finished stages: a mean over what finished first would be one over the easy problems.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from o1jax.report.run_files import RunFiles
from o1jax.report.summary import PROMPTS, evaluations

NORMAL_95 = 1.96
SELF_PLAY = "self-play"
WORDS = {"better": "It learned", "unclear": "No clear change", "worse": "It got worse"}

Counts = Mapping[str, tuple[int, int]]  # problem id -> answers that pass, answers


@dataclasses.dataclass(frozen=True)
class Change:
    """Of the share of answers that pass, a mean over the problems that both policies answered."""

    before: float  # in [0, 1], as `after`
    after: float
    mean: float  # of the difference over problems
    low: float  # of its interval
    high: float
    n: int  # problems

    @property
    def state(self) -> Literal["better", "unclear", "worse"]:
        """What the interval says of the difference."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "unclear"


@dataclasses.dataclass(frozen=True)
class Headline:
    """What a run came to."""

    state: Literal["better", "unclear", "worse", "none"]
    word: str  # or a few
    text: str  # one sentence
    more: tuple[str, ...] = ()


NOT_KNOWN = Headline("none", "Not known", "the figures that would say it are damaged")


def headline(files: RunFiles, summary: Mapping[str, Any]) -> Headline:
    """Of the policy where it was evaluated twice, else of what the run made beside it."""
    name = main_arm(summary)
    counts = {arm: found for arm in arms(summary) if (found := list(_counts(files, arm)))}
    first = change(counts[name][0], counts[name][-1]) if len(counts.get(name, ())) > 1 else None
    if first is None:
        return _without_change(files, summary)
    ends = f"{percent(first.before)} → {percent(first.after)}"
    text = f"pass@1 on {first.n} held-out problems: {ends}, {_points(first)}"
    others = {arm: change(found[-1], counts[name][-1]) for arm, found in counts.items() if arm != name}
    more = [f"{name} less {arm}: {_points(less)}" for arm, less in others.items() if less is not None]
    whose = "" if list(counts) == [SELF_PLAY] else f"{name}: "
    return Headline(first.state, WORDS[first.state], whose + text, tuple(more))


def _without_change(files: RunFiles, summary: Mapping[str, Any]) -> Headline:
    lines = [*_rates(files, summary), *_models(summary)]
    searches = files.figures("search", "sample").items()
    lines += [f"{path}: {f['solved']} of {f['problems']} problems solved" for path, f in searches]
    if not lines:
        return Headline("none", "Nothing measured yet", f"{len(files.manifests)} stages are finished")
    return Headline("none", "So far", lines[0], tuple(lines[1:]))


def _rates(files: RunFiles, summary: Mapping[str, Any]) -> list[str]:
    first = summary["held_out_pass_at_1"].items()
    rates = {name.replace("_", "-"): (rate, summary["lost"][name]["pseudocode"]) for name, rate in first}
    others = other_evaluations(files, summary).items()
    rates |= {name: (figures["pass_at_1"], figures) for name, figures in others if "pass_at_1" in figures}
    return [
        f"pass@1 on {rate['n']} problems ({name}): {with_interval(rate)}{_lost(figures)}"
        for name, (rate, figures) in rates.items()
    ]


def _lost(figures: Mapping[str, Any]) -> str:
    """What of the answers there was nothing of to judge, where that was counted."""
    words = {"no_program_share": "without a program", "cut_share": "cut by length"}
    return "".join(f", {percent(figures[name])} {what}" for name, what in words.items() if name in figures)


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


def arms(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Arm -> its figures in the summary, of those that were evaluated after a round, self-play first; before
    any was, what there is of self-play."""
    found = {SELF_PLAY: summary} | summary["compare"]
    played = {arm: curve for arm, curve in found.items() if len(curve["held_out_pass_at_1"]) > 1}
    return played or ({SELF_PLAY: summary} if summary["held_out_pass_at_1"] else {})


def main_arm(summary: Mapping[str, Any]) -> str:
    """The arm that a run is about: self-play, or where it has no rounds, the best at the end."""
    ends = {arm: list(c["held_out_pass_at_1"].values())[-1]["mean"] for arm, c in arms(summary).items()}
    return SELF_PLAY if SELF_PLAY in ends or not ends else max(ends, key=lambda arm: ends[arm])


def arm_of(path: str) -> str:
    """The arm that a stage belongs to; self-play, if it is not one that stands beside it."""
    return path.split("/")[1] if path.startswith("compare/") else SELF_PLAY


def other_evaluations(files: RunFiles, summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Path and prompt -> the figures of evaluations that are in no curve of `arms`."""
    drawn = {path for arm in arms(summary) for path in _evaluations(files, arm)}
    return {
        f"{path}, {prompt} prompt": figures[prompt]
        for path, figures in files.figures("evaluate").items()
        for prompt in PROMPTS
        if prompt in figures and (path not in drawn or prompt != "pseudocode")
    }


def _evaluations(files: RunFiles, arm: str) -> list[str]:
    """The paths of an arm's evaluations, in the order of rounds."""
    return list(evaluations(files.manifests, "" if arm == SELF_PLAY else f"compare/{arm}/").values())


def _counts(files: RunFiles, arm: str) -> Iterator[Counts]:
    """What the arm's policies pass, round by round, where the answers were kept."""
    return filter(None, (counts_of(files, path) for path in _evaluations(files, arm)))


def counts_of(files: RunFiles, path: str) -> Counts:
    """What the answers of a stage pass; of an evaluation, those to the pseudocode prompt."""
    directory = files.stages[path].directory / "rollouts"
    only = directory / "pseudocode.parquet"
    counts: dict[str, tuple[int, int]] = {}
    for table in files.tables(only if only.exists() else directory, ("problem_id", "reward")):
        rows = zip(table["problem_id"].to_pylist(), table["reward"].to_pylist(), strict=True)
        for problem_id, reward in rows:
            passed, n = counts.get(problem_id, (0, 0))
            counts[problem_id] = (passed + (reward == 1.0), n + 1)
    return counts


def change(before: Counts, after: Counts) -> Change | None:
    """Of the share of answers that pass, over the problems that both have; None of fewer than two."""
    both = [(*before[problem], *after[problem]) for problem in before if problem in after]
    shares = [(passed / n, passes / m) for passed, n, passes, m in both]
    n = len(shares)
    if n < 2:
        return None
    first, last = (sum(values) / n for values in zip(*shares, strict=True))
    variance = sum((b - a - last + first) ** 2 for a, b in shares) / (n - 1)
    width = NORMAL_95 * math.sqrt(variance / n)
    return Change(first, last, last - first, last - first - width, last - first + width, n)


def _points(of: Change) -> str:
    """A difference in percentage points."""
    return f"{100 * of.mean:+.1f} points (95 % interval {100 * of.low:+.1f} to {100 * of.high:+.1f})"


def with_interval(figure: Mapping[str, Any]) -> str:
    """A share in percent, and its interval where it has one; a dash where nothing was measured."""
    if figure.get("mean") is None or figure["low"] is None:
        return percent(figure.get("mean"))
    return f"{percent(figure['mean'])} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"


def percent(value: float | None) -> str:
    """A share in percent; a dash where nothing was measured."""
    return "–" if value is None else f"{100 * value:.1f} %"
