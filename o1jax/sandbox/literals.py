"""Reading the literals of trusted tests, integers of any length among them."""

from __future__ import annotations

import ast
import contextlib
import functools
import sys
from collections.abc import Iterator
from typing import Any

from o1jax.records import InputError
from o1jax.sandbox.jail import values


@contextlib.contextmanager
def any_digits() -> Iterator[None]:
    """Lifts Python's limit on the digits of an integer; nothing may be awaited meanwhile."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(limit)


@functools.lru_cache(maxsize=1 << 14)
def parsed(text: str) -> Any:
    """A test's literal. Raises InputError where it is none."""
    try:
        with any_digits():
            value = ast.literal_eval(text)
        values.encode(value)  # what no child could return, no test may expect
        return value
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise InputError(f"a test is not a Python literal ({error}): {text[:80]!r}") from error
