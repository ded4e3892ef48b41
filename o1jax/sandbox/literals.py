"""Reading the literals of trusted tests, integers of many digits among them."""

from __future__ import annotations

import ast
import functools
from typing import Any

from o1jax.digits import many_digits
from o1jax.records import InputError
from o1jax.sandbox.jail import values


@functools.lru_cache(maxsize=1 << 14)
def parsed(text: str) -> Any:
    """A test's literal. Raises InputError where it is none."""
    try:
        with many_digits():
            value = ast.literal_eval(text)
        values.encode(value)  # what no child could return, no test may expect
        return value
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise InputError(f"a test is not a Python literal ({error}): {text[:80]!r}") from error
