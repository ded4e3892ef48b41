"""The problems that a stage of preparation leaves for the stages after it, in its problems.parquet."""

from __future__ import annotations

from collections.abc import Sequence

from etils import epath

from o1jax.records import InputError, Problem
from o1jax.store import read_records, write_records

FILE = "problems.parquet"


def read_problems(out: epath.Path) -> list[Problem]:
    """The problems that a finished check_problems or write_tests stage kept; InputError for none."""
    problems = read_records(out / FILE, Problem)
    if not problems:
        raise InputError(f"{out / FILE}: no problems in it, wanted at least one")
    return problems


def write_problems(out: epath.Path, problems: Sequence[Problem]) -> None:
    """Writes what read_problems reads."""
    write_records(out / FILE, Problem, problems)
