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

Equal seeds give equal trees whatever the concurrency (D2). Makes no training samples (samples.py), and cuts
no text into steps itself (steps.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from transformers import PreTrainedTokenizerBase

from o1jax.concurrency import run_in_order
from o1jax.engine.interface import Engine, Request
from o1jax.engine.step_scorer import StepScorer
from o1jax.parallel.seeds import fold_seed
from o1jax.prompts import chat, pseudocode
from o1jax.prompts.ends import end_ids
from o1jax.prompts.fence import Style
from o1jax.records import InputError, Problem, Tree, Verdict
from o1jax.rewards.outcome import judge_program, search_tests, terminal_value
from o1jax.sandbox.interface import JobLost, Judge, Limits
from o1jax.search.steps import SampledStep, cut, path_of
from o1jax.search.tree import ROOT, GrowingTree, path_ids, path_to
from o1jax.store import ShardWriter, read_trees


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """How a tree grows; the sampling settings are the paper's (nano models: top_p 1, top_k 0, style nano)."""

    rollouts: PositiveInt = 12  # a search ends after so many, or before by one of the two limits below
    max_depth: PositiveInt = 8  # steps; a node there is never expanded, each visit simulates from it anew
    samples: PositiveInt = 3  # k: next steps of an expansion
    c: NonNegativeFloat = 2.0  # UCT's weight of exploration; values lie in [0, 1]
    temperature: NonNegativeFloat = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    top_k: NonNegativeInt = 40  # 0: all tokens
    max_step_tokens: PositiveInt = 512  # of a step in an expansion
    max_path_tokens: PositiveInt = 2048  # of an answer, or what the context leaves of that
    # of compiling in the terminal value; the rest is the pass rate (D7)
    compile_weight: Annotated[float, Field(ge=0, le=1)] = 0.1
    wave: PositiveInt = 1  # rollouts at once within a tree
    stop_after_passes: NonNegativeInt = 0  # ends at so many different passing leaves (0: no limit)
    max_tokens: NonNegativeInt = 0  # ends with the rollout that generates so many tokens (0: no limit)
    leaf_value: Literal["simulation", "prm"] = "simulation"  # what a new inner step is worth
    few_shot: NonNegativeInt = 0  # worked examples in the prompt
    style: Style = "full"  # of the prompt
    limits: Limits = Limits()  # of one execution of a program


@dataclasses.dataclass(frozen=True)
class Searcher:
    """What every search needs: who generates, who judges, how, and who scores steps.

    Raises InputError for a scorer that settings.leaf_value does not ask for, or asks for in vain.
    """

    engine: Engine
    judge: Judge
    tokenizer: PreTrainedTokenizerBase
    settings: SearchSettings
    scorer: StepScorer | None = None

    def __post_init__(self):
        if (self.settings.leaf_value == "prm") != (self.scorer is not None):
            seen = "no process reward model" if self.scorer is None else "a process reward model"
            raise InputError(
                f"search settings: leaf_value is {self.settings.leaf_value!r} and there is {seen}; "
                'give one with "prm", and none with "simulation"'
            )


async def search_many(
    searcher: Searcher,
    problems: Sequence[Problem],
    seed: int,
    *,
    concurrency: int = 64,
    store: ShardWriter[Tree] | None = None,
    on_tree: Callable[[Tree], None] | None = None,
) -> list[Tree]:
    """The trees of `problems`, in their order; generation and judging of different problems overlap.

    Trees that `store` holds are taken from it, new ones are appended to it; `on_tree` is called for
    each new one, in order of arrival. Raises InputError before anything is sampled for a problem
    without tests, a prompt longer than the context, or a store of another seed.
    """
    searches = [Search(searcher, problem, seed) for problem in problems]
    done = {tree.problem_id: tree for tree in read_trees(store.directory)} if store is not None else {}
    if others := [tree.seed for tree in done.values() if tree.seed != seed]:
        raise InputError(f"{store.directory}: holds trees of seed {others[0]}, wanted {seed}; use another")

    async def work(search: Search) -> Tree:
        if search.problem.id in done:
            return done[search.problem.id]
        tree = await search.run()
        if store is not None:
            store.append(tree)
        if on_tree is not None:
            on_tree(tree)
        return tree

    try:
        return await run_in_order(work, searches, concurrency)
    finally:
        # Also when cancelled: a search that is killed goes on from its finished trees.
        if store is not None:
            store.flush()


class Search:
    """One problem's search: the tree as it grows and what it has cost.

    The tree of `run` is a pure function of (weights, the scorer's too, problem, settings, seed). Raises
    InputError for a problem without tests and for a prompt that leaves no room for an answer.
    """

    def __init__(self, searcher: Searcher, problem: Problem, seed: int):
        settings, context = searcher.settings, searcher.engine.max_context
        self.searcher, self.settings, self.problem, self.seed = searcher, settings, problem, seed
        self.tests = search_tests(problem)
        messages = pseudocode.messages(problem, few_shot=settings.few_shot, style=settings.style)
        self.prompt_ids = chat.render(searcher.tokenizer, messages)
        self.path_tokens = min(settings.max_path_tokens, context - len(self.prompt_ids))
        if self.path_tokens < 1:
            raise InputError(
                f"problem {problem.id}: its prompt has {len(self.prompt_ids)} tokens and the context holds "
                f"{context}; leave it out or use a model with a longer context"
            )
        self.tree = GrowingTree(end_ids(searcher.tokenizer))
        self.rollouts = self.generated_tokens = 0
        self.programs: set[str] = set()  # different ones, judged

    async def run(self) -> Tree:
        """The tree after all rollouts, or as it was before the one whose program the judge lost."""
        try:
            while not self._is_done():
                await self.wave(min(self.settings.wave, self.settings.rollouts - self.rollouts))
        except JobLost:  # counted by the judge; without the program's value the tree cannot go on as it would
            pass
        return Tree(
            problem_id=self.problem.id,
            prompt_ids=self.prompt_ids,
            nodes=tuple(self.tree.nodes),
            seed=self.seed,
            temperature=self.settings.temperature,
            rollouts=self.rollouts,
            generated_tokens=self.generated_tokens,
            judged_programs=len(self.programs),
        )

    def _is_done(self) -> bool:
        settings, passes = self.settings, sum(node.passed for node in self.tree.nodes)
        return (
            self.rollouts >= settings.rollouts
            or passes >= (settings.stop_after_passes or math.inf)
            or self.generated_tokens >= (settings.max_tokens or math.inf)
        )

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
        await self._sample(starts, [self._simulation(start) for start in starts])
        self.tree.add_losses(leaves, -1)
        self.rollouts += len(leaves)

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
        if self.searcher.scorer is not None:
            await self._score([step for leaf in leaves for step in self.tree.unvisited_children(leaf)])
        for leaf in leaves:
            self.close(leaf)

    def _expansion(self, leaf: int) -> Request:
        missing = self.settings.samples - len(self.tree.children[leaf])
        return dataclasses.replace(
            self._simulation(leaf),
            # Only what is missing: a simulated path's step is one of the k. At least one, though, where a
            # closed root is expanded again.
            n=self.settings.samples if self._is_expanded(leaf) else missing,
            max_tokens=min(self.settings.max_step_tokens, self._tokens_left(leaf)),
            stop=(pseudocode.STOP,),
            # The count of expansions makes those of one node differ, and time has no part in it (D10).
            seed=fold_seed(self.seed, self.problem.id, "expand", leaf, self.tree.expansions[leaf]),
        )

    async def _score(self, steps: Sequence[int]) -> None:
        """One visit of its score for each of these inner nodes and those above it, in order."""
        ends = self.tree.ends
        paths = [path_of(self.prompt_ids, path_to(self.tree.nodes, step), ends) for step in steps]
        scores = await self.searcher.scorer.score(paths) if paths else []
        for step, (*_, score) in zip(steps, scores, strict=True):
            self.tree.nodes[step] = dataclasses.replace(self.tree.nodes[step], score=score)
            self.back_up(step, score)

    # Simulate.

    def _simulation(self, start: int) -> Request:
        return Request(
            # Children go on from the ids that were sampled; text encoded again may be other tokens (D3).
            prompt_ids=self.prompt_ids + path_ids(self.tree.nodes, start),
            max_tokens=self._tokens_left(start),
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            top_k=self.settings.top_k,
            seed=fold_seed(self.seed, self.problem.id, "simulate", start, self.tree.nodes[start].visits),
            problem=self.problem.id,
        )

    async def _sample(self, parents: Sequence[int], requests: Sequence[Request]) -> None:
        """Samples below each parent, judges what ends a path, adds the steps and backs up, in order."""
        completions = await self.searcher.engine.generate(requests) if requests else []
        sampled = [
            (at, sample) for at, samples in zip(parents, completions, strict=True) for sample in samples
        ]
        self.generated_tokens += sum(len(sample.token_ids) for _, sample in sampled)
        paths = [
            cut(self.searcher.tokenizer, sample, self.tree.nodes[at].depth + 1, self._tokens_left(at))
            for at, sample in sampled
        ]
        # All are judged at once, and applied in the order of sampling: verdicts arrive in any order, and
        # the tree must not depend on it (D2).
        values = await asyncio.gather(*(self._judge(steps[-1]) for steps in paths))
        for (parent, _), steps, (value, verdict) in zip(sampled, paths, values, strict=True):
            for step in steps[:-1]:
                parent = self.tree.add(parent, step)
            leaf = self.tree.add(parent, steps[-1], value, verdict)
            if value is not None:
                self.back_up(leaf, value)
                # A trap: this closes the parent too where its other samples are not added yet, and those
                # are then never selected again.
                self.close(leaf)

    def _tokens_left(self, index: int) -> int:
        return self.path_tokens - len(path_ids(self.tree.nodes, index))

    # Judge.

    async def _judge(self, step: SampledStep) -> tuple[float | None, Verdict | None]:
        """The value and the verdict of a path's last step; None twice for an inner one, which has neither.
        Raises JobLost."""
        if not step.program:
            return (terminal_value(None, self.settings.compile_weight) if step.error else None), None
        self.programs.add(step.program)
        verdict = await judge_program(
            self.searcher.judge, self.problem, step.program, self.tests, self.settings.limits
        )
        if verdict.lost:
            raise JobLost(verdict.cases[0].detail)
        return terminal_value(verdict, self.settings.compile_weight), verdict

    # Back up.

    def back_up(self, leaf: int, value: float) -> None:
        """One visit of `value` for the leaf and every step up to the root."""
        for node in self.tree.upwards(leaf):
            self.tree.nodes[node.index] = dataclasses.replace(
                node, visits=node.visits + 1, value_sum=node.value_sum + value
            )

    def close(self, index: int) -> None:
        """Closes the node and its ancestors as far as nothing below them is left to sample."""
        for node in self.tree.upwards(index):
            exhausted = self._is_expanded(node.index) and not self.tree.live_children(node.index)
            if node.value is None and not exhausted:
                return
            self.tree.closed[node.index] = True
