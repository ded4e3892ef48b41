"""Which of a source's problems are checked, and in which shape: those that are wanted and not near to the
problems that a policy will be evaluated on, with so many tests, in call form where that says the same.

Part of the check_problems stage; reads no files and runs no program.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

from datasketch import MinHash, MinHashLSH
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from o1jax.parallel.seeds import stable_hash
from o1jax.problems.formats.mbpp import without_tests
from o1jax.problems.load import Loaded
from o1jax.records import Form, InputError, Problem, TestCase

EXAMPLES = 3  # ids that an error names
MARGIN = 0.75  # candidates are looked for below the threshold too: few near ones are missed then
Share = Annotated[float, Field(ge=0, le=1)]
_WORD = re.compile(r"\w+")


@dataclasses.dataclass(frozen=True)
class Filter:
    """What is wanted; an empty tuple or a 0 wants all."""

    ids: tuple[str, ...] = ()  # each must be a problem's
    difficulties: tuple[str, ...] = ()  # as the source spells them
    tags: tuple[str, ...] = ()  # of which a problem has one at least
    forms: tuple[Form, ...] = ()
    # From, and below, which number in [0, 1) a hash of the id must be: pages with ranges that do not meet
    # have problems that do not, from whatever draws.
    hashed: tuple[Share, Share] = (0.0, 1.0)
    min_characters: NonNegativeInt = 0  # of the question
    max_characters: NonNegativeInt = 0


@dataclasses.dataclass(frozen=True)
class Nearness:
    """When two statements count as nearly the same."""

    words: PositiveInt = 3  # in a run: statements are compared as sets of their runs
    threshold: PositiveFloat = 0.6  # least Jaccard index of the two sets, at most 1
    permutations: PositiveInt = 128  # of MinHash: the more, the fewer near ones are missed


@dataclasses.dataclass(frozen=True)
class NearDuplicate:
    """A problem that is near to one of another set."""

    id: str
    other_id: str  # the nearest one
    similarity: float  # their Jaccard index, in [0, 1]


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The problems to check, and what of the source is left out."""

    problems: Sequence[Problem]
    malformed: Sequence[str]  # a line for each record
    unwanted: Sequence[str]  # a reason for each problem
    near: Sequence[NearDuplicate]
    over: int  # problems past the most that were asked for

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
    """The first `most` (0: all) of the loaded problems that are wanted and not near to one of `apart`.

    Raises InputError where that leaves none, and for an id in the filter that no problem has.
    """
    ids = [problem.id for problem in loaded.problems]
    # Who asks for a problem by its id does not mean all but that one.
    if unknown := sorted(set(wanted.ids) - set(ids)):
        raise InputError(
            f"check_problems.filter.ids: saw {_listed(unknown)}, which none of {len(ids)} problems has "
            f"({len(loaded.malformed)} more are malformed); there are {_listed(ids)}"
        )
    reasons = [unwanted(problem, wanted) for problem in loaded.problems]
    kept = [problem for problem, reason in zip(loaded.problems, reasons, strict=True) if not reason]
    if not kept:
        raise InputError(_nothing_wanted(loaded.problems, wanted, reasons))
    # Only after the filter: comparing statements is what takes time.
    duplicates = near_duplicates(kept, apart, near) if apart else []
    duplicate_ids = {duplicate.id for duplicate in duplicates}
    left = [problem for problem in kept if problem.id not in duplicate_ids]
    if not left:
        one = duplicates[0]
        raise InputError(
            f"check_problems.keep_apart: all {len(kept)} problems are near to one of the {len(apart)} there "
            f"({one.id!r} is {one.similarity:.2f} of {one.other_id!r}); give other problems, or a "
            f"near.threshold above {near.threshold}"
        )
    return Chosen(
        problems=left[: most or None],
        malformed=loaded.malformed,
        unwanted=[reason for reason in reasons if reason],
        near=duplicates,
        over=max(0, len(left) - most) if most else 0,
    )


def unwanted(problem: Problem, wanted: Filter) -> str:
    """Why a problem is not wanted, in a word, or ""."""
    length = len(problem.question)
    reasons = {
        "id": bool(wanted.ids) and problem.id not in wanted.ids,
        "difficulty": bool(wanted.difficulties) and problem.difficulty not in wanted.difficulties,
        "tags": bool(wanted.tags) and not set(wanted.tags) & set(problem.tags),
        "hash": not wanted.hashed[0] <= stable_hash(problem.id) / 2**64 < wanted.hashed[1],
        "form": bool(wanted.forms) and problem.form not in wanted.forms,
        "too short": length < wanted.min_characters,
        "too long": 0 < wanted.max_characters < length,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _nothing_wanted(problems: Sequence[Problem], wanted: Filter, reasons: Sequence[str]) -> str:
    default = dataclasses.asdict(Filter())
    set_ones = [(name, v) for name, v in dataclasses.asdict(wanted).items() if v != default[name]]
    asked = ", ".join(f"{name} {value!r:.80}" for name, value in set_ones)
    why = ", ".join(f"{reason} {n}" for reason, n in Counter(reasons).most_common())
    first = problems[0]
    return (
        f"check_problems.filter: saw {asked}, which none of {len(problems)} problems is (left out by {why}); "
        f"the first one has id {first.id!r}, difficulty {first.difficulty!r}, tags {_listed(first.tags)}, "
        f"form {first.form!r} and {len(first.question)} characters"
    )


def _listed(names: Sequence[str]) -> str:
    """The first few names, so that an error stays a line."""
    return ", ".join(map(repr, names[:EXAMPLES])) + (", ..." if len(names) > EXAMPLES else "") or "none"


def near_duplicates(
    problems: Sequence[Problem], others: Sequence[Problem], nearness: Nearness
) -> list[NearDuplicate]:
    """Every one of `problems` whose statement is nearly that of one of `others`, in order.

    MinHash with locality-sensitive hashing finds candidates, and the exact Jaccard index of their runs of
    words decides. A statement that was reworded throughout is not found.
    """
    runs = [_runs(other, nearness.words) for other in others]
    index = MinHashLSH(threshold=MARGIN * nearness.threshold, num_perm=nearness.permutations)
    for i, other in enumerate(runs):
        index.insert(i, _hashed(other, nearness))
    found = []
    for problem in problems:
        mine = _runs(problem, nearness.words)
        candidates = index.query(_hashed(mine, nearness))
        near = [(len(mine & runs[i]) / len(mine | runs[i]), -i) for i in candidates]
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


def with_tests(problem: Problem, *, shown: int, most: int) -> Problem:
    """The problem with at most `most` tests of each kind (0: all). Where all of its tests are hidden, search
    may see the first `shown` of them."""
    hidden = problem.hidden_tests[: most or None]
    tests = problem.tests or problem.hidden_tests[:shown]
    return dataclasses.replace(problem, tests=tests[: most or None], hidden_tests=hidden)


def as_calls(problem: Problem) -> Problem:
    """The assertion problem in call form where each of its tests is `assert f(literals) == literal`; else it
    stays as it is.

    Call form has inputs and outputs, which a test-case generator can write and a majority of programs can be
    asked for. It tells True from 1, which == does not; else the same programs pass.
    """
    if problem.form != "assertion" or not problem.entry_point:
        return problem
    tests, hidden = (
        tuple(_call(test.input, problem.entry_point) for test in kind)
        for kind in (problem.tests, problem.hidden_tests)
    )
    if None in tests or None in hidden:
        return problem
    return dataclasses.replace(problem, form="call", tests=tests, hidden_tests=hidden)


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
