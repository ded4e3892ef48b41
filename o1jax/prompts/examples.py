"""Worked examples for the pseudocode prompt, written for this project: (task, steps).

They show the form of the three actions on both forms of problem. Rendering is in pseudocode.py.
"""

from __future__ import annotations

from o1jax.records import Step

_FERRY_TASK = """\
A ferry carries at most `c` kilograms. Vehicles wait in a queue and drive on in order; when the next \
one no longer fits, the ferry leaves and comes back empty. The first line holds `n` and `c`, the \
second line the `n` weights, none above `c`. Print the number of trips.

The program reads standard input and prints to standard output."""

_FERRY_STEPS = (
    Step(
        1,
        """\
read n, c and the list of weights
trips, load = start values
for each weight in order:
    decide whether it still fits
    if not: start another trip
print trips""",
    ),
    Step(
        2,
        """\
Refine the loop. With at least one vehicle there is at least one trip.
trips = 1 if there are vehicles else 0; load = 0
for w in weights:
    if load + w > c:
        trips = trips + 1
        load = 0
    load = load + w""",
    ),
    Step(
        3,
        """\
def main():
    n, c = map(int, input().split())
    weights = list(map(int, input().split())) if n else []
    trips = 1 if weights else 0
    load = 0
    for w in weights:
        if load + w > c:
            trips += 1
            load = 0
        load += w
    print(trips)


main()
""",
    ),
)

_SHELF_TASK = """\
A library writes a shelf as a text such as "aabccc", one letter a book. Shorten it: each run of equal \
letters becomes the letter followed by the length of the run, but a run of one stays a single letter. \
"aabccc" gives "a2bc3".

Write a function named `shorten` and return the result from it."""

_SHELF_STEPS = (
    Step(
        1,
        """\
shorten(shelf):
    split shelf into runs of equal letters
    write each run
    join what was written""",
    ),
    Step(
        2,
        """\
Refine the split: keep a list of [letter, length].
for letter in shelf:
    if the last run has this letter: add 1 to its length
    else: append [letter, 1]""",
    ),
    Step(
        2,
        """\
Refine the writing of a run.
letter alone if length == 1, else letter + str(length)""",
    ),
    Step(
        3,
        """\
def shorten(shelf):
    runs = []
    for letter in shelf:
        if runs and runs[-1][0] == letter:
            runs[-1][1] += 1
        else:
            runs.append([letter, 1])
    return "".join(letter if length == 1 else letter + str(length) for letter, length in runs)
""",
    ),
)

EXAMPLES: tuple[tuple[str, tuple[Step, ...]], ...] = (
    (_FERRY_TASK, _FERRY_STEPS),
    (_SHELF_TASK, _SHELF_STEPS),
)
