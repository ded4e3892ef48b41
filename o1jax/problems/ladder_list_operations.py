"""The ladder's operations on a list of integers. Nothing composes them here."""

from __future__ import annotations

import itertools

from o1jax.problems.ladder_operation import Operation

SMALL = tuple(range(2, 10))

LIST_TO_LIST_OPERATIONS = (
    Operation(
        "above", "list", "list", (0, 1, 2, 3, 4, 5, 6, 7),
        ("Keep the numbers above {k}.", "Drop every number that is {k} or less.",
         "Leave only numbers greater than {k}."),
        "v > {k}",
        "[v for v in x if v > {k}]",
        "y = []\nfor v in x:\n    if v > {k}:\n        y.append(v)\nx = y",
        lambda x, k: [v for v in x if v > k],
    ),
    Operation(
        "evens", "list", "list", (),
        ("Keep the even numbers.", "Drop the odd numbers.", "Leave only even numbers."),
        "v even",
        "[v for v in x if v % 2 == 0]",
        "y = []\nfor v in x:\n    if v % 2 == 0:\n        y.append(v)\nx = y",
        lambda x, k: [v for v in x if not v & 1],
    ),
    Operation(
        "odds", "list", "list", (),
        ("Keep the odd numbers.", "Drop the even numbers.", "Leave only odd numbers."),
        "v odd",
        "[v for v in x if v % 2 == 1]",
        "y = []\nfor v in x:\n    if v % 2 == 1:\n        y.append(v)\nx = y",
        lambda x, k: [v for v in x if v & 1],
    ),
    Operation(
        "raise", "list", "list", SMALL,
        ("Add {k} to every number.", "Increase each number by {k}.", "Make all numbers {k} larger."),
        "v plus {k}",
        "[v + {k} for v in x]",
        "y = []\nfor v in x:\n    y.append(v + {k})\nx = y",
        lambda x, k: [v + k for v in x],
    ),
    Operation(
        "scale", "list", "list", (2, 3, 4, 5),
        ("Multiply every number by {k}.", "Scale each number by {k}.", "Take {k} times every number."),
        "v by {k}",
        "[v * {k} for v in x]",
        "y = []\nfor v in x:\n    y.append(v * {k})\nx = y",
        lambda x, k: [v * k for v in x],
    ),
    Operation(
        "squares", "list", "list", (),
        ("Square every number.", "Multiply each number by itself.", "Replace all numbers by their squares."),
        "v by v",
        "[v * v for v in x]",
        "y = []\nfor v in x:\n    y.append(v * v)\nx = y",
        lambda x, k: [v * v for v in x],
    ),
    Operation(
        "ascend", "list", "list", (),
        ("Sort the list.", "Order the numbers from low to high.", "Put the smallest numbers first."),
        "order v",
        "sorted(x)",
        "y = []\nfor v in x:\n    y.append(v)\ny.sort()\nx = y",
        lambda x, k: sorted(x),
    ),
    Operation(
        "descend", "list", "list", (),
        ("Sort the list in descending order.", "Order the numbers from high to low.",
         "Put the largest numbers first."),
        "order v down",
        "sorted(x, reverse=True)",
        "y = []\nfor v in sorted(x):\n    y = [v] + y\nx = y",
        lambda x, k: sorted(x, reverse=True),
    ),
    Operation(
        "flip", "list", "list", (),
        ("Reverse the list.", "Turn the list around.", "Take the numbers in reverse order."),
        "x from the end",
        "x[::-1]",
        "y = []\nfor v in x:\n    y = [v] + y\nx = y",
        lambda x, k: x[::-1],
    ),
    Operation(
        "unique", "list", "list", (),
        ("Remove repeated numbers.", "Keep each number's first occurrence.", "Drop numbers seen before."),
        "v first time",
        "list(dict.fromkeys(x))",
        "y = []\nfor v in x:\n    if v not in y:\n        y.append(v)\nx = y",
        lambda x, k: [v for i, v in enumerate(x) if v not in x[:i]],
    ),
    Operation(
        "take", "list", "list", (2, 3, 4),
        ("Keep the first {k} numbers.", "Cut the list after {k} numbers.", "Take {k} items from the front."),
        "x to {k}",
        "x[:{k}]",
        "y = []\nfor v in x:\n    if len(y) < {k}:\n        y.append(v)\nx = y",
        lambda x, k: x[:k],
    ),
    Operation(
        "running", "list", "list", (),
        ("Take running sums.", "Replace each number by the sum so far.", "Make the list of prefix sums."),
        "sum so far",
        "[sum(x[:i + 1]) for i in range(len(x))]",
        "y = []\nn = 0\nfor v in x:\n    n += v\n    y.append(n)\nx = y",
        lambda x, k: list(itertools.accumulate(x)),
    ),
    Operation(
        "gaps", "list", "list", (),
        ("Take each number minus the one before.", "List the differences of neighbours.",
         "List how much each number grows to the next."),
        "next minus v",
        "[b - a for a, b in zip(x, x[1:])]",
        "y = []\nfor i in range(1, len(x)):\n    y.append(x[i] - x[i - 1])\nx = y",
        lambda x, k: [b - a for a, b in itertools.pairwise(x)],
    ),
)  # fmt: skip

LIST_TO_OTHER_OPERATIONS = (
    Operation(
        "total", "list", "int", (),
        ("Add up the numbers.", "Take the sum of the list.", "Sum all numbers."),
        "sum of x",
        "sum(x)",
        "y = 0\nfor v in x:\n    y += v\nx = y",
        lambda x, k: sum(x),
    ),
    Operation(
        "largest", "list", "int", (),
        ("Take the largest number, 0 if none.", "Find the maximum, or 0.", "Pick the biggest, 0 if none."),
        "max of x or 0",
        "max(x, default=0)",
        "x = sorted(x)[-1] if x else 0",
        lambda x, k: max(x, default=0),
    ),
    Operation(
        "smallest", "list", "int", (),
        ("Take the smallest number, 0 if none.", "Find the minimum, or 0.", "Pick the least one, 0 if none."),
        "min of x or 0",
        "min(x, default=0)",
        "x = sorted(x)[0] if x else 0",
        lambda x, k: min(x, default=0),
    ),
    Operation(
        "count", "list", "int", (),
        ("Count the numbers.", "Take the length of the list.", "How many numbers are there?"),
        "length of x",
        "len(x)",
        "y = 0\nfor v in x:\n    y += 1\nx = y",
        lambda x, k: len(x),
    ),
    Operation(
        "dashes", "list", "text", (),
        ("Join the numbers with dashes.", "Write the list with dashes between.", "Put - between numbers."),
        "join with -",
        '"-".join(map(str, x))',
        'y = ""\nfor v in x:\n    y += "-" + str(v)\nx = y[1:]',
        lambda x, k: "-".join(map(str, x)),
    ),
    Operation(
        "letters", "list", "text", (),
        ("Turn each number into a letter, 0 is a, mod 26.", "Write the numbers mod 26 as letters from a.",
         "Make text: the letter at each number mod 26."),
        "letter of v mod 26",
        '"".join(chr(97 + v % 26) for v in x)',
        'y = ""\nfor v in x:\n    y += "abcdefghijklmnopqrstuvwxyz"[v % 26]\nx = y',
        lambda x, k: "".join(chr(97 + v % 26) for v in x),
    ),
)  # fmt: skip
