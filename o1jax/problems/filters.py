"""Which problems of a source are wanted, and how many of their tests. Reads no files and runs no program."""

from __future__ import annotations

import dataclasses

from o1jax.records import Problem


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
