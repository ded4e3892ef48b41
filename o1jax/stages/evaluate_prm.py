"""What a process reward model (PRM) is good for: search by its scores, and choosing among samples by them.

search_prm searches each problem at the tokens that the plain search took there. The other arms choose,
by no test, among the samples of best_of_n that hold a well-formed program. Part of the evaluate stage.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

from o1jax.records import Problem, Rollout, Tree
from o1jax.rewards.outputs import outputs_matrix
from o1jax.rewards.process import StepScorer
from o1jax.rewards.selection import by_majority, by_score
from o1jax.search.bounded import run_in_order
from o1jax.search.mcts import search_problem, search_tests
from o1jax.search.sampling import steps_of_rollout
from o1jax.stages.estimators import mean_with_interval
from o1jax.stages.evaluate_search import Comparison, Played, tokens_of
from o1jax.stages.prm_nodes import path_of

CHOOSERS = ("best_of_n_prm", "best_of_n_prm_min", "best_of_n_majority", "random")
PAIRED = (
    ("search_prm", "search"),
    ("best_of_n_prm", "best_of_n_majority"),
    ("best_of_n_prm", "random"),
    ("best_of_n_prm_min", "random"),
)


@dataclasses.dataclass(frozen=True)
class PrmComparison:
    """The PRM's arms beside those of `comparison`, of which `played` is what it generated."""

    comparison: Comparison
    played: Played
    scorer: StepScorer

    async def figures(self) -> dict[str, Any]:
        """search: {search_prm, best_of_n_prm (the highest score of the last step), best_of_n_prm_min (of
        the lowest step), best_of_n_majority (of the outputs on the visible tests' inputs), random (the
        mean over the samples)}, as Comparison.figures has its arms; search_differences, in pass rate,
        paired over problems; generated_tokens, beyond those of `played`."""
        trees = await self._trees()
        tokens = sum(tree.generated_tokens for tree in trees)
        passed = await self._chosen()  # name -> passed_P
        passed["search_prm"] = await self.comparison.passes_of_trees(trees)
        passed["search"] = await self.comparison.passes_of_trees(self.played.trees)
        costs = dict.fromkeys(CHOOSERS, tokens_of(self.played.pseudocode_P_G)) | {"search_prm": tokens}
        return {
            "search": {name: self.comparison.arm(passed[name], cost) for name, cost in costs.items()},
            "search_differences": {f"{a} - {b}": self._difference(passed[a], passed[b]) for a, b in PAIRED},
            "generated_tokens": tokens,
        }

    async def _trees(self) -> list[Tree]:
        workers, seed = self.comparison.workers, self.comparison.seed

        async def work(plain: Tree, problem: Problem) -> Tree:
            budget = self._budget(plain)  # each rollout generates a token at least
            settings = dataclasses.replace(
                self.comparison.search, leaf_value="prm", max_tokens=budget, rollouts=budget
            )
            return await search_problem(
                problem,
                workers.engine,
                workers.judge,
                workers.tokenizer,
                settings,
                seed,
                scorer=self.scorer,
            )

        items = list(zip(self.played.trees, self.comparison.problems, strict=True))
        return await run_in_order(lambda item: work(*item), items, self.comparison.concurrency)

    def _budget(self, plain: Tree) -> int:
        """The plain search's tokens less half an expansion's: a search ends with the rollout that reaches
        its budget, so that much beyond it on the mean."""
        step_tokens = [len(node.token_ids) for node in plain.nodes[1:]]
        expansion = self.comparison.search.samples * sum(step_tokens) / len(step_tokens)
        return max(1, round(plain.generated_tokens - expansion / 2))

    async def _chosen(self) -> dict[str, list[float]]:
        """passed_P of each of CHOOSERS."""
        items = list(zip(self.comparison.problems, self.played.pseudocode_P_G, strict=True))
        rows = await run_in_order(lambda item: self._choose(*item), items, self.comparison.concurrency)
        return {name: [row[name] for row in rows] for name in CHOOSERS}

    async def _choose(self, problem: Problem, group: Sequence[Rollout]) -> dict[str, float]:
        """What each of CHOOSERS takes of a problem's samples passes; 0 where none is well-formed."""
        sampler = self.comparison.sampler("pseudocode", n=1)
        tokenizer, room = sampler.tokenizer, sampler.settings.max_tokens
        answers = [steps_of_rollout(tokenizer, r, room) for r in group if r.verdict is not None]
        if not answers:
            return dict.fromkeys(CHOOSERS, 0.0)
        programs = [steps[-1].program for steps in answers]
        passed_G = await asyncio.gather(*(self.comparison.passes(problem, program) for program in programs))
        paths = [path_of(group[0].prompt_ids, steps, tokenizer.eos_token_id) for steps in answers]
        scores_G = await self.scorer.score(paths)
        return {
            "best_of_n_prm": passed_G[by_score([scores[-1] for scores in scores_G])],
            "best_of_n_prm_min": passed_G[by_score([min(scores) for scores in scores_G])],
            "best_of_n_majority": passed_G[await self._majority(problem, programs)],
            "random": sum(passed_G) / len(passed_G),
        }

    async def _majority(self, problem: Problem, programs: Sequence[str]) -> int:
        """The first program of the majority; in assertion form, where there are no inputs, the first."""
        if problem.form == "assertion":
            return 0
        inputs = [test.input for test in search_tests(problem)]
        limits = self.comparison.search.limits
        return by_majority(
            await outputs_matrix(self.comparison.workers.judge, problem, programs, inputs, limits)
        )

    def _difference(self, first_P: Sequence[float], second_P: Sequence[float]) -> dict[str, Any]:
        differences = [a - b for a, b in zip(first_P, second_P, strict=True)]
        return mean_with_interval(differences, self.comparison.seed)
