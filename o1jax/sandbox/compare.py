"""Whether an answer is the expected one: standard output against text, encoded values against Python's.

Pure functions of plain data, run in the supervisor only. No candidate object gets here.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NamedTuple

from o1jax.records import Status
from o1jax.sandbox.jail import values

STDIN_TOLERANCE = 1e-6  # absolute or relative
CALL_RELATIVE, CALL_ABSOLUTE = 1e-7, 1e-6
# Each of these matches in linear time: the answer's tokens are as long as its author likes.
INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
FLOAT = re.compile(r"[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][+-]?[0-9]+)?", re.ASCII)
NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)


def _digits(token: str) -> tuple[bool, str]:
    """(negative, digits) of an integer token: of any length, while int() refuses more than 4,300 digits."""
    digits = token.lstrip("+-").lstrip("0")
    return token[0] == "-" and digits != "", digits


class Rules(NamedTuple):
    """What counts as equal among returned values beside equality itself."""

    tuple_is_list: bool = False  # for values that came through JSON
    bool_is_int: bool = False  # Python's own ==, which an assert statement means


def compare_stdout(expected: str, output: bytes) -> tuple[Status, str]:
    """AC, PE (white space differs only) or WA, with the first difference.

    Strict UTF-8; line ends and trailing blanks do not count. Then token by token: integers of any
    size by value; 1e-6 absolute or relative only where the expected token is written as a float.
    """
    try:
        text = output.decode("utf-8")
    except UnicodeDecodeError as error:
        return Status.WA, f"output is not UTF-8 at byte {error.start}"
    want_lines, got_lines = _lines(expected), _lines(text)
    if want_lines == got_lines:
        return Status.AC, ""
    want, got = expected.split(), text.split()
    for index, (a, b) in enumerate(zip(want, got, strict=False)):
        if not equal_token(a, b):
            return Status.WA, f"token {index + 1}: expected {_short(a)}, got {_short(b)}"
    if len(want) != len(got):
        return Status.WA, f"expected {len(want)} tokens, got {len(got)}"
    same_layout = [len(line.split()) for line in want_lines] == [len(line.split()) for line in got_lines]
    return (Status.AC, "") if same_layout and want != got else (Status.PE, "white space differs")


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _short(token: str) -> str:
    return repr(token if len(token) <= 40 else token[:37] + "...")


def equal_token(want: str, got: str) -> bool:
    """One token of the expected output against one of the answer."""
    if want == got:
        return True
    if INTEGER.fullmatch(want):
        return INTEGER.fullmatch(got) is not None and _digits(want) == _digits(got)
    if not (FLOAT.fullmatch(want) and NUMBER.fullmatch(got)):
        return False
    x, y = float(want), float(got)
    return x == y or math.isfinite(x) and abs(x - y) <= STDIN_TOLERANCE * max(1.0, abs(x))


def equal_value(expected: Any, got: Any, rules: Rules) -> bool:
    """Whether encoded value `got` (values.encode's form, from the child, so of any shape) is `expected`.

    Where the expected number is a float: 1e-7 relative or 1e-6 absolute.
    """
    kind = type(expected)
    if rules.bool_is_int and kind in (bool, int, float) and type(got) is bool:
        got = int(got)
    if kind is bool and rules.bool_is_int:
        kind, expected = int, int(expected)
    if expected is None or kind in (bool, str):
        return type(got) is kind and got == expected
    if kind in (int, float):
        return _equal_number(expected, got)
    if kind in (list, tuple):
        items = got if type(got) is list and (kind is list or rules.tuple_is_list) else None
        if items is None and (kind is tuple or rules.tuple_is_list):
            items = _tagged(got, "t")
        if items is None or len(items) != len(expected):
            return False
        return all(equal_value(a, b, rules) for a, b in zip(expected, items, strict=True))
    if kind is dict:
        return _equal_dicts(expected, _tagged(got, "d"), rules)
    if kind in (set, frozenset):
        items = _tagged(got, "s") if _tagged(got, "s") is not None else _tagged(got, "f")
        encoded = [values.encode(item) for item in expected]
        return items is not None and len(items) == len(expected) and _keys(items) == _keys(encoded)
    return got == values.encode(expected)


def truth(got: Any) -> bool:
    """Whether encoded value `got` is true in Python's sense."""
    if type(got) is dict and len(got) == 1:
        tag, content = next(iter(got.items()))
        return any(content) if tag == "c" and type(content) is list else bool(content)
    return bool(got)


def _equal_number(want: int | float, got: Any) -> bool:
    try:
        number = got if type(got) in (int, float) else int(_tagged(got, "i", str) or "", 16)
        if want == number or type(want) is int:
            return want == number
        return math.isfinite(want) and abs(want - number) <= max(CALL_ABSOLUTE, CALL_RELATIVE * abs(want))
    except (ValueError, OverflowError):  # no number; an int beyond all floats
        return False


def _tagged(got: Any, tag: str, kind: type = list) -> Any:
    """The content of {tag: content}, or None for anything else."""
    content = got.get(tag) if type(got) is dict and len(got) == 1 else None
    return content if type(content) is kind else None


def _equal_dicts(want: dict, pairs: list | None, rules: Rules) -> bool:
    if pairs is None or len(pairs) != len(want) or any(type(p) is not list or len(p) != 2 for p in pairs):
        return False
    found = {_key(key): value for key, value in pairs}
    keyed = {_key(values.encode(key)): value for key, value in want.items()}
    return found.keys() == keyed.keys() and all(equal_value(v, found[k], rules) for k, v in keyed.items())


def _keys(items: list) -> set[str]:
    return {_key(item) for item in items}


def _key(item: Any) -> str:
    """A text, equal for equal hashable values (hashes of chosen integers can be made to collide)."""
    if type(item) is float and item.is_integer():
        item = int(item)
    inner = _tagged(item, "s") or _tagged(item, "f")
    if inner is not None:
        return "f" + json.dumps(sorted(_keys(inner)))
    inner = _tagged(item, "t")
    return "t" + json.dumps([_key(i) for i in inner]) if inner is not None else json.dumps(item)
