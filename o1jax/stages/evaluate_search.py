"""Search beside sampling on the same problems, at equal generated tokens, and ASPR (D8).

Search, best-of-n and the direct best-of-n each choose one program a problem by the visible tests;
the final tests then decide. Part of the evaluate stage.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from o1jax.records import Node, Problem, Rollout, TestCase, Tree, Verdict
from o1jax.sandbox.interface import Limits, job_of
from o1jax.search.bounded import run_in_order
from o1jax.search.mcts import SearchSettings, search_many, search_tests
from o1jax.search.samples import program_of
from o1jax.search.sampling import (
    Prompt,
    Sampler,
    SampleSettings,
    program_of_rollout,
    sample_last_step,
    sample_paths,
    sample_tokens,
)
from o1jax.stages.estimators import mean_with_interval
from o1jax.stages.workers import Workers

Tests = Callable[[Problem], tuple[TestCase, ...]]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One evaluation of search: the workers, the settings, the problems and the tests that decide."""

    workers: Workers
    search: SearchSettings
    sample: SampleSettings
    aspr_samples: int
    concurrency: int
    problems: Sequence[Problem]
    final_tests: Tests
    seed: int

    async def figures(self) -> dict[str, Any]:
        """search: {search, best_of_n, direct_best_of_n}, each the pass rate of the chosen programs and
        the tokens it cost; aspr; generated_tokens of all of it."""
        trees = await self._trees()
        budgets = [tree.generated_tokens for tree in trees]
        pseudocode_P_G = await self._best_of("pseudocode", budgets)
        direct_P_G = await self._best_of("direct", budgets)
        spent = sum(budgets) + sum(
            len(r.token_ids) for p in (pseudocode_P_G, direct_P_G) for g in p for r in g
        )
        aspr, aspr_tokens = await self._aspr(trees, direct_P_G)
        return {
            "search": {
                "search": await self._chosen([self._of_tree(tree) for tree in trees], sum(budgets)),
                "best_of_n": await self._chosen_rollouts("pseudocode", pseudocode_P_G),
                "direct_best_of_n": await self._chosen_rollouts("direct", direct_P_G),
            },
            "aspr": aspr,
            "generated_tokens": spent + aspr_tokens,
        }

    def _sampler(self, prompt: Prompt, n: int) -> Sampler:
        sample = dataclasses.replace(self.sample, prompt=prompt, n=n)
        return Sampler(self.workers.engine, self.workers.judge, self.workers.tokenizer, sample)

    async def _trees(self) -> list[Tree]:
        workers = self.workers
        return await search_many(
            self.problems,
            workers.engine,
            workers.judge,
            workers.tokenizer,
            self.search,
            self.seed,
            concurrency=self.concurrency,
        )

    async def _best_of(self, prompt: Prompt, budgets_P: Sequence[int]) -> list[list[Rollout]]:
        """Samples judged on the visible tests, for each problem at the tokens that its search took."""
        sampler = self._sampler(prompt, n=4)

        async def work(item: tuple[Problem, int]) -> list[Rollout]:
            problem, tokens = item
            return await sample_tokens(sampler, problem, search_tests(problem), self.seed, tokens=tokens)

        return await run_in_order(work, list(zip(self.problems, budgets_P, strict=True)), self.concurrency)

    @staticmethod
    def _of_tree(tree: Tree) -> str:
        """The program of the leaf with the highest value, the first of equals; "" without one."""
        judged: list[Node] = [node for node in tree.nodes if node.verdict is not None]
        return program_of(max(judged, key=lambda node: node.value)) if judged else ""

    async def _chosen_rollouts(
        self, prompt: Prompt, rollouts_P_G: Sequence[Sequence[Rollout]]
    ) -> dict[str, Any]:
        """The rollout that passes most visible tests, the first of equals."""
        sampler = self._sampler(prompt, n=1)
        programs = []
        for group in rollouts_P_G:
            judged = [rollout for rollout in group if rollout.verdict is not None]
            best = max(judged, key=lambda rollout: rollout.verdict.pass_rate, default=None)
            programs.append(program_of_rollout(sampler, best) if best else "")
        return await self._chosen(programs, sum(len(r.token_ids) for group in rollouts_P_G for r in group))

    async def _chosen(self, programs_P: Sequence[str], tokens: int) -> dict[str, Any]:
        verdicts = await asyncio.gather(*map(self._final, self.problems, programs_P))
        passed = [float(verdict is not None and verdict.passed) for verdict in verdicts]
        return {"pass_rate": mean_with_interval(passed, self.seed), "generated_tokens": tokens}

    async def _final(self, problem: Problem, program: str) -> Verdict | None:
        if not program:
            return None
        return await self.workers.judge.judge(
            job_of(problem, program, self.final_tests(problem), self._limits)
        )

    @property
    def _limits(self) -> Limits:
        return self.search.limits

    async def _aspr(self, trees: Sequence[Tree], direct_P_G: Sequence[Sequence[Rollout]]) -> tuple[dict, int]:
        """pseudocode: over the problems that search solved; common: both prompts over the problems
        that search and direct sampling solved."""
        solved = [i for i, tree in enumerate(trees) if tree.solved]
        pseudocode_sampler = self._sampler("pseudocode", self.aspr_samples)
        direct_sampler = self._sampler("direct", self.aspr_samples)

        async def last_step(i: int) -> list[Rollout]:
            problem = self.problems[i]
            tests = self.final_tests(problem)
            return await sample_last_step(pseudocode_sampler, trees[i], problem, tests, self.seed)

        async def from_prompt(i: int) -> list[Rollout]:
            problem = self.problems[i]
            return await sample_paths(direct_sampler, problem, self.final_tests(problem), self.seed)

        common = [i for i in solved if any(rollout.reward for rollout in direct_P_G[i])]
        by_step = dict(zip(solved, await run_in_order(last_step, solved, self.concurrency), strict=True))
        by_prompt = await run_in_order(from_prompt, common, self.concurrency)
        groups = [*by_step.values(), *by_prompt]
        return {
            "pseudocode": self._share(by_step.values()),
            "common": {
                "pseudocode": self._share(by_step[i] for i in common),
                "direct": self._share(by_prompt),
            },
        }, sum(len(rollout.token_ids) for group in groups for rollout in group)

    def _share(self, groups) -> dict[str, Any] | None:
        """The mean over problems of the share of samples that pass; None over no problems."""
        shares = [sum(rollout.reward for rollout in group) / len(group) for group in groups]
        return mean_with_interval(shares, self.seed) if shares else None
