"""Whether an answer is the expected one: standard output against text, encoded values against Python's.

Pure functions of plain data, run in the supervisor only. No candidate object gets here.
"""

from __future__ import annotations

import decimal
import hashlib
import json
import math
import re
from typing import Any, NamedTuple

from o1jax.records import Status
from o1jax.sandbox.jail import values

STDIN_TOLERANCE = 1e-6  # absolute or relative
CALL_RELATIVE, CALL_ABSOLUTE = 1e-7, 1e-6
BLANKS = " \t\n\r\v\f"  # str.split() also splits at U+001F and at no-break spaces, which a program must print
TOKEN = re.compile(f"[^{BLANKS}]+")
# Each of these matches in linear time: the answer's tokens are as long as its author likes.
INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
FLOAT = re.compile(r"[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][+-]?[0-9]+)?", re.ASCII)
NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
ZEROS = re.compile(r"[+-]?(0*)(?=[0-9])", re.ASCII)  # before the first digit that is not one of them
# Exact enough for the tolerance, and of exponents that no float has.
WIDE = decimal.Context(prec=40, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN, traps=[])


class Rules(NamedTuple):
    """What counts as equal among returned values beside equality itself."""

    tuple_is_list: bool = False  # for values that came through JSON
    bool_is_int: bool = False  # Python's own ==, which an assert statement means
    exact: bool = False  # floats too are compared by ==, without a tolerance


PYTHON = Rules(bool_is_int=True, exact=True)


def compare_stdout(expected: str, output: bytes) -> tuple[Status, str]:
    """AC, PE (white space differs only) or WA, with the first difference.

    Strict UTF-8; line ends and trailing blanks do not count. Then token by token, which ASCII white space
    parts: integers digit by digit, leading zeros too, of any size; 1e-6 absolute or relative only where the
    expected token is written as a float.
    """
    try:
        text = output.decode("utf-8")
    except UnicodeDecodeError as error:
        return Status.WA, f"output is not UTF-8 at byte {error.start}"
    want_lines, got_lines = lines(expected), lines(text)
    if want_lines == got_lines:
        return Status.AC, ""
    want, got = TOKEN.findall(expected), TOKEN.findall(text)
    for index, (a, b) in enumerate(zip(want, got, strict=False)):
        if not equal_token(a, b):
            return Status.WA, f"token {index + 1}: expected {_short(a)}, got {_short(b)}"
    if len(want) != len(got):
        return Status.WA, f"expected {len(want)} tokens, got {len(got)}"
    same_layout = [*map(_n_tokens, want_lines)] == [*map(_n_tokens, got_lines)]
    return (Status.AC, "") if same_layout and want != got else (Status.PE, "white space differs")


