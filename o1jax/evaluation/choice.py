"""Choosing one of the samples that a search's tokens buy without any test, and search by a reward model.

search_prm searches each problem at the tokens that the plain search took there. The other arms choose among
the samples of best_of_n that are well-formed paths, as a reward model needs them. Part of the evaluate stage.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from o1jax.concurrency import run_in_order
from o1jax.engine.step_scorer import StepScorer
from o1jax.evaluation.comparison import Comparison, Generated, tokens_of
from o1jax.intervals import mean_with_interval
from o1jax.prompts.ends import end_ids
from o1jax.records import InputError, Problem, Rollout, TestCase, Tree
from o1jax.rewards.outcome import search_tests
from o1jax.sandbox.interface import Judge, Limits, unless_lost
from o1jax.sandbox.literals import parsed
from o1jax.search.mcts import Search, Searcher
from o1jax.search.steps import cut, path_of
from o1jax.stages.together import my_share
from o1jax.store import read_trees
from o1jax.tcg.gate import distinct, is_degenerate, killed
from o1jax.tcg.traces import outputs_matrix
from o1jax.train.metrics import ProgressLine

PAIRED = (
    ("search_prm", "search"),
    ("best_of_n_prm", "best_of_n_majority"),
    ("best_of_n_prm", "random"),
    ("best_of_n_prm_min", "random"),
    ("best_of_n_tcg", "best_of_n_majority"),
    ("best_of_n_tcg", "random"),
)


@dataclasses.dataclass(frozen=True)
class CasesOf:
    """What a test-case generator wrote for a problem from its question alone."""

    problem_id: str
    cases: tuple[TestCase, ...]
    generated_tokens: int
    long_prompts: int = 0  # 1 if the question is longer than the generator's context: then there is no case


@dataclasses.dataclass(frozen=True)
class ChoiceArms:
    """The arms beside those of `comparison`."""

    comparison: Comparison
    generated: Generated  # by the comparison
    scorer: StepScorer | None = None  # a process reward model, which adds its arms
    # problem id -> a generator's cases, where there is a generator, which add theirs
    cases: Mapping[str, CasesOf] = dataclasses.field(default_factory=dict)

    async def figures(self) -> dict[str, Any]:
        """search: {search_prm, best_of_n_prm (the highest score of the last step), best_of_n_prm_min (of
        the lowest step), best_of_n_tcg (agreement with the cases, among as many samples as the cases' tokens
        leave room for), best_of_n_majority (of the outputs on the visible tests' inputs), random (the mean
        over the samples)}, as Comparison.figures has its arms; search_differences, in pass rate, paired over
        problems; generated_tokens, beyond those of `generated`."""
        passed, tokens = await self._chosen()  # name -> passed_P, and name -> what it cost
        more = sum(self._case_tokens(problem) for problem in self.comparison.problems)
        if self.scorer is not None:
            trees = await self._trees(self.scorer)
            tokens["search_prm"] = sum(tree.generated_tokens for tree in trees)
            more += tokens["search_prm"]
            passed["search_prm"] = await self.comparison.passes_of_trees(trees)
        arms = {name: self.comparison.arm(passed[name], tokens[name]) for name in passed}
        passed["search"] = await self.comparison.passes_of_trees(self.generated.trees)
        return {
            "search": arms,
            "search_differences": {
                f"{a} - {b}": mean_with_interval(
                    [x - y for x, y in zip(passed[a], passed[b], strict=True)], self.comparison.seed
                )
                for a, b in PAIRED
                if a in passed
            },
            "generated_tokens": more,
        }

    async def _trees(self, scorer: StepScorer) -> list[Tree]:
        """The reward model's searches, each at the tokens of the plain one."""
        workers, store = self.comparison.workers, self.comparison.store
        plain = {tree.problem_id: tree for tree in self.generated.trees}
        with store.trees("trees_prm") as kept:
            done = {tree.problem_id for tree in read_trees(kept.directory)}

            async def work(problem: Problem) -> None:
                if problem.id in done:
                    return
                budget = self._budget(plain[problem.id])
                # Each rollout generates a token at least, so that the tokens alone end the search.
                settings = dataclasses.replace(
                    self.comparison.search, leaf_value="prm", max_tokens=budget, rollouts=budget
                )
                searcher = Searcher(workers.engine, workers.judge, workers.tokenizer, settings, scorer)
                kept.append(await Search(searcher, problem, self.comparison.seed).run())

            share = my_share(self.comparison.problems)
            line = ProgressLine("search with a process reward model", len(share))
            await run_in_order(work, share, store.concurrency, ended=line.count)
        return await store.all_trees("trees_prm", self.comparison.problems)

    def _budget(self, plain: Tree) -> int:
        """The plain search's tokens less half an expansion's: a search ends with the rollout that reaches
        its budget, so that much beyond it on the mean."""
        step_tokens = [len(node.token_ids) for node in plain.nodes[1:]]
        expansion = self.comparison.search.samples * sum(step_tokens) / len(step_tokens)
        return max(1, round(plain.generated_tokens - expansion / 2))

    async def _chosen(self) -> tuple[dict[str, list[float]], dict[str, int]]:
        """passed_P of each way to choose, and the tokens that it chose from."""
        groups = self.generated.pseudocode_P_G
        items = list(zip(self.comparison.problems, groups, strict=True))
        rows = await run_in_order(lambda item: self._choose(*item), items, self.comparison.store.concurrency)
        tokens = dict.fromkeys(self._ways(), tokens_of(groups))
        if self.cases:
            fitting = [group[: self._fitting(problem, group)] for problem, group in items]
            tokens["best_of_n_tcg"] = tokens_of(fitting) + sum(self._case_tokens(p) for p, _ in items)
        return {name: [row[name] for row in rows] for name in self._ways()}, tokens

    async def _choose(self, problem: Problem, group: Sequence[Rollout]) -> dict[str, float]:
        """Whether what each way takes of a problem's samples passes; 0 where none is well-formed, NaN where
        the judge lost a program."""
        formed = [rollout for rollout in group if rollout.verdict is not None]
        if not formed:
            return dict.fromkeys(self._ways(), 0.0)
        judge, tokenizer = self.comparison.workers.judge, self.comparison.workers.tokenizer
        limits, programs = self.comparison.search.limits, [rollout.program for rollout in formed]
        passed_G = await asyncio.gather(*(self.comparison.passes(problem, program) for program in programs))
        most = await unless_lost(majority(judge, problem, programs, limits), None)
        chosen = {"random": sum(passed_G) / len(passed_G)}
        chosen["best_of_n_majority"] = math.nan if most is None else passed_G[most]
        if self.scorer is not None:
            room = self.comparison.sample.max_tokens
            answers = [cut(tokenizer, rollout, 1, room) for rollout in formed]
            paths = [path_of(group[0].prompt_ids, steps, end_ids(tokenizer)) for steps in answers]
            scores_G = await self.scorer.score(paths)
            last_G, lowest_G = [scores[-1] for scores in scores_G], [min(scores) for scores in scores_G]
            chosen["best_of_n_prm"] = passed_G[last_G.index(max(last_G))]
            chosen["best_of_n_prm_min"] = passed_G[lowest_G.index(max(lowest_G))]
        if self.cases:
            paid = group[: self._fitting(problem, group)]
            fitting = [rollout.program for rollout in paid if rollout.verdict is not None]
            cases = self.cases[problem.id].cases
            chosen["best_of_n_tcg"] = 0.0
            if fitting:
                agreed = await unless_lost(agreement(judge, problem, fitting, cases, limits), None)
                chosen["best_of_n_tcg"] = math.nan if agreed is None else passed_G[agreed]
        return chosen

    def _ways(self) -> list[str]:
        by_scorer = ["best_of_n_prm", "best_of_n_prm_min"] if self.scorer is not None else []
        return ["random", "best_of_n_majority", *by_scorer, *(["best_of_n_tcg"] if self.cases else [])]

    def _case_tokens(self, problem: Problem) -> int:
        return self.cases[problem.id].generated_tokens if self.cases else 0

    def _fitting(self, problem: Problem, group: Sequence[Rollout]) -> int:
        """How many of a problem's samples cost as much as all of them less its cases; one at least."""
        lengths = [len(rollout.token_ids) for rollout in group]
        room = sum(lengths) - self._case_tokens(problem)
        return max(1, sum(total <= room for total in itertools.accumulate(lengths)))


