"""Monte Carlo tree search over reasoning steps: one rollout from selection to backing up, in one file.

A rollout of `Search`, in the order of its methods:
  select    from the root down by UCT (Kocsis and Szepesvari, 2006) to a leaf
  expand    a leaf that was visited before gets sampled next steps
  simulate  one call completes the path of an unvisited leaf, or of the first of the new steps
  judge     the programs that paths ended in run on the problem's tests
  back up   each path's value is a visit of all its steps

Where it departs from the search of O1-CODER (arXiv 2412.00154) and from plain UCT:
  - The steps of a simulated path become nodes: they were paid for, and each is one more labelled step (D8).
  - One call samples all next steps of an expansion. Those that end their path, in a program or malformed, are
    judged and backed up at once, so that a rollout may be several visits.
  - Equal siblings are one node: a label counts a path once, however often a small policy repeats it.
  - Selection skips a node below which nothing is left to sample; the root alone is then expanded again.
  - A malformed step is a leaf of value 0, not an error: the policy learns the form from it.
  - In a wave, several rollouts of a tree run at once under virtual losses (Chaslot et al., 2008).
  - With leaf_value "prm", a process reward model scores the new inner steps in place of a simulation, and a
    score is one visit. It is never a node's `value`: labels count judged leaves only (D8).

Equal seeds give equal trees whatever the concurrency (D2). What is done below a selected node is in
growth.py, the other way to search, which search_many runs too, in vine.py. Makes no training samples
(samples.py).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from o1jax.concurrency import run_in_order
from o1jax.engine.interface import Request
from o1jax.records import Problem, Tree
from o1jax.search.growth import Growth, Searcher
from o1jax.search.steps import path_of
from o1jax.search.tree import ROOT, path_to
from o1jax.search.vine import VineSearch


def search_of(searcher: Searcher, problem: Problem, seed: int) -> Search | VineSearch:
    """The search of a problem by the settings' algorithm, not begun; see Growth for what it raises."""
    kind = {"uct": Search, "vine": VineSearch}[searcher.settings.algorithm]
    return kind(searcher, problem, seed)


async def search_many(
    searcher: Searcher, problems: Sequence[Problem], seed: int, *, concurrency: int = 64
) -> list[Tree]:
    """The trees of `problems`, in their order; generation and judging of different problems overlap. Raises
    InputError before anything is sampled for a problem without tests or a prompt longer than the context."""
    searches = [search_of(searcher, problem, seed) for problem in problems]
    return await run_in_order(lambda search: search.run(), searches, concurrency)


