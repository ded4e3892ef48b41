"""Other comparisons than this sandbox's own, by name: per problem, or for parity measurements only.

`exact`, `fold_case` and `unordered` (lines in any order) of standard output, and `value_or_item` and
`value_or_list` of returned values, are for problems that say so. The rest rebuild the graders that data sets
came with, generous as they are: a reward should never be decided by one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

from o1jax.records import CALL_GRADERS, Form, InputError, Status
from o1jax.sandbox.compare import TOKEN, Rules, compare_stdout, equal_value, lines

Outcome = tuple[Status, str]
BELIEVED = frozenset({"humaneval", "mbpp"})  # assert statements run beside the candidate, and are believed


def check(form: Form, grader: str) -> None:
    """Raises InputError where there is no such grader for this form."""
    known = {"stdin": STDOUT.keys(), "call": {"", *CALL_GRADERS}, "assertion": {"", *BELIEVED}}[form]
    if grader not in known:
        raise InputError(f"grader: saw {grader!r} in form {form}, wanted one of {sorted(known)}")


def grade_stdout(grader: str, expected: str, output: bytes) -> Outcome:
    """Status and first difference of standard output. Raises KeyError for a name `check` would refuse."""
    return STDOUT[grader](expected, output)


def same_value(grader: str, expected: Any, got: Any, *, json_values: bool) -> bool:
    """Whether encoded value `got` is `expected` to a grader of form call; `json_values` as of Problem.

    The checkers of TACO and APPS take the first item of a longer list too. Not these: for a problem whose
    answers are lists, a program that only returned their first items would pass.
    """
    rules = Rules(tuple_is_list=json_values, bool_is_int=grader in CALL_GRADERS)
    also = [[expected]] if grader == "value_or_list" else []
    if grader == "value_or_item" and type(expected) is list and len(expected) == 1:
        also = expected
    return any(equal_value(value, got, rules) for value in (expected, *also))


def fold_case(expected: str, output: bytes) -> Outcome:
    return compare_stdout(expected.lower(), _text(output).lower().encode("utf-8", "surrogateescape"))


def unordered(expected: str, output: bytes) -> Outcome:
    """The strict comparison of the lines in sorted order, without the empty ones."""
    want, got = ("\n".join(sorted(filter(None, lines(text)))) for text in (expected, _text(output)))
    return compare_stdout(want, got.encode("utf-8", "surrogateescape"))


def exact(expected: str, output: bytes) -> Outcome:
    """The same tokens, letter by letter; the same lines, blank by blank, where the expected output has a
    layout of its own: blanks that begin a line, two beside each other, an empty line. Blanks that end a line,
    and empty lines that end the text, do not count."""
    want, got = lines(expected), lines(_text(output))
    tokens = [TOKEN.findall(line) for line in want]
    if want != [*map(" ".join, tokens)] or [] in tokens:
        return _outcome(want == got)
    return _outcome([*itertools.chain(*tokens)] == TOKEN.findall("\n".join(got)))


def codecontests(expected: str, output: bytes) -> Outcome:
    """CodeContests: tokens without regard to case, any number within 1e-5."""
    want, got = expected.lower().split(), _text(output).lower().split()
    pairs = zip(want, got, strict=False)
    return _outcome(len(want) == len(got) and all(a == b or _close(a, b, 1e-5, 1e-5) for a, b in pairs))


def apps(expected: str, output: bytes) -> Outcome:
    """APPS and TACO: lines without blanks around them; or numbers within 1e-5 relative or 1e-8 absolute,
    line by line; or the same set of sets of tokens, as they are or as numbers rounded to 3 places."""
    want, got = _lines(expected), _lines(_text(output))
    if want == got or _sets(want, str) == _sets(got, str):
        return _outcome(True)
    if len(want) == len(got) and all(_close(a, b, 1e-5, 1e-8) for a, b in zip(want, got, strict=True)):
        return _outcome(True)
    rounded, others = (_sets(lines, lambda token: round(float(token), 3)) for lines in (want, got))
    return _outcome(rounded is not None and rounded == others)


STDOUT: dict[str, Callable[[str, bytes], Outcome]] = {
    "": compare_stdout,
    "fold_case": fold_case,
    "unordered": unordered,
    "exact": exact,
    "codecontests": codecontests,
    "apps": apps,
    "taco": apps,
}


def _outcome(same: bool) -> Outcome:
    return (Status.AC, "") if same else (Status.WA, "another grader says no")


def _text(output: bytes) -> str:
    return output.decode("utf-8", "surrogateescape")


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def _close(a: str, b: str, relative: float, absolute: float) -> bool:
    try:
        return math.isclose(float(a), float(b), rel_tol=relative, abs_tol=absolute)
    except ValueError:
        return False


def _sets(lines: list[str], read: Callable[[str], object]) -> set[frozenset] | None:
    try:
        return {frozenset(map(read, line.split())) for line in lines}
    except (ValueError, OverflowError):
        return None
