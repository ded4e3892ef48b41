"""The ladder: small programming problems made by rule; rung k composes k operations.

A problem is a pure function of its id and split; the seed only chooses which are posed. Splits are
disjoint by composition and by behaviour (outputs on fixed probes) from rung 2 up: the hash of a
composition's names decides its split, and behaviours that another split could have are not posed.
Runs no text as code: the reference semantics are Python functions, which the tests compare with
the programs.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from typing import Literal

from o1jax.parallel.seeds import fold_seed, stable_hash
from o1jax.problems.ladder import behaviour as behaviours
from o1jax.problems.ladder import composition as compositions
from o1jax.problems.ladder.composition import Composition
from o1jax.problems.ladder.operations import OPERATIONS, Kind, Operation, Value
from o1jax.records import InputError, Problem, TestCase

Split = Literal["warm_up", "pool", "held_out"]
SPLITS: dict[Split, float] = {"warm_up": 0.3, "pool": 0.4, "held_out": 0.3}
RUNGS = (1, 2, 3, 4, 5, 6)
HIDDEN_TESTS = 10  # of a held-out problem
CANDIDATE_TESTS = 20  # drawn for a problem, of which the most telling come first
MISSES_IN_A_ROW = 20_000  # drawn in vain: then a rung counts as used up


def make_problems(split: Split, counts: Mapping[int, int], seed: int) -> list[Problem]:
    """`counts[rung]` distinct problems of each rung, in order of rung.

    From rung 2 up no two of them, and none of another split, agree on all probes; rung 1 varies
    constants, phrases and form. Raises InputError if a rung has fewer problems than asked for.
    """
    if split not in SPLITS or not set(counts) <= set(RUNGS):
        raise InputError(
            f"ladder: split {split!r}, rungs {sorted(counts)}; wanted one of {list(SPLITS)}, rungs 1-6"
        )
    problems, taken = [], set()
    for rung in sorted(counts):
        rng = random.Random(fold_seed(seed, "ladder", split, rung))
        made = misses = 0
        while made < counts[rung]:
            composition = _draw(rung, rng)
            key = _distinct_key(composition, split)
            if key is None or key in taken:
                misses += 1
                if misses == MISSES_IN_A_ROW:
                    raise InputError(
                        f"ladder: rung {rung} of {split} has about {made} problems, not {counts[rung]}"
                    )
                continue
            taken.add(key)
            problems.append(problem_of(composition.id, split))
            made, misses = made + 1, 0
    return problems


def problem_of(problem_id: str, split: Split) -> Problem:
    """The problem that an id names: with hidden tests if it is held out."""
    composition = compositions.composition_of(problem_id)
    # So few own tests let wrong programs pass, as in real sets: what generated tests are there to mend.
    shown = 1 if stable_hash(problem_id) % 4 == 0 else 2
    cases = _ordered_tests(composition)
    return Problem(
        id=problem_id,
        question=compositions.question(composition),
        form=composition.form,
        tests=cases[:shown],
        hidden_tests=cases[shown : shown + HIDDEN_TESTS] if split == "held_out" else (),
        entry_point=compositions.ENTRY_POINT if composition.form == "call" else "",
        solutions=compositions.programs(composition),
        reasoning=compositions.reasoning(composition),
        difficulty=f"rung {len(composition.steps)}",
        source="ladder",
        tags=composition.names,
    )


def generate_tests(problem_id: str, n: int, seed: int) -> list[TestCase]:
    """`n` tests with distinct inputs and the reference outputs; InputError if there are not so many."""
    composition = compositions.composition_of(problem_id)
    pairs = _pairs(composition, n, seed)
    if len(pairs) < n:
        raise InputError(f"{composition.id}: {len(pairs)} distinct inputs found, {n} asked for")
    return [compositions.case_of(composition, *pair) for pair in pairs]


def small_tests(problem_id: str, most: int, seed: int) -> list[TestCase]:
    """At most `most` tests with distinct small inputs (single digits, short lists and texts): an integer
    has only 19 of them."""
    composition = compositions.composition_of(problem_id)
    pairs = _pairs(composition, most, seed, small=True)
    return [compositions.case_of(composition, *pair) for pair in pairs]


def split_of(text: str) -> Split:
    """The split that the stable hash of a text falls in."""
    share = stable_hash(f"ladder split {text}") / 2**64
    if share < SPLITS["warm_up"]:
        return "warm_up"
    return "pool" if share < SPLITS["warm_up"] + SPLITS["pool"] else "held_out"


def _draw(rung: int, rng: random.Random) -> Composition:
    """A random walk over operations whose kinds fit, none twice."""
    kind: Kind = rng.choice(("int", "list", "list", "text"))
    steps: list[tuple[Operation, int]] = []
    while len(steps) < rung:
        op = rng.choice([op for op in OPERATIONS.values() if op.takes == kind])
        if all(op is not used for used, _ in steps):
            steps.append((op, rng.choice(op.constants) if op.constants else 0))
            kind = op.gives
    phrasing = (rng.randrange(3), *(rng.randrange(len(op.phrases)) for op, _ in steps))
    return Composition(rng.choice(("stdin", "call")), tuple(steps), phrasing)


def _distinct_key(composition: Composition, split: Split) -> str | None:
    """What sets a problem apart (on rung 1 its id, else its behaviour); None if it must not be posed."""
    steps = composition.steps
    if len(steps) == 1:  # every split has every operation: a policy must know them to compose them
        return composition.id
    if split_of("-".join(composition.names)) != split or any(
        behaviours.behaviour(pair) in behaviours.single_behaviours() for pair in itertools.pairwise(steps)
    ):  # two neighbours do what one operation does
        return None
    behaviour = behaviours.behaviour(steps)
    if behaviour is None or not _belongs(behaviour, len(steps), split):
        return None
    outputs = behaviours.printed_outputs(steps)
    return None if behaviours.is_degenerate(outputs) or behaviours.is_redundant(steps) else behaviour


def _belongs(behaviour: str, rung: int, split: Split) -> bool:
    """Whether a behaviour can be met on this rung, in this split, and nowhere else.

    On rung 2 all compositions that share it must be of the split; above, it must be nothing that
    two operations do, and its own hash must fall in the split.
    """
    pairs = behaviours.pair_names()
    if behaviour in behaviours.single_behaviours():
        return False
    if rung == 2:
        return {split_of(names) for names in pairs[behaviour]} == {split}
    return behaviour not in pairs and split_of(behaviour) == split


def _pairs(
    composition: Composition, most: int, seed: int, *, small: bool = False
) -> list[tuple[Value, Value]]:
    """Up to `most` different inputs with their outputs."""
    rng = random.Random(fold_seed(seed, "inputs", composition.id))
    pairs: dict[str, tuple[Value, Value]] = {}
    for _ in range(50 * most):  # tries: an integer has few values, and values may grow past the bounds
        value = compositions.sample_value(composition.takes, rng, small=small)
        outputs = behaviours.run_all(composition.steps, [value])
        if outputs is not None:
            pairs.setdefault(str(value), (value, outputs[0]))
        if len(pairs) == most:
            break
    return list(pairs.values())


def _ordered_tests(composition: Composition) -> tuple[TestCase, ...]:
    """Tests drawn for this id: first those that tell most wrong variants apart, with new outputs."""
    pairs = _pairs(composition, CANDIDATE_TESTS, 0)
    if len(pairs) < CANDIDATE_TESTS:
        raise InputError(f"{composition.id}: {len(pairs)} distinct inputs found, {CANDIDATE_TESTS} needed")
    values = [value for value, _ in pairs]
    wrong = [behaviours.run_all(steps, values) for steps in behaviours.wrong_variants(composition.steps)]
    alive = [outputs for outputs in wrong if outputs is not None]
    left, seen, tests = list(range(len(pairs))), [], []

    def worth(i: int) -> tuple[bool, int, int]:
        """A test's rank: first a new and non-empty output, then the variants it tells apart, then order."""
        output = pairs[i][1]
        return output not in ("", [], *seen), sum(outputs[i] != output for outputs in alive), -i

    while left:
        best = max(left, key=worth)
        left.remove(best)
        output = pairs[best][1]
        alive = [outputs for outputs in alive if outputs[best] == output]
        seen.append(output)
        tests.append(compositions.case_of(composition, *pairs[best]))
    return tuple(tests)
