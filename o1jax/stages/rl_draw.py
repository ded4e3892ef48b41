"""Which problems an update plays: pure functions of the seed, the update's number and what passed so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from o1jax.parallel.seeds import fold_seed
from o1jax.records import Problem

History = Mapping[str, Sequence[int]]  # problem id -> (samples, passes); a problem never played has no entry
LEAST = 0.05  # the weight of a problem that always passes, or never


def uniform(problems: Sequence[Problem], count: int, seed: int, t: int) -> list[Problem]:
    """The `count` problems of update t: epoch after epoch, each in an order of its own, without the few at
    its end that do not fill an update."""
    epoch, at = divmod(t, len(problems) // count)
    order = np.random.RandomState(fold_seed(seed, "problems", epoch)).permutation(len(problems))
    return [problems[i] for i in order[at * count : (at + 1) * count]]


def by_difficulty(
    problems: Sequence[Problem], count: int, seed: int, t: int, history: History
) -> list[Problem]:
    """`count` different problems, drawn with weights p (1 - p) + LEAST, p = (passes + 1) / (samples + 2):
    most often those about which least is known to be sure (Gumbel top-k)."""
    weights_P = np.array([_weight(*history.get(problem.id, (0, 0))) for problem in problems])
    gumbel_P = np.random.RandomState(fold_seed(seed, "problems", t)).gumbel(size=len(problems))
    order = np.argsort(-(np.log(weights_P) + gumbel_P), kind="stable")
    return [problems[i] for i in order[:count]]


def _weight(samples: int, passes: int) -> float:
    p = (passes + 1) / (samples + 2)
    return p * (1 - p) + LEAST
