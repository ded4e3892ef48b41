"""What every search of a problem does below a node: sample, cut into steps, judge, add to the tree, back up.

Says also what a search is given (Searcher, SearchSettings) and when it has enough. Where to sample is not
decided here: that is what tells the two ways to search apart, UCT (mcts.py) and vine search (vine.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Sequence
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from transformers import PreTrainedTokenizerBase

from o1jax.engine.interface import Completion, Engine, Request
from o1jax.engine.step_scorer import StepScorer
from o1jax.parallel.seeds import fold_seed
from o1jax.prompts import chat, pseudocode
from o1jax.prompts.ends import end_ids
from o1jax.prompts.fence import Style
from o1jax.records import InputError, Problem, Tree, Verdict
from o1jax.rewards.outcome import judge_program, search_tests, terminal_value
from o1jax.sandbox.interface import JobLost, Judge, Limits
from o1jax.search import hidden
from o1jax.search.sampling import StopRule
from o1jax.search.steps import SampledStep, cut
from o1jax.search.tree import GrowingTree, path_ids


@dataclasses.dataclass(frozen=True)
class VineSettings:
    """What vine search alone has; its budget is first_steps * completions."""

    first_steps: PositiveInt = 4  # different ones that are kept
    candidates: PositiveInt = 8  # first steps sampled before any is completed; equal ones are one
    completions: PositiveInt = 4  # of a first step, on the mean: halving takes them from the worse ones
    # Below 1, a completion begins at a later step, the least decided, once there are more than
    # visits ** widening different ones: so later steps get labels of several leaves. It costs passes: on the
    # ladder 0.5 solves fewer problems, for more of the completions say what is known.
    widening: Annotated[float, Field(ge=0, le=1)] = 1.0


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """How a tree grows; the sampling settings are the paper's (nano models: top_p 1, top_k 0, style nano)."""

    algorithm: Literal["uct", "vine"] = "uct"  # uct: as published (mcts.py); vine: vine.py
    rollouts: PositiveInt = 12  # uct: a search ends after so many, or before by one of the limits below
    # uct: steps; a node there is never expanded, each visit simulates from it anew
    max_depth: PositiveInt = 8
    samples: PositiveInt = 3  # uct: k, the next steps of an expansion
    # uct: the weight of exploration; values lie in [0, 1]. The paper's 2.0 is for values that differ by about
    # 1: where most programs compile and fail, values lie near .1, and it hardly exploits.
    c: NonNegativeFloat = 0.4
    vine: VineSettings = VineSettings()
    temperature: NonNegativeFloat = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    top_k: NonNegativeInt = 40  # 0: all tokens
    max_step_tokens: PositiveInt = 512  # of a step that is sampled alone
    max_path_tokens: PositiveInt = 2048  # of an answer, or what the context leaves of that
    # of compiling in the terminal value; the rest is the pass rate (D7)
    compile_weight: Annotated[float, Field(ge=0, le=1)] = 0.1
    wave: PositiveInt = 1  # rollouts at once within a tree
    stop_after_passes: NonNegativeInt = 0  # ends at so many different passing leaves (0: no limit)
    # Ends at so many different failing leaves, dead ones too; with as many passing ones, if those are given
    # too: then a tree has labels of both kinds (0: no limit).
    stop_after_fails: NonNegativeInt = 0
    max_tokens: NonNegativeInt = 0  # ends with the rollout that generates so many tokens (0: no limit)
    leaf_value: Literal["simulation", "prm"] = "simulation"  # uct: what a new inner step is worth
    few_shot: NonNegativeInt = 0  # worked examples in the prompt
    style: Style = "full"  # of the prompt
    limits: Limits = Limits()  # of one execution of a program

    def __post_init__(self):
        if self.algorithm == "vine" and self.leaf_value == "prm":
            raise InputError(
                "search settings: saw leaf_value 'prm' with algorithm 'vine', whose steps are all completed; "
                "wanted leaf_value 'simulation', or algorithm 'uct'"
            )

    @property
    def stop(self) -> StopRule:
        """What ends it by its leaves: what plain sampling beside it must end by as well."""
        return StopRule(passes=self.stop_after_passes, fails=self.stop_after_fails)


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