class Search:
    """One problem's search by UCT; see Growth for what it raises.

    The tree of `run` is a pure function of (weights, the scorer's too, problem, settings, seed).
    """

    def __init__(self, searcher: Searcher, problem: Problem, seed: int):
        self.growth = Growth(searcher, problem, seed)
        self.settings, self.scorer, self.tree = searcher.settings, searcher.scorer, self.growth.tree

    async def run(self) -> Tree:
        """The tree after all rollouts, or as it was before the one whose program the judge lost."""
        return await self.growth.grown(self._grow())

    async def _grow(self) -> None:
        while (left := self.settings.rollouts - self.growth.rollouts) > 0 and not self.growth.has_enough():
            await self.wave(min(self.settings.wave, left))

    async def wave(self, width: int) -> None:
        """One rollout, or up to `width` at once."""
        leaves = self.select_wave(width)
        # A first visit simulates and expands nothing: most leaves never get a second one, and their next
        # steps would be sampled in vain.
        nodes = [self.tree.nodes[leaf] for leaf in leaves]
        deep = self.settings.max_depth
        expanded = [n.index for n in nodes if n.depth < deep and (n.index == ROOT or n.visits > 0)]
        await self._expand(expanded)
        # Of an expanded leaf the first new step; none where all were judged, scored, or known before.
        new = self.tree.unvisited_children
        starts = [start for leaf in leaves for start in (new(leaf)[:1] if leaf in expanded else [leaf])]
        await self._sample(starts, [self.growth.completion(start) for start in starts])
        self.tree.add_losses(leaves, -1)
        self.growth.rollouts += len(leaves)

    # Select.

    def select_wave(self, width: int) -> list[int]:
        """Up to `width` different leaves, each selected under the virtual losses of those before it."""
        leaves: list[int] = []
        # Where losses no longer drive selection apart, the wave ends early: a leaf expanded twice from the
        # same state would be sampled with the same seed.
        while len(leaves) < width and (leaf := self.select()) not in leaves:
            leaves.append(leaf)
            self.tree.add_losses([leaf], +1)
        return leaves

    def select(self) -> int:
        """The leaf that UCT leads to: unvisited children first, in index order; ties likewise."""
        index = ROOT
        while self._is_expanded(index) and (live := self.tree.live_children(index)):
            # UCT is infinite for an unvisited child: the order of sampling decides, never chance (D2).
            unvisited = [child for child in live if self.tree.seen(child) == 0]
            index = unvisited[0] if unvisited else max(live, key=self.uct)
        return index

    def uct(self, index: int) -> float:
        """value_sum/n + c sqrt(ln n_parent / n); n counts virtual losses, whose value is 0."""
        node, n = self.tree.nodes[index], self.tree.seen(index)
        return node.value_sum / n + self.settings.c * math.sqrt(math.log(self.tree.seen(node.parent)) / n)

    def _is_expanded(self, index: int) -> bool:
        if self.tree.nodes[index].depth >= self.settings.max_depth:
            return False
        # Steps of simulated paths are children too, and as many of them as samples need no expansion.
        return self.tree.expansions[index] > 0 or len(self.tree.children[index]) >= self.settings.samples

    # Expand.

    async def _expand(self, leaves: Sequence[int]) -> None:
        """Samples next steps of every leaf, judges those that end a path, scores the others if asked to."""
        requests = [self._expansion(leaf) for leaf in leaves]
        for leaf in leaves:
            self.tree.expansions[leaf] += 1
        await self._sample(leaves, requests)
        if self.scorer is not None:
            await self._score([step for leaf in leaves for step in self.tree.unvisited_children(leaf)])
        for leaf in leaves:
            self.close(leaf)

    def _expansion(self, leaf: int) -> Request:
        missing = self.settings.samples - len(self.tree.children[leaf])
        # Only what is missing: a simulated path's step is one of the k. At least one, though, where a closed
        # root is expanded again.
        n = self.settings.samples if self._is_expanded(leaf) else missing
        return self.growth.next_steps(leaf, n, self.tree.expansions[leaf])

    async def _sample(self, parents: Sequence[int], requests: Sequence[Request]) -> None:
        """Growth.sample, and closes what ended."""
        # When all samples are there, and not one by one: a parent whose other samples are not added yet
        # would close with the first that ends, and those would never be selected.
        for leaf in await self.growth.sample(parents, requests):
            self.close(leaf)

    async def _score(self, steps: Sequence[int]) -> None:
        """One visit of its score for each of these inner nodes and those above it, in order."""
        ends = self.tree.ends
        paths = [path_of(self.growth.prompt_ids, path_to(self.tree.nodes, step), ends) for step in steps]
        scores = await self.scorer.score(paths) if paths else []
        for step, (*_, score) in zip(steps, scores, strict=True):
            self.tree.nodes[step] = dataclasses.replace(self.tree.nodes[step], score=score)
            self.growth.back_up(step, score)

    # Close.

    def close(self, index: int) -> None:
        """Closes the node and its ancestors as far as nothing below them is left to sample."""
        for node in self.tree.upwards(index):
            exhausted = self._is_expanded(node.index) and not self.tree.live_children(node.index)
            if node.value is None and not exhausted:
                return
            self.tree.closed[node.index] = True