async def majority(judge: Judge, problem: Problem, programs: Sequence[str], limits: Limits) -> int:
    """The first program of the largest group with equal outputs on the visible tests' inputs; in assertion
    form, where there are no inputs, the first."""
    if problem.form == "assertion":
        return 0
    inputs = [test.input for test in search_tests(problem)]
    return by_majority(await outputs_matrix(judge, problem, programs, inputs, limits))


async def agreement(
    judge: Judge, problem: Problem, programs: Sequence[str], cases: Sequence[TestCase], limits: Limits
) -> int:
    """The program that the cases and the programs that agree most choose (CodeT); cases that are degenerate
    or that the judge cannot read do not choose, and without others, as always in assertion form, it is the
    first."""
    if problem.form == "assertion":
        return 0
    readable = (case for case in cases if not is_degenerate(problem, case) and _is_readable(problem, case))
    killed_N_C = await killed(judge, problem, programs, distinct(readable, problem.form), limits)
    return by_agreement([[not k for k in row] for row in killed_N_C])


def _is_readable(problem: Problem, case: TestCase) -> bool:
    """Whether the judge takes the case: in call form, two literals of its own types (`...` is of none)."""
    if problem.form == "call":
        try:
            parsed(case.input), parsed(case.output)
        except InputError:
            return False
    return True