class Growth:
    """One problem's tree as it grows, and what that has cost.

    Raises InputError for a problem without tests and for a prompt that leaves no room for an answer.
    """

    def __init__(self, searcher: Searcher, problem: Problem, seed: int):
        settings, context = searcher.settings, searcher.engine.max_context
        self.searcher, self.settings, self.problem, self.seed = searcher, settings, problem, seed
        self.tests = search_tests(problem)
        messages = pseudocode.messages(problem, few_shot=settings.few_shot, style=settings.style)
        self.prompt_ids = chat.render(searcher.tokenizer, messages)
        self.program_prompt_ids = hidden.program_prompt(searcher.tokenizer, settings.style)
        self.path_tokens = min(settings.max_path_tokens, context - len(self.prompt_ids))
        if self.path_tokens < 1:
            raise InputError(
                f"problem {problem.id}: its prompt has {len(self.prompt_ids)} tokens and the context holds "
                f"{context}; leave it out or use a model with a longer context"
            )
        self.tree = GrowingTree(end_ids(searcher.tokenizer))
        self.rollouts = self.generated_tokens = 0
        self.programs: set[str] = set()  # different ones, judged

    async def grown(self, work: Awaitable[None]) -> Tree:
        """The tree when the work is done, or as it was before the program that the judge lost."""
        try:
            await work
        except JobLost:  # counted by the judge; without the program's value the tree cannot go on as it would
            pass
        return self.finished()

    def finished(self) -> Tree:
        """The tree as it is kept."""
        return Tree(
            problem_id=self.problem.id,
            prompt_ids=self.prompt_ids,
            nodes=tuple(self.tree.nodes),
            seed=self.seed,
            temperature=self.settings.temperature,
            rollouts=self.rollouts,
            generated_tokens=self.generated_tokens,
            judged_programs=len(self.programs),
            program_prompt_ids=self.program_prompt_ids,
        )

    def has_enough(self) -> bool:
        """Whether its leaves are those that the settings ask for, or its tokens are spent."""
        passed = [node.passed for node in self.tree.nodes if node.value is not None]
        is_spent = bool(self.settings.max_tokens) and self.generated_tokens >= self.settings.max_tokens
        return is_spent or self.settings.stop.is_reached(sum(passed), passed.count(False))

    def path_left(self, index: int) -> int:
        """The tokens that a path through node `index` may still have."""
        return self.path_tokens - len(path_ids(self.tree.nodes, index))

    def completion(self, start: int) -> Request:
        """The request for one path from node `start` to its end."""
        return Request(
            # Children go on from the ids that were sampled; text encoded again may be other tokens (D3).
            prompt_ids=self.prompt_ids + path_ids(self.tree.nodes, start),
            max_tokens=self.path_left(start),
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            top_k=self.settings.top_k,
            seed=fold_seed(self.seed, self.problem.id, "simulate", start, self.tree.nodes[start].visits),
            problem=self.problem.id,
        )

    def next_steps(self, start: int, n: int, number: int) -> Request:
        """The request for n next steps of node `start`, the `number`th there."""
        return dataclasses.replace(
            self.completion(start),
            n=n,
            max_tokens=min(self.settings.max_step_tokens, self.path_left(start)),
            stop=(pseudocode.STOP,),
            # The count makes the requests of one node differ, and time has no part in it (D10).
            seed=fold_seed(self.seed, self.problem.id, "expand", start, number),
        )

    async def sample(self, parents: Sequence[int], requests: Sequence[Request]) -> list[int]:
        """Samples below each parent, judges what ends a path, adds the steps and backs up, in order; returns
        the leaves that were judged, known ones too."""
        completions = await self._generate(requests) if requests else []
        sampled = [
            (at, sample) for at, samples in zip(parents, completions, strict=True) for sample in samples
        ]
        self.generated_tokens += sum(len(sample.token_ids) for _, sample in sampled)
        paths = [self._steps(at, sample) for at, sample in sampled]
        # All are judged at once, and applied in the order of sampling: verdicts arrive in any order, and
        # the tree must not depend on it (D2).
        values = await asyncio.gather(*(self._judge(steps[-1]) for steps in paths))
        leaves = []
        for (parent, _), steps, (value, verdict) in zip(sampled, paths, values, strict=True):
            for step in steps[:-1]:
                parent = self.tree.add(parent, step)
            leaf = self.tree.add(parent, steps[-1], value, verdict)
            if value is not None:
                self.back_up(leaf, value)
                leaves.append(leaf)
        return leaves

    async def _generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        engine, tokenizer = self.searcher.engine, self.searcher.tokenizer
        hides = len(self.prompt_ids), self.program_prompt_ids
        return await hidden.generate(engine, tokenizer, requests, *hides)

    def _steps(self, at: int, sample: Completion) -> list[SampledStep]:
        """The steps of a sample below node `at`."""
        tokenizer = self.searcher.tokenizer
        steps = cut(tokenizer, sample, self.tree.nodes[at].depth + 1, self.path_left(at))
        if self.program_prompt_ids:
            begins = hidden.program_from(tokenizer, steps[-1].token_ids)
            steps[-1] = dataclasses.replace(steps[-1], program_from=begins)
        return steps

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

    def back_up(self, leaf: int, value: float) -> None:
        """One visit of `value` for the leaf and every step up to the root."""
        for node in self.tree.upwards(leaf):
            self.tree.nodes[node.index] = dataclasses.replace(
                node, visits=node.visits + 1, value_sum=node.value_sum + value
            )
