"""The ladder's operations on text. Nothing composes them here."""

from __future__ import annotations

from o1jax.problems.ladder_operation import Operation


def _shifted(x: str, k: int) -> str:
    return "".join(chr((ord(c) - 97 + k) % 26 + 97) if "a" <= c <= "z" else c for c in x)


TEXT_OPERATIONS = (
    Operation(
        "backward", "text", "text", (),
        ("Reverse the text.", "Write the text backwards.", "Turn the text around."),
        "x from the end",
        "x[::-1]",
        'y = ""\nfor c in x:\n    y = c + y\nx = y',
        lambda x, k: x[::-1],
    ),
    Operation(
        "upper", "text", "text", (),
        ("Put the text in upper case.", "Make all letters capital.", "Write the text in capitals."),
        "capitals of x",
        "x.upper()",
        'x = "".join(c.upper() for c in x)',
        lambda x, k: x.upper(),
    ),
    Operation(
        "consonants", "text", "text", (),
        ("Remove the lower case vowels.", "Delete each of a, e, i, o, u.", "Drop all of a, e, i, o, u."),
        "c not vowel",
        '"".join(c for c in x if c not in "aeiou")',
        'for c in "aeiou":\n    x = x.replace(c, "")',
        lambda x, k: x.translate(str.maketrans("", "", "aeiou")),
    ),
    Operation(
        "double", "text", "text", (),
        ("Double each character.", "Write every character twice.", "Repeat each character once."),
        "c twice",
        '"".join(c * 2 for c in x)',
        'y = ""\nfor c in x:\n    y += c + c\nx = y',
        lambda x, k: "".join(c + c for c in x),
    ),
    Operation(
        "once", "text", "text", (),
        ("Keep each character's first occurrence.", "Remove repeated characters.",
         "Drop characters seen before."),
        "c first time",
        '"".join(dict.fromkeys(x))',
        'y = ""\nfor c in x:\n    if c not in y:\n        y += c\nx = y',
        lambda x, k: "".join(c for i, c in enumerate(x) if c not in x[:i]),
    ),
    Operation(
        "shift", "text", "text", (1, 2, 3, 4, 5),
        ("Shift a to z by {k}, wrapping around.", "Move each of a to z on by {k}, z to a.",
         "Rotate the letters a to z by {k}."),
        "a to z on {k}",
        '"".join(chr((ord(c) - 97 + {k}) % 26 + 97) if c.islower() else c for c in x)',
        'y = ""\nfor c in x:\n    if c.islower():\n        c = chr((ord(c) - 97 + {k}) % 26 + 97)\n'
        "    y += c\nx = y",
        _shifted,
    ),
    Operation(
        "head", "text", "text", (2, 3, 4, 5),
        ("Keep the first {k} characters.", "Cut the text after {k} characters.",
         "Take {k} characters from the start."),
        "x to {k}",
        "x[:{k}]",
        'y = ""\nfor c in x:\n    if len(y) < {k}:\n        y += c\nx = y',
        lambda x, k: x[:k],
    ),
    Operation(
        "mirror", "text", "text", (),
        ("Append the text reversed.", "Add its own reverse at the end.", "Put its mirror image behind it."),
        "x then reverse",
        "x + x[::-1]",
        "for c in x[::-1]:\n    x += c",
        lambda x, k: x + x[::-1],
    ),
    Operation(
        "length", "text", "int", (),
        ("Count the characters.", "Take the length of the text.", "How many characters are there?"),
        "length of x",
        "len(x)",
        "y = 0\nfor c in x:\n    y += 1\nx = y",
        lambda x, k: len(x),
    ),
    Operation(
        "vowels", "text", "int", (),
        ("Count the lower case vowels.", "How many of a, e, i, o, u are there?",
         "Take the number of a, e, i, o, u."),
        "count vowel",
        'sum(c in "aeiou" for c in x)',
        'y = 0\nfor c in "aeiou":\n    y += x.count(c)\nx = y',
        lambda x, k: sum(map(x.count, "aeiou")),
    ),
    Operation(
        "counts", "text", "list", (),
        ("List how often each character occurs.", "Turn each character into its count.",
         "For each character, list its count."),
        "count of c",
        "[x.count(c) for c in x]",
        "y = []\nfor c in x:\n    y.append(sum(c == d for d in x))\nx = y",
        lambda x, k: [x.count(c) for c in x],
    ),
)  # fmt: skip
