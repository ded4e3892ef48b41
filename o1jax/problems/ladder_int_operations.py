"""The ladder's operations on one integer. Nothing composes them here."""

from __future__ import annotations

from o1jax.problems.ladder_operation import Operation

SMALL = tuple(range(2, 10))

INT_OPERATIONS = (
    Operation(
        "add", "int", "int", SMALL,
        ("Add {k} to the number.", "Increase the number by {k}.", "Make the number {k} larger."),
        "x plus {k}",
        "x + {k}",
        "x += {k}",
        lambda x, k: x + k,
    ),
    Operation(
        "times", "int", "int", (2, 3, 4, 5),
        ("Multiply the number by {k}.", "Take {k} times the number.", "Scale the number by {k}."),
        "x by {k}",
        "x * {k}",
        "y = 0\nfor _ in range({k}):\n    y += x\nx = y",
        lambda x, k: x * k,
    ),
    Operation(
        "square", "int", "int", (),
        ("Square the number.", "Multiply the number by itself.", "Take the square of the number."),
        "x by x",
        "x * x",
        "x = pow(x, 2)",
        lambda x, k: x * x,
    ),
    Operation(
        "mod", "int", "int", (3, 4, 5, 6, 7, 8, 9),
        ("Take the number modulo {k}.", "Take the remainder by {k}.", "Reduce the number mod {k}."),
        "x mod {k}",
        "x % {k}",
        "x = divmod(x, {k})[1]",
        lambda x, k: x % k,
    ),
    Operation(
        "half", "int", "int", (),
        ("Halve the number, rounding down.", "Divide by two, rounding down.", "Floor the number over 2."),
        "x over 2",
        "x // 2",
        "x = (x - x % 2) // 2",
        lambda x, k: x // 2,
    ),
    Operation(
        "atleast", "int", "int", (3, 4, 5, 6, 7, 8),
        ("Raise the number to {k} if it is lower.", "Take the larger of it and {k}.",
         "If it is below {k}, make it {k}."),
        "x or {k} if low",
        "max(x, {k})",
        "if x < {k}:\n    x = {k}",
        lambda x, k: max(x, k),
    ),
    Operation(
        "digitsum", "int", "int", (),
        ("Add up its digits, ignoring the sign.", "Take the sum of the digits without sign.",
         "Sum the digits of its absolute value."),
        "sum digits of x",
        "sum(int(c) for c in str(abs(x)))",
        "y = 0\nx = abs(x)\nwhile x:\n    y += x % 10\n    x //= 10\nx = y",
        lambda x, k: sum(map(int, str(abs(x)))),
    ),
    Operation(
        "digits", "int", "list", (),
        ("List its digits, ignoring the sign.", "Split it into digits without sign.",
         "Make a list of the digits of its absolute value."),
        "digits of x",
        "[int(c) for c in str(abs(x))]",
        "y = []\nfor c in str(abs(x)):\n    y.append(int(c))\nx = y",
        lambda x, k: list(map(int, str(abs(x)))),
    ),
    Operation(
        "upto", "int", "list", (),
        ("List the numbers from 1 up to it.", "Count from 1 to the number in a list.",
         "Make the list 1, 2 and so on to the number."),
        "1 to x",
        "list(range(1, x + 1))",
        "y = []\nv = 1\nwhile v <= x:\n    y.append(v)\n    v += 1\nx = y",
        lambda x, k: list(range(1, x + 1)),
    ),
    Operation(
        "binary", "int", "text", (),
        ("Write it in binary, ignoring the sign.", "Write its absolute value in base 2.",
         "Turn it into binary digits without sign."),
        "bits of x",
        'format(abs(x), "b")',
        "x = bin(abs(x))[2:]",
        lambda x, k: bin(abs(x))[2:],
    ),
)  # fmt: skip
