"""A composition of ladder operations: its id, its question, its programs, its plan, its values.

Everything is a pure function of the id `ladder/<rung>/<form>/<op.k-op-...>/<phrasing digits>`, so
nothing is stored anywhere. Which compositions are worth posing is decided in problems.py.
"""

from __future__ import annotations

import dataclasses
import itertools
import random

from o1jax.problems.ladder.operations import OPERATIONS, Kind, Operation, Value
from o1jax.records import Form, InputError, Step, TestCase

ENTRY_POINT = "solve"
_NOUN: dict[Kind, str] = {"int": "an integer", "list": "a list of integers", "text": "a text"}
_READ: dict[Kind, str] = {"int": "int(input())", "list": "list(map(int, input().split()))", "text": "input()"}
_STDIN_PHRASES = ("Read {noun}.", "The input is {noun}.", "You get {noun} on one line.")
_CALL_PHRASES = ("Write solve(x) for {noun}.", "solve(x) gets {noun}.", "Define solve(x), x is {noun}.")


@dataclasses.dataclass(frozen=True)
class Composition:
    """What an id spells out."""

    form: Form  # stdin or call
    steps: tuple[tuple[Operation, int], ...]  # each with its constant, 0 where it has none
    phrasing: tuple[int, ...]  # indices of phrases: of the sentence on input, then one an operation

    @property
    def id(self) -> str:
        ops = "-".join(f"{op.name}.{k}" if op.constants else op.name for op, k in self.steps)
        return f"ladder/{len(self.steps)}/{self.form}/{ops}/{''.join(map(str, self.phrasing))}"

    @property
    def takes(self) -> Kind:
        return self.steps[0][0].takes

    @property
    def gives(self) -> Kind:
        return self.steps[-1][0].gives

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(op.name for op, _ in self.steps)


def composition_of(problem_id: str) -> Composition:
    """The composition that a ladder id spells out; raises InputError for any other id."""
    try:
        ladder, rung, form, ops, digits = problem_id.split("/")
        steps = tuple(
            (OPERATIONS[name], int(k or 0)) for name, _, k in (o.partition(".") for o in ops.split("-"))
        )
        composition = Composition(form, steps, tuple(map(int, digits)))
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{problem_id!r} is not a ladder id (ladder/2/call/above.3-total/012): {error}"
        ) from error
    # The id is spelled again: "add.03" or a constant of an operation that takes none would parse too.
    is_spelled_so = ladder == "ladder" and composition.id == problem_id
    if not is_spelled_so or form not in ("stdin", "call") or not _fits(composition):
        raise InputError(f"{problem_id!r} is not a ladder id: its parts do not fit together")
    return composition


def _fits(composition: Composition) -> bool:
    """Whether kinds, constants and phrases are such as the operations have."""
    steps, phrasing = composition.steps, composition.phrasing
    phrases = [len(_STDIN_PHRASES), *(len(op.phrases) for op, _ in steps)]
    return (
        all(a.gives == b.takes for (a, _), (b, _) in itertools.pairwise(steps))
        and all(k in (op.constants or (0,)) for op, k in steps)
        and len(phrasing) == len(phrases)
        and all(i < n for i, n in zip(phrasing, phrases, strict=True))
    )


def question(composition: Composition) -> str:
    """The English question: a sentence on the input, one an operation, one on the output."""
    openings = _STDIN_PHRASES if composition.form == "stdin" else _CALL_PHRASES
    sentences = [openings[composition.phrasing[0]].format(noun=_NOUN[composition.takes])]
    for (op, k), index in zip(composition.steps, composition.phrasing[1:], strict=True):
        sentences.append(op.phrases[index].format(k=k))
    verb = "Print" if composition.form == "stdin" else "Return"
    in_line = " in one line" if composition.form == "stdin" and composition.gives == "list" else ""
    return " ".join([*sentences, f"{verb} the result{in_line}."])


def programs(composition: Composition) -> tuple[str, str]:
    """Two programs for one problem: by expressions, and by explicit statements."""
    short = [f"x = {op.expression.format(k=k)}" for op, k in composition.steps]
    long = [line for op, k in composition.steps for line in op.loop.format(k=k).split("\n")]
    first, last, between = f"def {ENTRY_POINT}(x):", "return x", "\n    "
    if composition.form == "stdin":
        first, between = f"x = {_READ[composition.takes]}", "\n"
        last = "print(*x)" if composition.gives == "list" else "print(x)"
    return between.join([first, *short, last]) + "\n", between.join([first, *long, last]) + "\n"


def reasoning(composition: Composition) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """A brief and a detailed chain of the actions 1, 2, 3, both ending in the first program.

    Action 1 names the operations in order, action 2 says how each is done, action 3 is the code.
    """
    show = "print" if composition.form == "stdin" else "return"
    named = [f"{op.name} {k}" if op.constants else op.name for op, k in composition.steps]
    hows = [op.how.format(k=k) for op, k in composition.steps]
    kinds = [f"{op.takes} to {op.gives}" for op, _ in composition.steps]
    code = Step(3, programs(composition)[0])
    brief = (Step(1, ", ".join([composition.takes, *named, show])), Step(2, "; ".join(hows)), code)
    structure = "\n".join([f"x is {composition.takes}", *named, f"{show} {composition.gives}"])
    refined = "\n".join(f"{n}: {kind}, {how}" for n, kind, how in zip(named, kinds, hows, strict=True))
    return brief, (Step(1, structure), Step(2, refined), code)


def sample_value(kind: Kind, rng: random.Random, *, small: bool = False) -> Value:
    """A value: an integer in -9..20, 1 to 6 of them with repeats, or 2 to 8 lower-case letters. A small one,
    that a small model can work on by hand: a digit, 1 to 4 of them, or 2 to 5 letters."""
    if kind == "int":
        return rng.randint(-9, 9 if small else 20)
    if kind == "text":
        letters = rng.sample("bcdfghlmnprstwz", 3 if small else 4) + list("aeiou")
        return "".join(rng.choice(letters) for _ in range(rng.randint(2, 5 if small else 8)))
    length, values = rng.randint(1, 4 if small else 6), []
    for _ in range(length):
        if small:
            values.append(rng.randint(-9 if rng.random() < 0.2 else 0, 9))
        else:
            values.append(rng.choice(values) if values and rng.random() < 0.2 else rng.randint(-9, 20))
    return values


def case_of(composition: Composition, value: Value, output: Value) -> TestCase:
    """A test: for stdin the line that is read and what print writes, for a call the literals of the
    arguments and of the value."""
    if composition.form == "call":
        return TestCase(repr([value]), repr(output))
    return TestCase(*(f"{' '.join(map(str, v)) if isinstance(v, list) else v}\n" for v in (value, output)))
