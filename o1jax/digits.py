"""Integers of many digits, which data sets hold and Python refuses to read from text beyond 4,300 digits."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

# Reading text takes the square of its digits: .1 s for so many, 11 s for a million.
MOST_DIGITS = 100_000


@contextlib.contextmanager
def many_digits() -> Iterator[None]:
    """Lets integers have up to MOST_DIGITS digits in text (Python's own ValueError is raised beyond them);
    nothing may be awaited meanwhile."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(MOST_DIGITS)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(limit)
