"""What is known of a problem's pass rate, a Beta posterior from the answers found so far, and draws by it.

A problem teaches where a group of answers to it is mixed, some passing and some not: from those that all pass
or all fail nothing can be compared. P(mixed) under the posterior is high for a problem that did both and, as
far as the whole pool leaves that open, for one of which little is known.

The prior is fitted to the counts of the pool, of each difficulty apart where enough is known: from a uniform
one, a problem that failed once would look as undecided as one that passed once, whatever share of the pool
passes. Samples nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from etils import epath
from pydantic import Field, NonNegativeFloat, NonNegativeInt

from o1jax.parallel.processes import this_process
from o1jax.parallel.seeds import fold_seed
from o1jax.records import InputError, Node, Problem, Rollout, Tree
from o1jax.search.samples import label_nodes
from o1jax.search.tree import ROOT, children_of
from o1jax.stages.manifest import read_manifest
from o1jax.store import read_shards, read_trees, write_records

FILE = "posterior.parquet"
FEWEST = 30  # answered problems of a difficulty that has a prior of its own
FINDERS = ("search", "sample")
# Problem id -> (samples, passes); one that was never answered has no entry. Not always whole numbers: see
# counts_of_trees and `forget`.
Counts = Mapping[str, Sequence[float]]


@dataclasses.dataclass(frozen=True)
class DrawSettings:
    """Which problems a stage works on, by the answers that earlier stages found (inputs scout, found_<k>)."""

    problems: NonNegativeInt = 0  # different ones, drawn without replacement; 0: all
    power: NonNegativeFloat = 3.0  # a problem's weight is P(mixed) to it; 0: all alike
    group: Annotated[int, Field(ge=2)] = 8  # answers of the group that is to be mixed
    # How much an answer counts, for each stage that is newer than its own: the policy has changed since.
    forget: Annotated[float, Field(ge=0, le=1)] = 0.5


class Prior(NamedTuple):
    """A Beta distribution over a pool's pass rates: Beta(mean * strength, (1 - mean) * strength). Of several
    problems, arrays of one value each."""

    mean: float | np.ndarray = 0.5
    strength: float | np.ndarray = 2.0


@dataclasses.dataclass(frozen=True)
class Belief:
    """What is known of a problem: a row of posterior.parquet."""

    problem_id: str
    samples: float
    passes: float
    mean: float  # of the posterior
    p_mixed: float
    drawn: bool


def finder_manifest(directory: epath.Path, input: str) -> dict[str, Any]:
    """The manifest of a stage that found answers to training problems; InputError for another, which was
    given as `input`: what an evaluation found is held out, and nothing may learn from it."""
    manifest = read_manifest(directory)
    if manifest["stage"] not in FINDERS:
        wanted = " and ".join(FINDERS)
        raise InputError(f"{input}: {directory} is a stage {manifest['stage']}, wanted one of {wanted}")
    return manifest


def read_counts(directories: Sequence[epath.Path], forget: float = 1.0) -> dict[str, tuple[float, float]]:
    """The counts that stages of search and sampling found, the oldest stage first: each counts `forget` times
    what the next one does. InputError for a stage of another kind."""
    total: dict[str, tuple[float, float]] = {}
    for directory in directories:
        finder_manifest(directory, "found")
        new = counts_of(read_trees(directory / "trees"), read_shards(directory / "rollouts", Rollout))
        total = added({id: (n * forget, k * forget) for id, (n, k) in total.items()}, new)
    return total


def counts_of(trees: Sequence[Tree], rollouts: Sequence[Rollout]) -> dict[str, tuple[float, float]]:
    """Of what one stage found, trees or rollouts."""
    return added(counts_of_trees(trees), counts_of_rollouts(rollouts))


def added(one: Counts, other: Counts) -> dict[str, tuple[float, float]]:
    """The sums of two counts."""
    nothing = (0, 0)
    return {
        id: tuple(a + b for a, b in zip(one.get(id, nothing), other.get(id, nothing), strict=True))
        for id in dict.fromkeys((*one, *other))
    }


def counts_of_rollouts(rollouts: Sequence[Rollout]) -> dict[str, tuple[float, float]]:
    """Sampled answers are independent draws of the policy; a stop rule that looks at passes makes the
    posterior no other."""
    counts: dict[str, tuple[float, float]] = {}
    for rollout in rollouts:
        samples, passes = counts.get(rollout.problem_id, (0, 0))
        counts[rollout.problem_id] = (samples + 1, passes + (rollout.reward == 1))
    return counts


def counts_of_trees(trees: Sequence[Tree]) -> dict[str, tuple[float, float]]:
    """A tree counts as one sample for each first step with leaves below: the share of them that passes."""
    # Leaves are no independent draws: those below one step share it, and search goes back to what is good.
    # First steps were drawn before anything was known of them.
    counts = {}
    for tree in trees:
        passed = label_nodes(dataclasses.replace(tree, nodes=tuple(map(_by_passing, tree.nodes))))
        shares = [passed[index].mean_value for index in children_of(tree)[ROOT] if passed[index].n_leaves]
        if shares:
            counts[tree.problem_id] = (len(shares), sum(shares))
    return counts


def _by_passing(node: Node) -> Node:
    """The node with whether it passed for its value: that of training may count compiling too."""
    return node if node.value is None else dataclasses.replace(node, value=float(node.passed))


# The posterior.


def fit_prior(counts: Counts) -> Prior:
    """The prior under which a pool's counts are likeliest, from a grid; without counts a uniform one.

    Where no problem was answered twice, how much they differ cannot be seen: a strength of 1 is assumed then,
    and preferred a little always."""
    if not counts:
        return Prior()
    kinds, times_K = np.unique(np.array(list(counts.values()), np.float64), axis=0, return_counts=True)
    grid = np.meshgrid(np.linspace(0.01, 0.99, 99), (0.25, 0.5, 1.0, 2.0, 4.0, 8.0))
    mean_G, strength_G = (axis.ravel() for axis in grid)
    prior_G = mean_G * strength_G, (1 - mean_G) * strength_G
    a_GK, b_GK = prior_G[0][:, None] + kinds[:, 1], prior_G[1][:, None] + kinds[:, 0] - kinds[:, 1]
    evidence_G = (log_beta(a_GK, b_GK) - log_beta(*prior_G)[:, None]) @ times_K
    doubt_G = np.log(mean_G * (1 - mean_G)) - np.log(strength_G) ** 2 / 4
    best = int(np.argmax(evidence_G + doubt_G))
    return Prior(float(mean_G[best]), float(strength_G[best]))


def posterior(samples_P: np.ndarray, passes_P: np.ndarray, prior: Prior) -> tuple[np.ndarray, np.ndarray]:
    """(a_P, b_P) of the Beta posteriors of the pass rates."""
    mean, strength = prior
    return mean * strength + passes_P, (1 - mean) * strength + samples_P - passes_P


def p_mixed(samples_P: np.ndarray, passes_P: np.ndarray, group: int, prior: Prior) -> np.ndarray:
    """P that of `group` new answers to a problem some pass and some do not, float64 in [0, 1]."""
    a_P, b_P = posterior(samples_P, passes_P, prior)
    whole_P = log_beta(a_P, b_P)
    all_pass_P = np.exp(log_beta(a_P + group, b_P) - whole_P)
    all_fail_P = np.exp(log_beta(a_P, b_P + group) - whole_P)
    return np.clip(1 - all_pass_P - all_fail_P, 0, 1)


def log_beta(a: np.ndarray | float, b: np.ndarray | float) -> np.ndarray:
    """ln B(a, b)."""
    return _log_gamma(a) + _log_gamma(b) - _log_gamma(np.add(a, b))


_log_gamma = np.vectorize(math.lgamma, otypes=[np.float64])


# Draws.


def beliefs(problems: Sequence[Problem], counts: Counts, group: int) -> list[Belief]:
    """One a problem, none drawn yet; the priors are fitted to the counts of these problems."""
    known = {problem.id: counts[problem.id] for problem in problems if problem.id in counts}
    kinds: dict[str, dict[str, Sequence[float]]] = {problem.difficulty: {} for problem in problems}
    for problem in problems:
        if problem.id in known:
            kinds[problem.difficulty][problem.id] = known[problem.id]
    of_all = fit_prior(known)
    priors = {kind: fit_prior(of) if len(of) >= FEWEST else of_all for kind, of in kinds.items()}
    prior = Prior(*np.array([priors[problem.difficulty] for problem in problems], np.float64).T)
    samples_P, passes_P = np.array([known.get(p.id, (0, 0)) for p in problems], np.float64).T
    a_P, b_P = posterior(samples_P, passes_P, prior)
    mixed_P = p_mixed(samples_P, passes_P, group, prior)
    rows = zip(problems, samples_P, passes_P, a_P / (a_P + b_P), mixed_P, strict=True)
    return [Belief(problem.id, *map(float, numbers), drawn=False) for problem, *numbers in rows]


def draw(weights_P: Sequence[float], count: int, seed: int) -> list[int]:
    """`count` different indices, drawn by weight without replacement; those of weight 0 come last."""
    # The largest of log(weight) + Gumbel noise are such a draw (Gumbel top-k).
    gumbel_P = np.random.RandomState(seed).gumbel(size=len(weights_P))
    with np.errstate(divide="ignore"):
        keys_P = np.log(np.asarray(weights_P, np.float64)) + gumbel_P
    return np.argsort(-keys_P, kind="stable")[:count].tolist()


def drawn_problems(
    out: epath.Path,
    problems: Sequence[Problem],
    settings: DrawSettings,
    inputs: Mapping[str, epath.Path],
    seed: int,
) -> list[Problem]:
    """The problems that a stage works on, in their order: all, or those drawn by P(mixed) ** power from what
    the inputs scout and found_<k> found. Then the posterior of all problems is kept in `out`. The same in
    every process. InputError where the settings and the inputs do not fit."""
    found = found_before(inputs)
    if not settings.problems:
        if found:
            raise InputError(
                f"draw.problems: saw 0, all problems, with {found[-1]} to draw by; wanted how many to draw"
            )
        return list(problems)
    if settings.problems > len(problems):
        raise InputError(
            f"draw.problems: saw {settings.problems}, wanted at most the {len(problems)} there are"
        )
    known = beliefs(problems, read_counts(found, settings.forget), settings.group)
    weights_P = [belief.p_mixed**settings.power for belief in known]
    chosen = sorted(draw(weights_P, settings.problems, fold_seed(seed, "draw problems")))
    if this_process().index == 0:
        rows = [dataclasses.replace(belief, drawn=i in set(chosen)) for i, belief in enumerate(known)]
        write_records(out / FILE, Belief, rows)
    return [problems[i] for i in chosen]


def found_before(inputs: Mapping[str, epath.Path]) -> list[epath.Path]:
    """The directories of found_<k>, by k, and of scout, the newest."""
    numbered = [name for name in inputs if name.startswith("found_")]
    # found_10 comes after found_2.
    names = sorted(numbered, key=lambda name: (len(name), name)) + [n for n in inputs if n == "scout"]
    return [inputs[name] for name in names]
