"""Problems whose statements are nearly those of other problems: what keeps training and test sets apart.

Statements are sets of word runs; MinHash with locality-sensitive hashing finds candidates, and the exact
Jaccard index of the sets decides. A statement that was reworded throughout is not found.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from datasketch import MinHash, MinHashLSH

from o1jax.problems.mbpp import without_tests
from o1jax.records import Problem

MARGIN = 0.75  # candidates are looked for below the threshold too: few near ones are missed then
_WORD = re.compile(r"\w+")


@dataclasses.dataclass(frozen=True)
class Nearness:
    """Statements are near from a Jaccard index of `threshold` of their runs of `words` words; a candidate is
    missed with a small probability, which more `permutations` make smaller."""

    words: int = 3
    threshold: float = 0.6
    permutations: int = 128


@dataclasses.dataclass(frozen=True)
class NearDuplicate:
    """A problem, the nearest one of the other set, and how near, in [0, 1]."""

    id: str
    other_id: str
    similarity: float


def near_duplicates(
    problems: Sequence[Problem], others: Sequence[Problem], nearness: Nearness
) -> list[NearDuplicate]:
    """Every one of `problems` that is near to one of `others`, in order."""
    runs = [_runs(other, nearness.words) for other in others]
    index = MinHashLSH(threshold=MARGIN * nearness.threshold, num_perm=nearness.permutations)
    for i, other in enumerate(runs):
        index.insert(i, _hashed(other, nearness))
    found = []
    for problem in problems:
        mine = _runs(problem, nearness.words)
        near = [(_jaccard(mine, runs[i]), -i) for i in index.query(_hashed(mine, nearness))]
        similarity, negative = max(near, default=(0.0, 0))
        if similarity >= nearness.threshold:
            found.append(NearDuplicate(problem.id, others[-negative].id, round(similarity, 4)))
    return found


def statement(problem: Problem) -> str:
    """What a problem asks for, without tests that are shown with it."""
    return f"{without_tests(problem).question}\n{problem.starter_code}"


def _runs(problem: Problem, length: int) -> set[str]:
    words = _WORD.findall(statement(problem).lower())
    return {" ".join(words[i : i + length]) for i in range(max(1, len(words) - length + 1))}


def _hashed(runs: set[str], nearness: Nearness) -> MinHash:
    hashed = MinHash(num_perm=nearness.permutations)
    hashed.update_batch([run.encode() for run in sorted(runs)])
    return hashed


def _jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)
