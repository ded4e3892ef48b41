"""Whether a run learned: what its policies pass of the problems that were kept for it, problem by problem.

A change is paired over problems; its 95 % interval is the mean's by the normal approximation. It is that of
one run: another seed is not in it. Writes no text (headline.py does).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from o1jax.report.run_files import RunFiles
from o1jax.report.summary import evaluations

NORMAL_95 = 1.96
SELF_PLAY = "self-play"

Counts = Mapping[str, tuple[int, int]]  # problem id -> answers that pass, answers


@dataclasses.dataclass(frozen=True)
class Change:
    """Of a share, in [0, 1]: at first, at last, the mean difference over n problems and its interval."""

    before: float
    after: float
    mean: float
    low: float
    high: float
    n: int

    @property
    def state(self) -> Literal["better", "unclear", "worse"]:
        """What the interval says of the difference."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "unclear"


@dataclasses.dataclass(frozen=True)
class Curve:
    """An arm's evaluations: name of the round -> what the policy passes of each held-out problem."""

    counts: Mapping[str, Counts]

    @property
    def last(self) -> Counts:
        return list(self.counts.values())[-1]

    @property
    def change(self) -> Change | None:
        """From the first evaluation to the last; None of fewer than two."""
        return change(next(iter(self.counts.values())), self.last) if len(self.counts) > 1 else None


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


def prefix_of(arm: str) -> str:
    """What the places of an arm's rounds begin with."""
    return "" if arm == SELF_PLAY else f"compare/{arm}/"


def arm_of(place: str) -> str:
    """The arm that a stage belongs to; self-play, if it is not one that stands beside it."""
    return place.split("/")[1] if place.startswith("compare/") else SELF_PLAY


def other_evaluations(files: RunFiles, summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Place and prompt -> the figures of evaluations that are in no curve of `arms`."""
    drawn = {
        place for arm in arms(summary) for place in evaluations(files.manifests, prefix_of(arm)).values()
    }
    return {
        f"{place}, {prompt} prompt": manifest["figures"][prompt]
        for place, manifest in files.manifests.items()
        for prompt in ("pseudocode", "direct")
        if manifest["stage"] == "evaluate" and prompt in manifest["figures"]
        if place not in drawn or prompt == "direct"
    }


def curves(files: RunFiles, summary: Mapping[str, Any]) -> dict[str, Curve]:
    """Arm -> what its policies pass, of those of `arms` whose answers were kept."""
    found = {}
    for arm in arms(summary):
        places = evaluations(files.manifests, prefix_of(arm))
        counts = {name: counts_of(files, place) for name, place in places.items()}
        found[arm] = Curve({name: of_round for name, of_round in counts.items() if of_round})
    return {arm: curve for arm, curve in found.items() if curve.counts}


def counts_of(files: RunFiles, place: str) -> dict[str, tuple[int, int]]:
    """What the answers of a stage pass; of an evaluation, those to the pseudocode prompt."""
    directory = files.stages[place].directory / "rollouts"
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
    shares = [(share(before[problem]), share(after[problem])) for problem in before if problem in after]
    n = len(shares)
    if n < 2:
        return None
    first, last = (sum(values) / n for values in zip(*shares, strict=True))
    variance = sum((b - a - last + first) ** 2 for a, b in shares) / (n - 1)
    width = NORMAL_95 * math.sqrt(variance / n)
    return Change(first, last, last - first, last - first - width, last - first + width, n)


def share(count: tuple[int, int]) -> float:
    """Of the answers that pass."""
    passed, n = count
    return passed / n