# Picking one of N programs, from what passed and what was printed. Ties go to the first program, so that the
# choice does not depend on anything but the samples.


def by_agreement(passes_N_C: Sequence[Sequence[bool]]) -> int:
    """The index of a program by dual execution agreement (CodeT, Chen et al., arXiv 2207.10397, sec. 2).

    Programs that pass the same cases form a group, whose score is programs x cases passed: the first
    program of the best group. One that passes nothing scores 0. Raises ValueError for N = 0.
    """
    groups = _groups([tuple(map(bool, row)) for row in passes_N_C])
    return max(groups.items(), key=lambda group: len(group[1]) * sum(group[0]))[1][0]


def by_majority(outputs_N_C: Sequence[Sequence[str | None]]) -> int:
    """The first program of the largest group whose outputs are equal on all inputs.

    Blanks at the end of lines and of the text do not count. Inputs on which every program gave None
    (malformed ones, it seems) are left out; a program with a None on another is in no group. Raises
    ValueError for N = 0 and rows of different lengths.
    """
    columns = [column for column in zip(*outputs_N_C, strict=True) if any(o is not None for o in column)]
    rows = [tuple(_stripped(column[n]) for column in columns) for n in range(len(outputs_N_C))]
    return max(_groups(rows).items(), key=lambda group: 0 if None in group[0] else len(group[1]))[1][0]


def _groups(rows_N: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    """The indices of equal rows, groups in order of their first."""
    if not rows_N:
        raise ValueError("no programs to pick from; pass at least one")
    groups: dict[Hashable, list[int]] = {}
    for index, row in enumerate(rows_N):
        groups.setdefault(row, []).append(index)
    return groups


def _stripped(output: str | None) -> str | None:
    if output is None:
        return None
    return "\n".join(line.rstrip() for line in output.splitlines()).rstrip()
