"""CodeContests (Li et al., arXiv 2203.07814) in its published format.

Public tests come first; on valid and test they are what search may see, and the private and generated
ones are hidden. Python 3 solutions are the references. Interactive problems and those with several right
answers are not told apart here: their references disagree with the tests (prepare/check_problems.py).
"""

from __future__ import annotations

from typing import Any

from o1jax.problems import files
from o1jax.records import InputError, Problem, TestCase

PYTHON3 = 3
SOURCES = ("unknown", "codechef", "codeforces", "hackerearth", "codejam", "atcoder", "aizu")
DIFFICULTIES = ("", "easy", "medium", "hard", "harder", "hardest", "external")
LETTERS_FROM = 7  # Codeforces' A, B, ... follow those names


def problem_of(record: dict[str, Any], index: int, where: str, split: str = "train") -> Problem:
    """The problem of one record; InputError for a malformed one, and for one that reads or writes files."""
    for name in ("input_file", "output_file"):
        if files.optional_text(record, name, where):
            raise InputError(f"{where} field {name!r}: saw {record[name]!r}, wanted standard streams")
    shown = _tests(record, "public_tests", where)
    more = [*_tests(record, "private_tests", where), *_tests(record, "generated_tests", where)]
    if not shown and not more:
        raise InputError(f"{where} field 'public_tests': saw no test in any field, wanted one at least")
    return Problem(
        id=f"codecontests/{split}/{index}",
        question=files.text(record, "description", where),
        form="stdin",
        tests=tuple([*shown, *more] if split == "train" else shown),
        hidden_tests=() if split == "train" else tuple(more or shown),
        solutions=tuple(_solutions(record, where)),
        difficulty=_difficulty(files.integer(record, "difficulty", where)),
        source=f"codecontests/{_name(SOURCES, files.integer(record, 'source', where))}",
        tags=tuple(filter(None, files.texts(record, "cf_tags", where) if record.get("cf_tags") else ())),
        time_limit_s=_seconds(record.get("time_limit"), f"{where} field 'time_limit'"),
        memory_limit_mb=files.optional_integer(record, "memory_limit_bytes", where) >> 20,
    )


def _tests(record: dict[str, Any], name: str, where: str) -> list[TestCase]:
    cases = files.mapping(record, name, where)
    inputs, outputs = (files.texts(cases, key, f"{where} field {name!r}") for key in ("input", "output"))
    if len(inputs) != len(outputs):
        raise InputError(
            f"{where} field {name!r}: saw {len(inputs)} inputs and {len(outputs)} outputs, wanted as many"
        )
    return [TestCase(*pair) for pair in zip(inputs, outputs, strict=True)]


def _solutions(record: dict[str, Any], where: str) -> list[str]:
    found = files.mapping(record, "solutions", where)
    sources = files.texts(found, "solution", f"{where} field 'solutions'")
    languages = found.get("language")
    if not isinstance(languages, list) or len(languages) != len(sources):
        raise InputError(f"{where} field 'solutions': saw {languages!r:.40}, wanted a language a solution")
    return [text for text, language in zip(sources, languages, strict=True) if language == PYTHON3]


def _difficulty(number: int) -> str:
    if number >= LETTERS_FROM:
        return chr(ord("A") + number - LETTERS_FROM)
    return _name(DIFFICULTIES, number)


def _name(names: tuple[str, ...], number: int) -> str:
    return names[number] if 0 <= number < len(names) else names[0]


def _seconds(limit: Any, where: str) -> float:
    """A duration {seconds, nanos}; 0 (the judge's default) where there is none."""
    if not isinstance(limit, dict):
        return 0.0
    seconds, nanos = (files.optional_integer(limit, name, where) for name in ("seconds", "nanos"))
    return seconds + nanos / 1e9
