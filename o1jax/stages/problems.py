"""The problems that a stage of preparation leaves for the stages after it."""

from __future__ import annotations

from collections.abc import Sequence

from etils import epath

from o1jax.problems.load import load_problems
from o1jax.records import Problem
from o1jax.store import write_records


def read_problems(out: epath.Path) -> list[Problem]:
    """The problems that a finished check_problems or write_tests stage kept."""
    return load_problems(str(out))


def write_problems(out: epath.Path, problems: Sequence[Problem]) -> None:
    """Writes what read_problems reads."""
    write_records(out / "problems.parquet", Problem, problems)
