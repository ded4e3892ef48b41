"""Search beside sampling on the same problems, at equal generated tokens, and ASPR (D8).

Search, best-of-n and the direct best-of-n each choose one program a problem by the visible tests;
the final tests then decide. Where an earlier evaluation's samples are judged again, its choices stand.
Part of the evaluate stage.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from o1jax.evaluation.kept import Kept
from o1jax.intervals import mean_with_interval
from o1jax.records import Node, Problem, Rollout, TestCase, Tree
from o1jax.sandbox.interface import job_of
from o1jax.search.mcts import SearchSettings, search_many, search_tests
from o1jax.search.samples import program_of
from o1jax.search.sampling import (
    Prompt,
    Sampler,
    SampleSettings,
    judged,
    program_of_rollout,
    sample_last_step,
    sample_paths,
    sample_tokens,
)
from o1jax.search.tree import passing_leaves
from o1jax.stages.together import my_share
from o1jax.stages.workers import Workers

Tests = Callable[[Problem], tuple[TestCase, ...]]


@dataclasses.dataclass(frozen=True)
class Played:
    """What was generated for a comparison, problem by problem."""

    trees: Sequence[Tree]
    pseudocode_P_G: Sequence[Sequence[Rollout]]
    direct_P_G: Sequence[Sequence[Rollout]]

    @property
    def budget(self) -> int:
        """The tokens that search took."""
        return sum(tree.generated_tokens for tree in self.trees)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One evaluation of search: the workers, the settings, the problems and the tests that decide."""

    workers: Workers
    search: SearchSettings
    sample: SampleSettings
    aspr_samples: int
    problems: Sequence[Problem]
    final_tests: Tests
    seed: int
    kept: Kept

    async def play(self) -> Played:
        """Search, then samples of both prompts at the tokens that it took."""
        trees = await self._trees()
        return Played(trees, await self._best_of("pseudocode", trees), await self._best_of("direct", trees))

    async def figures(self, played: Played) -> dict[str, Any]:
        """search: {search, best_of_n, direct_best_of_n}, each the pass rate of the chosen programs and
        the tokens it cost; aspr; generated_tokens of all of it."""
        trees, pseudocode_P_G, direct_P_G = played.trees, played.pseudocode_P_G, played.direct_P_G
        spent = played.budget + tokens_of(pseudocode_P_G) + tokens_of(direct_P_G)
        aspr, aspr_tokens = await self._aspr(trees, direct_P_G)
        return {
            "search": {
                "search": self.arm(await self.passes_of_trees(trees), played.budget),
                "best_of_n": await self._chosen_rollouts("pseudocode", pseudocode_P_G),
                "direct_best_of_n": await self._chosen_rollouts("direct", direct_P_G),
            },
            "aspr": aspr,
            "generated_tokens": spent + aspr_tokens,
        }

    def sampler(self, prompt: Prompt, n: int) -> Sampler:
        sample = dataclasses.replace(self.sample, prompt=prompt, n=n)
        return Sampler(self.workers.engine, self.workers.judge, self.workers.tokenizer, sample)

    async def _trees(self) -> list[Tree]:
        workers = self.workers
        await search_many(
            my_share(self.problems),
            workers.engine,
            workers.judge,
            workers.tokenizer,
            self.search,
            self.seed,
            concurrency=self.kept.concurrency,
            store=self.kept.trees("trees"),
        )
        return await self.kept.all_trees("trees", self.problems)

    async def _best_of(self, prompt: Prompt, trees: Sequence[Tree]) -> list[list[Rollout]]:
        """Samples judged on the visible tests, for each problem at the tokens that its search took."""
        sampler = self.sampler(prompt, n=4)
        budgets = {tree.problem_id: tree.generated_tokens for tree in trees}

        async def sample(problem: Problem) -> list[Rollout]:
            tests, tokens = search_tests(problem), budgets[problem.id]
            return await sample_tokens(sampler, problem, tests, self.seed, tokens=tokens)

        async def stand(problem: Problem, rollouts: Sequence[Rollout]) -> list[Rollout]:
            return list(rollouts)

        return await self.kept.groups(f"best_of_n/{prompt}", self.problems, sample, stand)

    @staticmethod
    def _of_tree(tree: Tree) -> str:
        """The program of the leaf with the highest value, the first of equals; "" without one."""
        judged: list[Node] = [node for node in tree.nodes if node.verdict is not None]
        return program_of(max(judged, key=lambda node: node.value)) if judged else ""

    async def _chosen_rollouts(
        self, prompt: Prompt, rollouts_P_G: Sequence[Sequence[Rollout]]
    ) -> dict[str, Any]:
        """The rollout that passes most visible tests, the first of equals."""
        sampler = self.sampler(prompt, n=1)
        programs = []
        for problem, group in zip(self.problems, rollouts_P_G, strict=True):
            right = [rollout for rollout in group if rollout.verdict is not None]
            best = max(right, key=lambda rollout: rollout.verdict.pass_rate, default=None)
            programs.append(program_of_rollout(sampler, problem, best) if best else "")
        passed_P = await asyncio.gather(*map(self.passes, self.problems, programs))
        return self.arm(passed_P, tokens_of(rollouts_P_G))

    async def passes_of_trees(self, trees: Sequence[Tree]) -> list[float]:
        """passed_P of each tree's program."""
        programs = [self._of_tree(tree) for tree in trees]
        return await asyncio.gather(*map(self.passes, self.problems, programs))

    def arm(self, passed_P: Sequence[float], tokens: int) -> dict[str, Any]:
        """An arm's figures: its pass rate over problems, and the tokens that its answers cost."""
        return {"pass_rate": mean_with_interval(passed_P, self.seed), "generated_tokens": tokens}

    async def passes(self, problem: Problem, program: str) -> float:
        """1 if the program passes the final tests, else 0; none ("") passes nothing."""
        if not program:
            return 0.0
        job = job_of(problem, program, self.final_tests(problem), self.search.limits)
        return float((await self.workers.judge.judge(job)).passed)

    async def _aspr(self, trees: Sequence[Tree], direct_P_G: Sequence[Sequence[Rollout]]) -> tuple[dict, int]:
        """pseudocode: over the problems that search solved; common: both prompts over the problems
        that search and direct sampling solved."""
        solved = [i for i, tree in enumerate(trees) if tree.solved]
        common = [i for i in solved if any(rollout.reward for rollout in direct_P_G[i])]
        by_step = dict(zip(solved, await self._last_steps([trees[i] for i in solved]), strict=True))
        by_prompt = await self._from_prompt([self.problems[i] for i in common])
        groups = [*by_step.values(), *by_prompt]
        return {
            "pseudocode": self._share(by_step.values()),
            "common": {
                "pseudocode": self._share(by_step[i] for i in common),
                "direct": self._share(by_prompt),
            },
        }, sum(len(rollout.token_ids) for group in groups for rollout in group)

    async def _last_steps(self, trees: Sequence[Tree]) -> list[list[Rollout]]:
        """Fresh programs from the last pseudocode step of each tree's passing path."""
        sampler, tree_of = self.sampler("pseudocode", self.aspr_samples), {t.problem_id: t for t in trees}

        async def sample(problem: Problem) -> list[Rollout]:
            tests = self.final_tests(problem)
            return await sample_last_step(sampler, tree_of[problem.id], problem, tests, self.seed)

        async def again(problem: Problem, rollouts: Sequence[Rollout]) -> list[Rollout]:
            number = passing_leaves(tree_of[problem.id])[0].depth
            return await judged(sampler, problem, self.final_tests(problem), rollouts, number)

        solved = [problem for problem in self.problems if problem.id in tree_of]
        return await self.kept.groups("aspr/pseudocode", solved, sample, again)

    async def _from_prompt(self, problems: Sequence[Problem]) -> list[list[Rollout]]:
        """Fresh answers to the direct prompt."""
        sampler = self.sampler("direct", self.aspr_samples)

        async def sample(problem: Problem) -> list[Rollout]:
            return await sample_paths(sampler, problem, self.final_tests(problem), self.seed)

        async def again(problem: Problem, rollouts: Sequence[Rollout]) -> list[Rollout]:
            return await judged(sampler, problem, self.final_tests(problem), rollouts)

        return await self.kept.groups("aspr/direct", problems, sample, again)

    def _share(self, groups) -> dict[str, Any] | None:
        """The mean over problems of the share of samples that pass; None over no problems."""
        shares = [sum(rollout.reward for rollout in group) / len(group) for group in groups]
        return mean_with_interval(shares, self.seed) if shares else None


def tokens_of(rollouts_P_G: Sequence[Sequence[Rollout]]) -> int:
    """The tokens that samples cost."""
    return sum(len(rollout.token_ids) for group in rollouts_P_G for rollout in group)
