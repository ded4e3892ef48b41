"""Whether a run learned: what its policies pass of the problems that were kept for it, problem by problem.

A change is paired over problems; its 95 % interval is the mean's by the normal approximation. It is that of
one run: another seed is not in it. Writes no text (headline.py does).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

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

    arm: str
    counts: Mapping[str, Counts]

    @property
    def last(self) -> Counts:
        return list(self.counts.values())[-1]

    @property
    def change(self) -> Change | None:
        """From the first evaluation to the last; None of fewer than two."""
        return change(next(iter(self.counts.values())), self.last) if len(self.counts) > 1 else None


def curves(files: RunFiles) -> list[Curve]:
    """The arms that were evaluated after a round, self-play first."""
    arms = sorted({place.split("/")[1] for place in files.stages if place.startswith("compare/")})
    prefixes = {SELF_PLAY: ""} | {arm: f"compare/{arm}/" for arm in arms}
    counted: dict[str, Counts] = {}
    found = []
    for arm, prefix in prefixes.items():
        places = evaluations(files.manifests, prefix)
        counted |= {place: counts_of(files, place) for place in places.values() if place not in counted}
        found.append(Curve(arm, {name: counted[place] for name, place in places.items() if counted[place]}))
    return [curve for curve in found if len(curve.counts) > 1] or [
        curve for curve in found[:1] if curve.counts
    ]


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
