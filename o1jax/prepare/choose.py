"""Which of a source's problems are checked: those that are wanted and not near to evaluation problems.

Part of the check_problems stage; runs no program.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

from datasketch import MinHash, MinHashLSH

from o1jax.problems.formats.mbpp import without_tests
from o1jax.problems.load import Loaded
from o1jax.records import Problem, TestCase

# Which problems of a source are wanted, and how many of their tests. Reads no files and runs no program.


@dataclasses.dataclass(frozen=True)
class Filter:
    """What is wanted; an empty tuple or a 0 wants all. Of `tags` a problem has one at least; characters are
    those of the question."""

    ids: tuple[str, ...] = ()
    difficulties: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    forms: tuple[str, ...] = ()
    min_characters: int = 0
    max_characters: int = 0


def unwanted(problem: Problem, wanted: Filter) -> str:
    """Why a problem is not wanted, in a word, or ""."""
    length = len(problem.question)
    reasons = {
        "id": bool(wanted.ids) and problem.id not in wanted.ids,
        "difficulty": bool(wanted.difficulties) and problem.difficulty not in wanted.difficulties,
        "tags": bool(wanted.tags) and not set(wanted.tags) & set(problem.tags),
        "form": bool(wanted.forms) and problem.form not in wanted.forms,
        "too short": length < wanted.min_characters,
        "too long": 0 < wanted.max_characters < length,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def with_tests(problem: Problem, *, shown: int, most: int) -> Problem:
    """The problem with at most `most` tests of each kind (0: all). Where all of its tests are hidden, search
    may see the first `shown` of them."""
    hidden = problem.hidden_tests[: most or None]
    tests = problem.tests or problem.hidden_tests[:shown]
    return dataclasses.replace(problem, tests=tests[: most or None], hidden_tests=hidden)


# Problems whose statements are nearly those of other problems: what keeps training and test sets apart.
#
# Statements are sets of word runs; MinHash with locality-sensitive hashing finds candidates, and the exact
# Jaccard index of the sets decides. A statement that was reworded throughout is not found.

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


# Assertion problems in call form, where every test is `assert f(literals) == literal`.
#
# Call form has inputs and outputs, which a test-case generator writes and a majority of programs is asked
# for. It tells True from 1, which == does not: else the same passes. Runs no program.


def as_calls(problem: Problem) -> Problem:
    """The problem in call form, or as it is where a test says more than one call can."""
    if problem.form != "assertion" or not problem.entry_point:
        return problem
    tests, hidden = (_calls(kind, problem.entry_point) for kind in (problem.tests, problem.hidden_tests))
    if tests is None or hidden is None:
        return problem
    return dataclasses.replace(problem, form="call", tests=tests, hidden_tests=hidden)


def _calls(tests: Sequence[TestCase], name: str) -> tuple[TestCase, ...] | None:
    calls = [_call(test.input, name) for test in tests]
    return None if None in calls else tuple(calls)


def _call(text: str, name: str) -> TestCase | None:
    """`assert name(arguments) == value` as arguments and value, or None for any other text."""
    try:
        with warnings.catch_warnings(action="ignore"):
            (statement,) = ast.parse(text).body
        compared = statement.test if isinstance(statement, ast.Assert) else None
        if not isinstance(compared, ast.Compare) or [*map(type, compared.ops)] != [ast.Eq]:
            return None
        call = compared.left
        if not isinstance(call, ast.Call) or call.keywords or ast.unparse(call.func) != name:
            return None
        arguments = [ast.literal_eval(argument) for argument in call.args]
        return TestCase(repr(arguments), repr(ast.literal_eval(compared.comparators[0])))
    # Of literal_eval, and of no or many statements.
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None
