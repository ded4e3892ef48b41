"""Monte Carlo tree search over reasoning steps: UCT, one problem or many at once.

A rollout selects a leaf. A leaf never visited is simulated from: one call completes the path, whose
steps become nodes below it. A leaf visited before (and the root) is expanded: `samples` next steps
less those it has are sampled in one call, those that end in a program or are malformed are judged
and backed up at once, and the first of the others is simulated from. Every judged path is one visit
of its terminal value v (README.md, D7) for each of its steps.

With leaf_value "prm" the others are not simulated from: a process reward model scores all of an
expansion's new inner steps at once, and each score is backed up as one visit. Below `max_depth`, where
nothing is expanded, paths are simulated as ever. A score is never a node's `value`: labels count judged
leaves only (D8).

Equal seeds give equal trees whatever the concurrency: rollouts are sequential, or in waves whose
results are applied in index order.

Makes no training samples (samples.py) and writes nothing (store.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

from transformers import PreTrainedTokenizerBase

from o1jax.concurrency import run_in_order
from o1jax.engine.interface import Completion, Engine, Request
from o1jax.engine.step_scorer import Path, StepScorer
from o1jax.parallel.seeds import fold_seed
from o1jax.prompts import chat, pseudocode
from o1jax.prompts.fence import Style
from o1jax.records import InputError, Problem, Tree, Verdict
from o1jax.rewards.outcome import judge_program, search_tests
from o1jax.sandbox.interface import Judge, Limits
from o1jax.search.steps import SampledStep, cut
from o1jax.search.tree import GrowingTree, passing_leaves, path_ids
from o1jax.store import ShardWriter, read_trees


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """The paper's settings (nano models: top_p = 1, top_k = 0, style nano).

    `samples` is k, next steps an expansion; `wave` is the number of rollouts at once within a tree.
    A search ends after `rollouts`, or before: at `stop_after_passes` different passing leaves, or at
    the rollout that brings the generated tokens to `max_tokens` (0: neither). `leaf_value` says what a
    new inner step is worth: a simulated path's value, or the process reward model's score.
    """

    rollouts: int = 12
    max_depth: int = 8
    samples: int = 3
    c: float = 2.0
    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 40
    max_step_tokens: int = 512
    max_path_tokens: int = 2048
    compile_weight: float = 0.1
    wave: int = 1
    stop_after_passes: int = 0
    max_tokens: int = 0
    leaf_value: Literal["simulation", "prm"] = "simulation"
    few_shot: int = 0
    style: Style = "full"
    limits: Limits = Limits()

    def __post_init__(self):
        for name in ("rollouts", "max_depth", "samples", "max_step_tokens", "max_path_tokens", "wave"):
            if (seen := getattr(self, name)) < 1:
                raise InputError(f"search settings: {name} is {seen}, wanted at least 1")


async def search_many(
    problems: Sequence[Problem],
    engine: Engine,
    judge: Judge,
    tokenizer: PreTrainedTokenizerBase,
    settings: SearchSettings,
    seed: int,
    *,
    scorer: StepScorer | None = None,
    concurrency: int = 64,
    store: ShardWriter[Tree] | None = None,
    on_tree: Callable[[Tree], None] | None = None,
) -> list[Tree]:
    """The trees of `problems`, in their order; generation and judging of different problems overlap.

    Trees that `store` holds are taken from it, new ones are appended to it; `on_tree` is called for
    each new one, in order of arrival. Raises InputError before anything is sampled for a problem
    without tests, a prompt longer than the context, a store of another seed, or a scorer that
    settings.leaf_value does not ask for (or asks for in vain).
    """
    check_scorer(settings, scorer)
    for problem in problems:
        search_tests(problem)
        path_room(problem.id, prompt_of(problem, tokenizer, settings), engine, settings)
    done = _stored_trees(store, seed)

    async def work(problem: Problem) -> Tree:
        if problem.id in done:
            return done[problem.id]
        tree = await search_problem(problem, engine, judge, tokenizer, settings, seed, scorer=scorer)
        if store is not None:
            store.append(tree)
        if on_tree is not None:
            on_tree(tree)
        return tree

    try:
        return await run_in_order(work, problems, concurrency)
    finally:
        if store is not None:
            store.flush()


async def search_problem(
    problem: Problem,
    engine: Engine,
    judge: Judge,
    tokenizer: PreTrainedTokenizerBase,
    settings: SearchSettings,
    seed: int,
    *,
    scorer: StepScorer | None = None,
) -> Tree:
    """The tree of one problem; a pure function of (weights, the scorer's too, problem, settings, seed)."""
    check_scorer(settings, scorer)
    return await _Search(problem, engine, judge, tokenizer, settings, seed, scorer).run()


def check_scorer(settings: SearchSettings, scorer: StepScorer | None) -> None:
    """InputError unless there is a scorer exactly if the settings want one."""
    if (settings.leaf_value == "prm") != (scorer is not None):
        seen = "no process reward model" if scorer is None else "a process reward model"
        raise InputError(
            f"search settings: leaf_value is {settings.leaf_value!r} and there is {seen}; "
            'give one with "prm", and none with "simulation"'
        )


def prompt_of(
    problem: Problem, tokenizer: PreTrainedTokenizerBase, settings: SearchSettings
) -> tuple[int, ...]:
    """The pseudocode prompt's token ids."""
    return chat.render(
        tokenizer, pseudocode.messages(problem, few_shot=settings.few_shot, style=settings.style)
    )


def path_room(problem_id: str, prompt_ids: tuple[int, ...], engine: Engine, settings: SearchSettings) -> int:
    """How many tokens a path may have: settings.max_path_tokens, or what the context has left."""
    room = min(settings.max_path_tokens, engine.max_context - len(prompt_ids))
    if room < 1:
        raise InputError(
            f"problem {problem_id}: its prompt has {len(prompt_ids)} tokens and the context holds "
            f"{engine.max_context}; leave it out or use a model with a longer context"
        )
    return room


def _stored_trees(store: ShardWriter[Tree] | None, seed: int) -> dict[str, Tree]:
    trees = read_trees(store.directory) if store is not None else []
    for tree in trees:
        if tree.seed != seed:
            raise InputError(
                f"{store.directory}: holds trees of seed {tree.seed}, wanted {seed}; use another"
            )
    return {tree.problem_id: tree for tree in trees}


class _Search:
    """One problem's search: the growing tree and what it has cost."""

    def __init__(
        self,
        problem: Problem,
        engine: Engine,
        judge: Judge,
        tokenizer: PreTrainedTokenizerBase,
        settings: SearchSettings,
        seed: int,
        scorer: StepScorer | None,
    ):
        self.problem, self.engine, self.judge, self.tokenizer = problem, engine, judge, tokenizer
        self.settings, self.seed, self.tests = settings, seed, search_tests(problem)
        self.scorer = scorer
        self.prompt_ids = prompt_of(problem, tokenizer, settings)
        self.path_room = path_room(problem.id, self.prompt_ids, engine, settings)
        self.tree = GrowingTree(
            samples=settings.samples,
            max_depth=settings.max_depth,
            c=settings.c,
            eos_id=tokenizer.eos_token_id,
        )
        self.generated_tokens = 0
        self.programs: set[str] = set()  # different ones, judged

    async def run(self) -> Tree:
        tree = self._freeze(0)
        while not self._is_done(tree):
            width = min(self.settings.wave, self.settings.rollouts - tree.rollouts)
            tree = self._freeze(tree.rollouts + await self._wave(width))
        return tree

    def _is_done(self, tree: Tree) -> bool:
        enough = self.settings.stop_after_passes or math.inf
        return (
            tree.rollouts >= self.settings.rollouts
            or len(passing_leaves(tree)) >= enough
            or self.generated_tokens >= (self.settings.max_tokens or math.inf)
        )

    async def _wave(self, width: int) -> int:
        """Up to `width` rollouts; returns how many."""
        leaves = self.tree.select_wave(width)
        to_expand = [leaf for leaf in leaves if self.tree.is_for_expansion(leaf)]
        await self._expand(to_expand)
        starts = [self.tree.simulation_start(leaf, leaf in to_expand) for leaf in leaves]
        await self._simulate([start for start in starts if start is not None])
        self.tree.release(leaves)
        return len(leaves)

    async def _expand(self, leaves: Sequence[int]) -> None:
        requests = [self._expansion(leaf) for leaf in leaves]
        sampled = await self._generate(leaves, requests)
        for leaf in leaves:
            self.tree.expansions[leaf] += 1
        await self._graft(sampled)
        if self.scorer is not None:
            await self._score([step for leaf in leaves for step in self.tree.fresh_children(leaf)])
        for leaf in leaves:
            self.tree.close(leaf)

    async def _score(self, steps: Sequence[int]) -> None:
        """One visit of its score for each of these inner nodes and those above it, in order."""
        prefixes = [self.prompt_ids + path_ids(self.tree.nodes, step) for step in steps]
        paths = [Path(ids, (len(ids) - 1,), (0,)) for ids in prefixes]
        scores = await self.scorer.score(paths) if paths else []
        for step, (score,) in zip(steps, scores, strict=True):
            self.tree.set_score(step, score)

    async def _simulate(self, starts: Sequence[int]) -> None:
        await self._graft(await self._generate(starts, [self._simulation(start) for start in starts]))

    async def _generate(
        self, parents: Sequence[int], requests: Sequence[Request]
    ) -> list[tuple[int, list[SampledStep]]]:
        """(parent, steps of one completion) for every completion, in order."""
        if not requests:
            return []
        completions_by_request = await self.engine.generate(requests)
        grown = []
        for parent, completions in zip(parents, completions_by_request, strict=True):
            for completion in completions:
                self.generated_tokens += len(completion.token_ids)
                grown.append((parent, self._cut(parent, completion)))
        return grown

    def _cut(self, parent: int, completion: Completion) -> list[SampledStep]:
        return cut(self.tokenizer, completion, self.tree.nodes[parent].depth + 1, self._room(parent))

    async def _graft(self, grown: Sequence[tuple[int, list[SampledStep]]]) -> None:
        """Judges the last step of every completion at once, then adds and backs up in order."""
        outcomes = await asyncio.gather(*(self._value(steps[-1]) for _, steps in grown))
        for (parent, steps), (value, verdict) in zip(grown, outcomes, strict=True):
            for step in steps[:-1]:
                parent = self.tree.add(parent, step)
            leaf = self.tree.add(parent, steps[-1], value, verdict)
            if value is not None:
                self.tree.back_up(leaf, value)
                self.tree.close(leaf)

    async def _value(self, step: SampledStep) -> tuple[float | None, Verdict | None]:
        """The terminal value and verdict: 0 and None for a dead step, None twice for an inner one."""
        if step.error:
            return 0.0, None
        if not step.program:
            return None, None
        self.programs.add(step.program)
        settings = self.settings
        return await judge_program(
            self.judge, self.problem, step.program, self.tests, settings.compile_weight, settings.limits
        )

    def _room(self, parent: int) -> int:
        return self.path_room - len(path_ids(self.tree.nodes, parent))

    def _expansion(self, leaf: int) -> Request:
        return dataclasses.replace(
            self._simulation(leaf),
            n=self.tree.missing_children(leaf),
            max_tokens=min(self.settings.max_step_tokens, self._room(leaf)),
            stop=(pseudocode.STOP,),
            seed=fold_seed(self.seed, self.problem.id, "expand", leaf, self.tree.expansions[leaf]),
        )

    def _simulation(self, start: int) -> Request:
        visits = self.tree.nodes[start].visits
        return Request(
            prompt_ids=self.prompt_ids + path_ids(self.tree.nodes, start),
            max_tokens=self._room(start),
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            top_k=self.settings.top_k,
            seed=fold_seed(self.seed, self.problem.id, "simulate", start, visits),
            problem=self.problem.id,
        )

    def _freeze(self, rollouts: int) -> Tree:
        return Tree(
            problem_id=self.problem.id,
            prompt_ids=self.prompt_ids,
            nodes=tuple(self.tree.nodes),
            seed=self.seed,
            temperature=self.settings.temperature,
            rollouts=rollouts,
            generated_tokens=self.generated_tokens,
            judged_programs=len(self.programs),
        )
