"""What one operation of the ladder is: how it is asked for, planned, written and computed.

The tables of operations are in ladder_int_operations.py, ladder_list_operations.py and
ladder_text_operations.py; how operations compose into a problem is in ladder_composition.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

Kind = Literal["int", "list", "text"]
Value = int | list[int] | str


@dataclasses.dataclass(frozen=True)
class Operation:
    """One typed operation on a single variable `x`, with at most one constant `k`.

    `phrases` ask for it in English, `name` stands for it in a plan, `how` refines it (close to
    code), `expression` is its value in Python and `loop` the same by explicit statements (`{k}` is
    the constant everywhere). `apply(x, k)` is the reference semantics, total on its kind; it never
    changes its argument. `constants` is empty when there is no constant.
    """

    name: str
    takes: Kind
    gives: Kind
    constants: tuple[int, ...]
    phrases: tuple[str, ...]
    how: str
    expression: str
    loop: str
    apply: Callable[[Value, int], Value]
