"""Search beside sampling on the same problems, at equal generated tokens, and ASPR (D8).

Search, best-of-n and the direct best-of-n each choose one program a problem by the visible tests; the final
tests then decide. Equal are the tokens of all problems together, within half an answer, and what ends the
work on a problem: the search's stop_after_passes and stop_after_fails. Not equal are the tokens of one
problem: where search stops early, sampling that got those few tokens, and no more elsewhere, would have one
try where search had many. Sampling that reaches the rule everywhere spends less; each arm says what it
spent.

The samples of best-of-n are read as strictly as a search reads its steps; those of the direct prompt and of
ASPR as the evaluation does. Where an earlier evaluation's samples are judged again, its choices stand, but
for programs that are read otherwise now. Part of the evaluate stage.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from o1jax.evaluation.sample_store import SampleStore
from o1jax.intervals import mean_with_interval
from o1jax.records import Problem, Prompt, Rollout, Tree
from o1jax.rewards.outcome import final_tests, judge_program, outcome_of, search_tests, share_passed
from o1jax.search.growth import Searcher, SearchSettings
from o1jax.search.mcts import search_of
from o1jax.search.samples import program_of
from o1jax.search.sampling import (
    Sampler,
    SampleSettings,
    judged,
    read,
    sample_last_step,
    sample_more,
    sample_paths,
    sample_to_total,
)
from o1jax.search.tree import passing_leaves
from o1jax.stages.together import my_share
from o1jax.stages.workers import Workers


@dataclasses.dataclass(frozen=True)
class Generated:
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
    """One evaluation of search: the workers, the settings and the problems."""

    workers: Workers
    search: SearchSettings
    sample: SampleSettings  # its prompt and its n are set for each arm
    aspr_samples: int  # programs from the last step of a passing path
    problems: Sequence[Problem]
    seed: int
    store: SampleStore

    async def generate(self) -> Generated:
        """Search, then samples of both prompts at the tokens that it took in all."""
        trees = await self._trees()
        budget = Generated(trees, (), ()).budget
        pseudocode_P_G = await self._best_of("pseudocode", budget)
        return Generated(trees, pseudocode_P_G, await self._best_of("direct", budget))

    async def figures(self, generated: Generated) -> dict[str, Any]:
        """search: {search, best_of_n, direct_best_of_n}, each the pass rate of the chosen programs and
        the tokens it cost; aspr; generated_tokens of all of it."""
        trees, groups = generated.trees, (generated.pseudocode_P_G, generated.direct_P_G)
        aspr, aspr_tokens = await self._aspr(trees, generated.direct_P_G)
        return {
            "search": {
                "search": self.arm(await self.passes_of_trees(trees), generated.budget),
                "best_of_n": await self._chosen_rollouts(generated.pseudocode_P_G),
                "direct_best_of_n": await self._chosen_rollouts(generated.direct_P_G),
            },
            "aspr": aspr,
            "generated_tokens": generated.budget + sum(map(tokens_of, groups)) + aspr_tokens,
        }

    def sampler(self, prompt: Prompt, n: int) -> Sampler:
        sample = dataclasses.replace(self.sample, prompt=prompt, n=n)
        return Sampler(self.workers.engine, self.workers.judge, self.workers.tokenizer, sample)

    async def _trees(self) -> list[Tree]:
        workers = self.workers
        searcher = Searcher(workers.engine, workers.judge, workers.tokenizer, self.search)
        for problem in my_share(self.problems):  # InputError before anything is searched
            search_of(searcher, problem, self.seed)
        with self.store.trees("trees") as kept:

            async def search(problem: Problem) -> None:
                kept.append(await search_of(searcher, problem, self.seed).run())

            await self.store.work_through("trees", self.problems, search, kept)
        return self.store.all_trees("trees", self.problems)

    async def _best_of(self, prompt: Prompt, tokens: int) -> list[list[Rollout]]:
        """Samples judged on the visible tests, at so many tokens in all, by the search's stop rule."""
        sampler, name = self.sampler(prompt, n=1), f"best_of_n/{prompt}"
        if prompt == "pseudocode":
            strict = dataclasses.replace(sampler.settings, extract="strict")
            sampler = dataclasses.replace(sampler, settings=strict)
        sampled = {}
        if not self.store.has(name):
            sampled = await self._sample_in_rounds(sampler, f"{name}.rounds", tokens)

        async def kept(problem: Problem) -> list[Rollout]:
            return sampled[problem.id]

        groups = await self.store.groups(
            name, self.problems, kept, lambda p, group: _read_otherwise(sampler, p, group)
        )
        self.store.remove(f"{name}.rounds")
        return groups

    async def _sample_in_rounds(self, sampler: Sampler, place: str, tokens: int) -> dict[str, list[Rollout]]:
        """sample_to_total, each round in a file of `place`, from which a killed evaluation goes on."""

        async def sample_round(
            number: int, open_problems: Sequence[Problem], before: int, n: int
        ) -> dict[str, list[Rollout]]:
            groups = await self.store.groups(
                f"{place}/{number}",
                open_problems,
                lambda p: sample_more(sampler, p, search_tests(p), self.seed, before, n),
                lambda p, group: judged(sampler, p, search_tests(p), group),
            )
            return {problem.id: group for problem, group in zip(open_problems, groups, strict=True)}

        groups = await sample_to_total(self.problems, tokens, self.search.stop, self.seed, sample_round)
        return {problem.id: group for problem, group in zip(self.problems, groups, strict=True)}

    async def _chosen_rollouts(self, rollouts_P_G: Sequence[Sequence[Rollout]]) -> dict[str, Any]:
        """The arm of the rollouts that pass most visible tests, the first of equals."""
        programs = []
        for group in rollouts_P_G:
            formed = [r for r in group if r.verdict is not None and not r.verdict.lost]
            best = max(formed, key=lambda rollout: outcome_of(rollout.verdict, "fraction"), default=None)
            programs.append(best.program if best else "")
        passed_P = await asyncio.gather(*map(self.passes, self.problems, programs))
        return self.arm(passed_P, tokens_of(rollouts_P_G))

    async def passes_of_trees(self, trees: Sequence[Tree]) -> list[float]:
        """passed_P of each tree's program: that of the leaf with the highest value, the first of equals."""
        programs = []
        for tree in trees:
            judged = [node for node in tree.nodes if node.verdict is not None]
            best = max(judged, key=lambda node: node.value, default=None)
            programs.append(program_of(best) if best else "")
        return await asyncio.gather(*map(self.passes, self.problems, programs))

    def arm(self, passed_P: Sequence[float], tokens: int) -> dict[str, Any]:
        """An arm's figures: its pass rate over problems, and the tokens that its answers cost."""
        return {"pass_rate": mean_with_interval(passed_P, self.seed), "generated_tokens": tokens}

    async def passes(self, problem: Problem, program: str) -> float:
        """1 if the program passes the final tests, else 0; none ("") passes nothing; NaN where the judge lost
        it."""
        verdict = None
        if program:
            judge, limits = self.workers.judge, self.search.limits
            verdict = await judge_program(judge, problem, program, final_tests(problem), limits)
            if verdict.lost:
                return math.nan
        return outcome_of(verdict)

    async def _aspr(self, trees: Sequence[Tree], direct_P_G: Sequence[Sequence[Rollout]]) -> tuple[dict, int]:
        """pseudocode: over the problems that search solved; common: both prompts, each with fresh answers,
        over the problems that search and direct sampling solved."""
        solved = [i for i, tree in enumerate(trees) if tree.solved]
        common = [i for i in solved if any(rollout.reward for rollout in direct_P_G[i])]
        by_step = dict(zip(solved, await self._last_steps([trees[i] for i in solved]), strict=True))
        sampler = self.sampler("direct", self.aspr_samples)
        by_prompt = await self.store.groups(
            "aspr/direct",
            [self.problems[i] for i in common],
            lambda p: sample_paths(sampler, p, final_tests(p), self.seed),
            lambda p, group: judged(sampler, p, final_tests(p), read(sampler, p, group)),
        )
        return {
            "pseudocode": self._share(by_step.values()),
            # A method that solves only easy problems would have the higher ASPR: both are compared on the
            # same ones.
            "common": {
                "pseudocode": self._share(by_step[i] for i in common),
                "direct": self._share(by_prompt),
            },
        }, tokens_of([*by_step.values(), *by_prompt])

    async def _last_steps(self, trees: Sequence[Tree]) -> list[list[Rollout]]:
        """Fresh programs from the last pseudocode step of each tree's passing path."""
        sampler, tree_of = self.sampler("pseudocode", self.aspr_samples), {t.problem_id: t for t in trees}

        async def again(problem: Problem, group: Sequence[Rollout]) -> list[Rollout]:
            number = passing_leaves(tree_of[problem.id])[0].depth  # of the step that they begin with
            return await judged(sampler, problem, final_tests(problem), read(sampler, problem, group, number))

        return await self.store.groups(
            "aspr/pseudocode",
            [problem for problem in self.problems if problem.id in tree_of],
            lambda p: sample_last_step(sampler, tree_of[p.id], p, final_tests(p), self.seed),
            again,
        )

    def _share(self, groups: Iterable[Sequence[Rollout]]) -> dict[str, Any] | None:
        """The mean over problems of the share of samples that pass; None over no problems."""
        shares = list(map(share_passed, groups))
        return mean_with_interval(shares, self.seed) if shares else None


async def _read_otherwise(sampler: Sampler, problem: Problem, group: Sequence[Rollout]) -> list[Rollout]:
    """Samples read by the present settings; those whose program is another one are judged again, on the
    visible tests."""
    fresh = read(sampler, problem, group)
    stand = [new.program == old.program for new, old in zip(fresh, group, strict=True)]
    others = [new for new, stands in zip(fresh, stand, strict=True) if not stands]
    newly = iter(await judged(sampler, problem, search_tests(problem), others))
    return [new if stands else next(newly) for new, stands in zip(fresh, stand, strict=True)]


def tokens_of(rollouts_P_G: Iterable[Sequence[Rollout]]) -> int:
    """The tokens that samples cost."""
    return sum(len(rollout.token_ids) for group in rollouts_P_G for rollout in group)
