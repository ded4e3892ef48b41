"""Vine search: different first steps first, then completions of them, more of those that do better.

A search of `VineSearch`, in the order of its methods:
  first steps   `candidates` first steps are sampled, equal ones merged, and `first_steps` of them kept by the
                Gumbel top-k of their likelihood, before a token is spent on completing any
  halving       completions go to the kept steps by sequential halving (Karnin et al., 2013), as at the root
                of Gumbel MuZero (Danihelka et al., 2022; DeepMind's mctx): all in turn, then the better half,
                by Gumbel noise + log-likelihood + sigma(mean value of its completions)
  complete      a path from a first step to its end, or from a later step that is least decided ("vines":
                several completions of one step say what it is worth, Kazemnejad et al., arXiv 2410.01679);
                a first step that only repeats itself gives its place to one that was not kept
until the leaves suffice or first_steps * completions are made.

Why beside UCT: UCT simulates the first sample of an expansion before it knows the others, comes back to it
under the same prefix, and merges what is equal only after it was paid for.

Equal seeds give equal trees whatever the concurrency (D2). Scores no steps, and knows no maximal depth.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from o1jax.parallel.seeds import fold_seed
from o1jax.records import Problem, Tree
from o1jax.search.growth import Growth, Searcher
from o1jax.search.tree import ROOT

# sigma(q) = (C_VISIT + most visits of a first step) * C_SCALE * q (Danihelka et al., eq. 8; mctx's defaults).
# mctx scales q to [0, 1] by what was seen; values here lie in [0, 1], and .1 for a program that compiles must
# not count as much as a pass where nothing passed yet.
C_VISIT, C_SCALE = 50, 0.1


class VineSearch:
    """One problem's vine search; see Growth for what it raises.

    The tree of `run` is a pure function of (weights, problem, settings, seed); its rollouts are completions.
    """

    def __init__(self, searcher: Searcher, problem: Problem, seed: int):
        self.growth = Growth(searcher, problem, seed)
        self.settings, self.vine, self.tree = searcher.settings, searcher.settings.vine, self.growth.tree
        self.noise: dict[int, float] = {}  # of each first step that goes on, the same all through the search
        self.turns: dict[int, int] = {}  # of each kept first step: the completions that its place has had
        self.reserve: list[int] = []  # first steps that were not kept, the best first

    async def run(self) -> Tree:
        """The tree after all completions, or as it was before the one whose program the judge lost."""
        return await self.growth.grown(self._grow())

    async def _grow(self) -> None:
        await self.sample_first_steps()
        for visits, group in itertools.groupby(
            considered_visits(len(self.turns), self.vine.first_steps * self.vine.completions)
        ):
            # The visits of a phase are independent of one another, but for the order that scores give them.
            for width in _widths(len(list(group)), self.settings.wave):
                if self.growth.has_enough():
                    return
                await self.complete(self.best(visits, width))

    # First steps.

    async def sample_first_steps(self) -> None:
        """Samples them, and keeps some that go on; where all end their path, some more, as often as a first
        step is completed."""
        for number in range(self.vine.completions):
            await self.growth.sample([ROOT], [self.growth.next_steps(ROOT, self.vine.candidates, number)])
            if self.growth.has_enough() or self.keep_some():
                return

    def keep_some(self) -> bool:
        """Keeps the first steps of highest likelihood with Gumbel noise: a draw by likelihood without
        replacement. False where there are none that go on."""
        open_steps = [index for index in self.tree.children[ROOT] if self.tree.nodes[index].value is None]
        seed = fold_seed(self.growth.seed, self.growth.problem.id, "first steps")
        gumbel = np.random.RandomState(seed).gumbel(size=len(open_steps)).tolist()
        self.noise = dict(zip(open_steps, gumbel, strict=True))
        best = sorted(open_steps, key=lambda index: -(self.noise[index] + self.log_likelihood(index)))
        self.turns = dict.fromkeys(best[: self.vine.first_steps], 0)
        self.reserve = best[self.vine.first_steps :]
        return bool(self.turns)

    def log_likelihood(self, index: int) -> float:
        """Of a step, in nats, by the distribution that it was sampled from."""
        return sum(self.tree.nodes[index].log_probs)

    # Halving.

    def best(self, visits: int, width: int) -> list[int]:
        """Up to `width` first steps with so many completions, the best first."""
        # mctx's rule: a step is considered while it has as many visits as the phase says; the worse ones fall
        # behind, and so out.
        considered = [index for index, turns in self.turns.items() if turns == visits]
        return sorted(considered, key=lambda index: -self.score(index))[:width]

    def score(self, index: int) -> float:
        """Gumbel noise + log-likelihood + sigma(mean value) of a first step."""
        sigma = (C_VISIT + max(self.turns.values())) * C_SCALE * self.value(index)
        return self.noise[index] + self.log_likelihood(index) + sigma

    def value(self, index: int) -> float:
        """The mean of a node's visits; without any, that of the whole tree."""
        node = self.tree.nodes[index]
        node = node if node.visits else self.tree.nodes[ROOT]
        return node.value_sum / node.visits if node.visits else 0.0

    # Complete.

    async def complete(self, steps: list[int]) -> None:
        """A completion below each of these first steps, at once."""
        starts, known = [self.start(step) for step in steps], len(self.tree.nodes)
        leaves = await self.growth.sample(starts, [self.growth.completion(start) for start in starts])
        self.growth.rollouts += len(starts)
        for step, leaf in zip(steps, leaves, strict=True):
            self.turns[step] += 1
            # A path that was known before: more of this step's would mostly be paid for in vain.
            if leaf < known and self.reserve:
                self.turns[self.reserve.pop(0)] = self.turns.pop(step)

    def start(self, index: int) -> int:
        """The node below (or at) `index` that is completed next: down to the step that is least decided,
        while there are steps enough to choose from."""
        while True:
            below = [child for child in self.tree.children[index] if self.tree.nodes[child].value is None]
            # Progressive widening (Coulom, 2007): the more visits, the more different next steps.
            if not below or len(below) <= self.tree.nodes[index].visits ** self.vine.widening:
                return index
            index = max(below, key=self.undecided)

    def undecided(self, index: int) -> float:
        """The variance of a step's value, by a Beta posterior from a uniform prior."""
        node = self.tree.nodes[index]
        mean = (node.value_sum + 1) / (node.visits + 2)
        return mean * (1 - mean) / (node.visits + 3)


def considered_visits(steps: int, budget: int) -> list[int]:
    """The visits that a first step has for being considered, completion by completion, `budget` of them:
    sequential halving of so many steps (mctx's get_sequence_of_considered_visits)."""
    if steps <= 1:
        return list(range(budget if steps else 0))
    phases, sequence, visits, left = math.ceil(math.log2(steps)), [], [0] * steps, steps
    while len(sequence) < budget:
        for _ in range(max(1, budget // (phases * left))):
            sequence += visits[:left]
            visits[:left] = [count + 1 for count in visits[:left]]
        left = max(2, left // 2)
    return sequence[:budget]


def _widths(total: int, width: int) -> list[int]:
    """`total` in parts of `width`, the last one perhaps smaller."""
    return [min(width, total - at) for at in range(0, total, width)]
