"""Which of a source's problems are checked: those that are wanted and not near to evaluation problems.

Part of the check_problems stage; runs no program.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from o1jax.problems.filters import Filter, unwanted
from o1jax.problems.load import Loaded
from o1jax.problems.near_duplicates import NearDuplicate, Nearness, near_duplicates
from o1jax.records import Problem


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The problems to check, and what of the source is left out."""

    problems: Sequence[Problem]
    malformed: Sequence[str]
    unwanted: Sequence[str]  # a reason each
    near: Sequence[NearDuplicate]
    over: int  # past the most that were asked for

    def counts(self) -> dict[str, Any]:
        """read (records), malformed, unwanted {reason: problems}, near_duplicates, over, problems."""
        left_out = len(self.malformed) + len(self.unwanted) + len(self.near) + self.over
        return {
            "read": len(self.problems) + left_out,
            "malformed": len(self.malformed),
            "unwanted": dict(sorted(Counter(self.unwanted).items())),
            "near_duplicates": len(self.near),
            "over": self.over,
            "problems": len(self.problems),
        }

    def left_out(self) -> dict[str, list[str]]:
        """A line for each malformed record and each near-duplicate, under a title."""
        near = [f"{d.id}: {d.similarity:.2f} of {d.other_id}" for d in self.near]
        return {"Malformed": list(self.malformed), "Near-duplicates": near}


def choose(loaded: Loaded, wanted: Filter, apart: Sequence[Problem], near: Nearness, most: int) -> Chosen:
    """The first `most` (0: all) of the loaded problems that are wanted and not near to one of `apart`."""
    reasons = [unwanted(problem, wanted) for problem in loaded.problems]
    kept = [problem for problem, reason in zip(loaded.problems, reasons, strict=True) if not reason]
    duplicates = near_duplicates(kept, apart, near) if apart else []
    duplicate_ids = {duplicate.id for duplicate in duplicates}
    left = [problem for problem in kept if problem.id not in duplicate_ids]
    return Chosen(
        problems=left[: most or None],
        malformed=loaded.malformed,
        unwanted=[reason for reason in reasons if reason],
        near=duplicates,
        over=max(0, len(left) - most) if most else 0,
    )
