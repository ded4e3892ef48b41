"""The operations of the ladder: how each is asked for, planned, written and computed.

How operations compose into a problem is in composition.py.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Literal

Kind = Literal["int", "list", "text"]
Value = int | list[int] | str
SMALL = tuple(range(2, 10))


@dataclasses.dataclass(frozen=True)
class Operation:
    """One typed operation on a single variable `x`, with at most one constant, written `{k}` in its texts."""

    name: str  # what a plan (action 1) calls it
    takes: Kind
    gives: Kind
    constants: tuple[int, ...]  # the values that k may have, none where there is no k
    phrases: tuple[str, ...]  # English sentences that ask for it; no two operations share one
    how: str  # what a plan's refinement (action 2) says of it, close to code
    expression: str  # its value, in Python
    loop: str  # statements that do the same to x, so that a problem has a second, different program
    apply: Callable[[Value, int], Value]  # apply(x, k): the semantics, total; never changes its argument


# Models were trained on these phrases, names and programs, ids of problems spell the names and the numbers of
# phrases, and the order of the table decides what is drawn: any change here changes every figure.
_TABLE = (
    # On one integer.
    Operation(
        "add", "int", "int", SMALL, how="x plus {k}", expression="x + {k}",
        phrases=("Add {k} to the number.", "Increase the number by {k}.", "Make the number {k} larger."),
        loop="x += {k}", apply=lambda x, k: x + k,
    ),
    Operation(
        "times", "int", "int", (2, 3, 4, 5), how="x by {k}", expression="x * {k}",
        phrases=("Multiply the number by {k}.", "Take {k} times the number.", "Scale the number by {k}."),
        loop="y = 0\nfor _ in range({k}):\n    y += x\nx = y", apply=lambda x, k: x * k,
    ),
    Operation(
        "square", "int", "int", (), how="x by x", expression="x * x",
        phrases=("Square the number.", "Multiply the number by itself.", "Take the square of the number."),
        loop="x = pow(x, 2)", apply=lambda x, k: x * x,
    ),
    Operation(
        "mod", "int", "int", (3, 4, 5, 6, 7, 8, 9), how="x mod {k}", expression="x % {k}",
        phrases=("Take the number modulo {k}.", "Take the remainder by {k}.", "Reduce the number mod {k}."),
        loop="x = divmod(x, {k})[1]", apply=lambda x, k: x % k,
    ),
    Operation(
        "half", "int", "int", (), how="x over 2", expression="x // 2",
        phrases=("Halve the number, rounding down.", "Divide by two, rounding down.",
                 "Floor the number over 2."),
        loop="x = (x - x % 2) // 2", apply=lambda x, k: x // 2,
    ),
    Operation(
        "atleast", "int", "int", (3, 4, 5, 6, 7, 8), how="x or {k} if low", expression="max(x, {k})",
        phrases=("Raise the number to {k} if it is lower.", "Take the larger of it and {k}.",
                 "If it is below {k}, make it {k}."),
        loop="if x < {k}:\n    x = {k}", apply=lambda x, k: max(x, k),
    ),
    Operation(
        "digitsum", "int", "int", (), how="sum digits of x", expression="sum(int(c) for c in str(abs(x)))",
        phrases=("Add up its digits, ignoring the sign.", "Take the sum of the digits without sign.",
                 "Sum the digits of its absolute value."),
        loop="y = 0\nx = abs(x)\nwhile x:\n    y += x % 10\n    x //= 10\nx = y",
        apply=lambda x, k: sum(map(int, str(abs(x)))),
    ),
    Operation(
        "digits", "int", "list", (), how="digits of x", expression="[int(c) for c in str(abs(x))]",
        phrases=("List its digits, ignoring the sign.", "Split it into digits without sign.",
                 "Make a list of the digits of its absolute value."),
        loop="y = []\nfor c in str(abs(x)):\n    y.append(int(c))\nx = y",
        apply=lambda x, k: list(map(int, str(abs(x)))),
    ),
    Operation(
        "upto", "int", "list", (), how="1 to x", expression="list(range(1, x + 1))",
        phrases=("List the numbers from 1 up to it.", "Count from 1 to the number in a list.",
                 "Make the list 1, 2 and so on to the number."),
        loop="y = []\nv = 1\nwhile v <= x:\n    y.append(v)\n    v += 1\nx = y",
        apply=lambda x, k: list(range(1, x + 1)),
    ),
    Operation(
        "binary", "int", "text", (), how="bits of x", expression='format(abs(x), "b")',
        phrases=("Write it in binary, ignoring the sign.", "Write its absolute value in base 2.",
                 "Turn it into binary digits without sign."),
        loop="x = bin(abs(x))[2:]", apply=lambda x, k: bin(abs(x))[2:],
    ),
    # On a list of integers, to a list.
    Operation(
        "above", "list", "list", (0, 1, 2, 3, 4, 5, 6, 7), how="v > {k}",
        expression="[v for v in x if v > {k}]",
        phrases=("Keep the numbers above {k}.", "Drop every number that is {k} or less.",
                 "Leave only numbers greater than {k}."),
        loop="y = []\nfor v in x:\n    if v > {k}:\n        y.append(v)\nx = y",
        apply=lambda x, k: [v for v in x if v > k],
    ),
    Operation(
        "evens", "list", "list", (), how="v even", expression="[v for v in x if v % 2 == 0]",
        phrases=("Keep the even numbers.", "Drop the odd numbers.", "Leave only even numbers."),
        loop="y = []\nfor v in x:\n    if v % 2 == 0:\n        y.append(v)\nx = y",
        apply=lambda x, k: [v for v in x if not v & 1],
    ),
    Operation(
        "odds", "list", "list", (), how="v odd", expression="[v for v in x if v % 2 == 1]",
        phrases=("Keep the odd numbers.", "Drop the even numbers.", "Leave only odd numbers."),
        loop="y = []\nfor v in x:\n    if v % 2 == 1:\n        y.append(v)\nx = y",
        apply=lambda x, k: [v for v in x if v & 1],
    ),
    Operation(
        "raise", "list", "list", SMALL, how="v plus {k}", expression="[v + {k} for v in x]",
        phrases=("Add {k} to every number.", "Increase each number by {k}.", "Make all numbers {k} larger."),
        loop="y = []\nfor v in x:\n    y.append(v + {k})\nx = y", apply=lambda x, k: [v + k for v in x],
    ),
    Operation(
        "scale", "list", "list", (2, 3, 4, 5), how="v by {k}", expression="[v * {k} for v in x]",
        phrases=("Multiply every number by {k}.", "Scale each number by {k}.",
                 "Take {k} times every number."),
        loop="y = []\nfor v in x:\n    y.append(v * {k})\nx = y", apply=lambda x, k: [v * k for v in x],
    ),
    Operation(
        "squares", "list", "list", (), how="v by v", expression="[v * v for v in x]",
        phrases=("Square every number.", "Multiply each number by itself.",
                 "Replace all numbers by their squares."),
        loop="y = []\nfor v in x:\n    y.append(v * v)\nx = y", apply=lambda x, k: [v * v for v in x],
    ),
    Operation(
        "ascend", "list", "list", (), how="order v", expression="sorted(x)",
        phrases=("Sort the list.", "Order the numbers from low to high.", "Put the smallest numbers first."),
        loop="y = []\nfor v in x:\n    y.append(v)\ny.sort()\nx = y", apply=lambda x, k: sorted(x),
    ),
    Operation(
        "descend", "list", "list", (), how="order v down", expression="sorted(x, reverse=True)",
        phrases=("Sort the list in descending order.", "Order the numbers from high to low.",
                 "Put the largest numbers first."),
        loop="y = []\nfor v in sorted(x):\n    y = [v] + y\nx = y",
        apply=lambda x, k: sorted(x, reverse=True),
    ),
    Operation(
        "flip", "list", "list", (), how="x from the end", expression="x[::-1]",
        phrases=("Reverse the list.", "Turn the list around.", "Take the numbers in reverse order."),
        loop="y = []\nfor v in x:\n    y = [v] + y\nx = y", apply=lambda x, k: x[::-1],
    ),
    Operation(
        "unique", "list", "list", (), how="v first time", expression="list(dict.fromkeys(x))",
        phrases=("Remove repeated numbers.", "Keep each number's first occurrence.",
                 "Drop numbers seen before."),
        loop="y = []\nfor v in x:\n    if v not in y:\n        y.append(v)\nx = y",
        apply=lambda x, k: [v for i, v in enumerate(x) if v not in x[:i]],
    ),
    Operation(
        "take", "list", "list", (2, 3, 4), how="x to {k}", expression="x[:{k}]",
        phrases=("Keep the first {k} numbers.", "Cut the list after {k} numbers.",
                 "Take {k} items from the front."),
        loop="y = []\nfor v in x:\n    if len(y) < {k}:\n        y.append(v)\nx = y",
        apply=lambda x, k: x[:k],
    ),
    Operation(
        "running", "list", "list", (), how="sum so far", expression="[sum(x[:i + 1]) for i in range(len(x))]",
        phrases=("Take running sums.", "Replace each number by the sum so far.",
                 "Make the list of prefix sums."),
        loop="y = []\nn = 0\nfor v in x:\n    n += v\n    y.append(n)\nx = y",
        apply=lambda x, k: list(itertools.accumulate(x)),
    ),
    Operation(
        "gaps", "list", "list", (), how="next minus v", expression="[b - a for a, b in zip(x, x[1:])]",
        phrases=("Take each number minus the one before.", "List the differences of neighbours.",
                 "List how much each number grows to the next."),
        loop="y = []\nfor i in range(1, len(x)):\n    y.append(x[i] - x[i - 1])\nx = y",
        apply=lambda x, k: [b - a for a, b in itertools.pairwise(x)],
    ),
    # On a list of integers, to an integer or a text.
    Operation(
        "total", "list", "int", (), how="sum of x", expression="sum(x)",
        phrases=("Add up the numbers.", "Take the sum of the list.", "Sum all numbers."),
        loop="y = 0\nfor v in x:\n    y += v\nx = y", apply=lambda x, k: sum(x),
    ),
    Operation(
        "largest", "list", "int", (), how="max of x or 0", expression="max(x, default=0)",
        phrases=("Take the largest number, 0 if none.", "Find the maximum, or 0.",
                 "Pick the biggest, 0 if none."),
        loop="x = sorted(x)[-1] if x else 0", apply=lambda x, k: max(x, default=0),
    ),
    Operation(
        "smallest", "list", "int", (), how="min of x or 0", expression="min(x, default=0)",
        phrases=("Take the smallest number, 0 if none.", "Find the minimum, or 0.",
                 "Pick the least one, 0 if none."),
        loop="x = sorted(x)[0] if x else 0", apply=lambda x, k: min(x, default=0),
    ),
    Operation(
        "count", "list", "int", (), how="length of x", expression="len(x)",
        phrases=("Count the numbers.", "Take the length of the list.", "How many numbers are there?"),
        loop="y = 0\nfor v in x:\n    y += 1\nx = y", apply=lambda x, k: len(x),
    ),
    Operation(
        "dashes", "list", "text", (), how="join with -", expression='"-".join(map(str, x))',
        phrases=("Join the numbers with dashes.", "Write the list with dashes between.",
                 "Put - between numbers."),
        loop='y = ""\nfor v in x:\n    y += "-" + str(v)\nx = y[1:]',
        apply=lambda x, k: "-".join(map(str, x)),
    ),
    Operation(
        "letters", "list", "text", (), how="letter of v mod 26",
        expression='"".join(chr(97 + v % 26) for v in x)',
        phrases=("Turn each number into a letter, 0 is a, mod 26.",
                 "Write the numbers mod 26 as letters from a.",
                 "Make text: the letter at each number mod 26."),
        loop='y = ""\nfor v in x:\n    y += "abcdefghijklmnopqrstuvwxyz"[v % 26]\nx = y',
        apply=lambda x, k: "".join(chr(97 + v % 26) for v in x),
    ),
    # On a text.
    Operation(
        "backward", "text", "text", (), how="x from the end", expression="x[::-1]",
        phrases=("Reverse the text.", "Write the text backwards.", "Turn the text around."),
        loop='y = ""\nfor c in x:\n    y = c + y\nx = y', apply=lambda x, k: x[::-1],
    ),
    Operation(
        "upper", "text", "text", (), how="capitals of x", expression="x.upper()",
        phrases=("Put the text in upper case.", "Make all letters capital.", "Write the text in capitals."),
        loop='x = "".join(c.upper() for c in x)', apply=lambda x, k: x.upper(),
    ),
    Operation(
        "consonants", "text", "text", (), how="c not vowel",
        expression='"".join(c for c in x if c not in "aeiou")',
        phrases=("Remove the lower case vowels.", "Delete each of a, e, i, o, u.",
                 "Drop all of a, e, i, o, u."),
        loop='for c in "aeiou":\n    x = x.replace(c, "")',
        apply=lambda x, k: x.translate(str.maketrans("", "", "aeiou")),
    ),
    Operation(
        "double", "text", "text", (), how="c twice", expression='"".join(c * 2 for c in x)',
        phrases=("Double each character.", "Write every character twice.", "Repeat each character once."),
        loop='y = ""\nfor c in x:\n    y += c + c\nx = y', apply=lambda x, k: "".join(c + c for c in x),
    ),
    Operation(
        "once", "text", "text", (), how="c first time", expression='"".join(dict.fromkeys(x))',
        phrases=("Keep each character's first occurrence.", "Remove repeated characters.",
                 "Drop characters seen before."),
        loop='y = ""\nfor c in x:\n    if c not in y:\n        y += c\nx = y',
        apply=lambda x, k: "".join(c for i, c in enumerate(x) if c not in x[:i]),
    ),
    Operation(
        "shift", "text", "text", (1, 2, 3, 4, 5), how="a to z on {k}",
        expression='"".join(chr((ord(c) - 97 + {k}) % 26 + 97) if c.islower() else c for c in x)',
        phrases=("Shift a to z by {k}, wrapping around.", "Move each of a to z on by {k}, z to a.",
                 "Rotate the letters a to z by {k}."),
        loop='y = ""\nfor c in x:\n    if c.islower():\n        c = chr((ord(c) - 97 + {k}) % 26 + 97)\n'
        "    y += c\nx = y",
        apply=lambda x, k: "".join(chr((ord(c) - 97 + k) % 26 + 97) if "a" <= c <= "z" else c for c in x),
    ),
    Operation(
        "head", "text", "text", (2, 3, 4, 5), how="x to {k}", expression="x[:{k}]",
        phrases=("Keep the first {k} characters.", "Cut the text after {k} characters.",
                 "Take {k} characters from the start."),
        loop='y = ""\nfor c in x:\n    if len(y) < {k}:\n        y += c\nx = y', apply=lambda x, k: x[:k],
    ),
    Operation(
        "mirror", "text", "text", (), how="x then reverse", expression="x + x[::-1]",
        phrases=("Append the text reversed.", "Add its own reverse at the end.",
                 "Put its mirror image behind it."),
        loop="for c in x[::-1]:\n    x += c", apply=lambda x, k: x + x[::-1],
    ),
    Operation(
        "length", "text", "int", (), how="length of x", expression="len(x)",
        phrases=("Count the characters.", "Take the length of the text.", "How many characters are there?"),
        loop="y = 0\nfor c in x:\n    y += 1\nx = y", apply=lambda x, k: len(x),
    ),
    Operation(
        "vowels", "text", "int", (), how="count vowel", expression='sum(c in "aeiou" for c in x)',
        phrases=("Count the lower case vowels.", "How many of a, e, i, o, u are there?",
                 "Take the number of a, e, i, o, u."),
        loop='y = 0\nfor c in "aeiou":\n    y += x.count(c)\nx = y',
        apply=lambda x, k: sum(map(x.count, "aeiou")),
    ),
    Operation(
        "counts", "text", "list", (), how="count of c", expression="[x.count(c) for c in x]",
        phrases=("List how often each character occurs.", "Turn each character into its count.",
                 "For each character, list its count."),
        loop="y = []\nfor c in x:\n    y.append(sum(c == d for d in x))\nx = y",
        apply=lambda x, k: [x.count(c) for c in x],
    ),
)  # fmt: skip
OPERATIONS: dict[str, Operation] = {op.name: op for op in _TABLE}