def lines(text: str) -> list[str]:
    """The lines, without the blanks that end each and the empty ones that end the text."""
    found = [line.rstrip(BLANKS) for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    while found and not found[-1]:
        found.pop()
    return found


def _n_tokens(line: str) -> int:
    return len(TOKEN.findall(line))


def _short(token: str) -> str:
    return repr(token if len(token) <= 40 else token[:37] + "...")


def equal_token(want: str, got: str) -> bool:
    """One token of the expected output against one of the answer."""
    if want == got:
        return True
    if INTEGER.fullmatch(want):
        return INTEGER.fullmatch(got) is not None and _signed(want) == _signed(got)
    if not (FLOAT.fullmatch(want) and NUMBER.fullmatch(got)) or _zeros(want) != _zeros(got):
        return False
    x, y = float(want), float(got)
    if math.isinf(x) or math.isinf(y):  # as floats, all numbers that are too large would be one
        x, y = map(WIDE.create_decimal, (want, got))
        room = WIDE.multiply(decimal.Decimal(STDIN_TOLERANCE), WIDE.abs(x))
        return x.is_finite() and y.is_finite() and WIDE.abs(WIDE.subtract(x, y)) <= room
    return x == y or abs(x - y) <= STDIN_TOLERANCE * max(1.0, abs(x))


def _signed(token: str) -> tuple[bool, str]:
    """(negative, digits) of an integer token: of any length, while int() refuses more than 4,300 digits."""
    digits = token.lstrip("+-")
    return token[0] == "-" and digits.strip("0") != "", digits


def _zeros(token: str) -> int:
    """How many zeros more than a number needs a token begins with."""
    found = ZEROS.match(token)
    return len(found[1]) if found else 0


def meets(kind: str, want: Any, got: Any) -> bool:
    """Whether encoded value `got` is what an assertion wants of it (assertions.Rewritten.expected)."""
    if kind == "truth":
        return truth(got) is want
    if kind == "identical" and (want is None or type(want) in (bool, int, float, str)):
        return type(got) is type(want) and got == want
    return equal_value(want, got, PYTHON)


def equal_value(expected: Any, got: Any, rules: Rules) -> bool:
    """Whether encoded value `got` (values.encode's form, from the child, so of any shape) is `expected`.

    Where the expected number is a float, and not `rules.exact`: 1e-7 relative or 1e-6 absolute.
    """
    kind = type(expected)
    if kind in (bool, int, float, complex):
        return _equal_number(expected, _number(got), rules)
    if expected is None or kind is str:
        return type(got) is kind and got == expected
    if kind in (list, tuple):
        items = got if type(got) is list and (kind is list or rules.tuple_is_list) else None
        if items is None and (kind is tuple or rules.tuple_is_list):
            items = _tagged(got, "t")
        if items is None or len(items) != len(expected):
            return False
        return all(equal_value(a, b, rules) for a, b in zip(expected, items, strict=True))
    if kind is dict:
        return _equal_dicts(expected, got, rules)
    if kind in (set, frozenset):
        items = _set_items(got)
        encoded = [values.encode(item) for item in expected]
        return (
            items is not None and len(items) == len(expected) and _keys(items, rules) == _keys(encoded, rules)
        )
    return got == values.encode(expected)


def truth(got: Any) -> bool:
    """Whether encoded value `got` is true in Python's sense."""
    if type(got) is dict and len(got) == 1:
        tag, content = next(iter(got.items()))
        return any(content) if tag == "c" and type(content) is list else bool(content)
    return bool(got)


def _number(got: Any) -> bool | int | float | complex | None:
    """The number that is encoded, or None for anything else."""
    if type(got) in (bool, int, float):
        return got
    digits, parts = _tagged(got, "i", str), _tagged(got, "c")
    try:
        if digits is not None:
            return int(digits, 16)
    except ValueError:
        return None
    if parts is not None and len(parts) == 2 and {type(part) for part in parts} <= {int, float}:
        return complex(*parts)
    return None


def _equal_number(want: bool | int | float | complex, number: Any, rules: Rules) -> bool:
    if number is None or not rules.bool_is_int and (type(want) is bool) != (type(number) is bool):
        return False
    if want == number:
        return True
    if rules.exact or type(want) is not float or type(number) is complex or not math.isfinite(want):
        return False
    try:
        return abs(want - number) <= max(CALL_ABSOLUTE, CALL_RELATIVE * abs(want))
    except OverflowError:  # an int beyond all floats
        return False


def _tagged(got: Any, tag: str, kind: type = list) -> Any:
    """The content of {tag: content}, or None for anything else."""
    content = got.get(tag) if type(got) is dict and len(got) == 1 else None
    return content if type(content) is kind else None


def _set_items(got: Any) -> list | None:
    items = _tagged(got, "s")
    return _tagged(got, "f") if items is None else items


def _equal_dicts(want: dict, got: Any, rules: Rules) -> bool:
    pairs = next((found for tag in values.DICTS if (found := _tagged(got, tag)) is not None), None)
    if pairs is None or len(pairs) != len(want) or any(type(p) is not list or len(p) != 2 for p in pairs):
        return False
    found = {_key(key, rules): value for key, value in pairs}
    keyed = {_key(values.encode(key), rules): value for key, value in want.items()}
    return found.keys() == keyed.keys() and all(equal_value(v, found[k], rules) for k, v in keyed.items())


def _keys(items: list, rules: Rules) -> set[str]:
    return {_key(item, rules) for item in items}


def _key(item: Any, rules: Rules) -> str:
    """A text, equal for equal hashable values (hashes of chosen integers can be made to collide)."""
    number = _number(item)
    if number is not None and (rules.bool_is_int or type(number) is not bool):
        # NaN equals nothing, but an object is found in a set that holds that very object.
        return _number_key(number) if number == number else f"nan {id(item)}"
    inner, tag = _set_items(item), "f"
    if inner is not None:
        keys = sorted(_keys(inner, rules))
    elif (inner := _tagged(item, "t")) is not None:
        keys, tag = [_key(i, rules) for i in inner], "t"
    else:
        return json.dumps(item)
    # A digest, for text in text in text doubles its quotes at every level.
    return tag + hashlib.sha256(json.dumps(keys).encode()).hexdigest()


def _number_key(number: int | float | complex) -> str:
    if type(number) is complex:
        real, imaginary = _number_key(number.real), _number_key(number.imag)
        return f"{real} {imaginary}" if number.imag else real
    if type(number) is float and not number.is_integer():
        return repr(number)
    return hex(int(number))
