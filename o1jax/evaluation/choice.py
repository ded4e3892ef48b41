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
from o1jax.prompts.chat import Tokenizer
from o1jax.prompts.ends import end_ids
from o1jax.records import InputError, Problem, Rollout, TestCase, Tree
from o1jax.rewards.outcome import is_lost, outcome_of, search_tests
from o1jax.sandbox.interface import Judge, Limits, unless_lost
from o1jax.sandbox.literals import parsed
from o1jax.search.growth import Searcher
from o1jax.search.mcts import Search
from o1jax.search.steps import cut, path_of
from o1jax.stages.together import my_share
from o1jax.tcg.gate import distinct, is_degenerate, killed
from o1jax.tcg.traces import outputs_matrix
from o1jax.train.metrics import ProgressLine

BY_SCORER = (
    "best_of_n_prm",
    "best_of_n_prm_vote",
    "best_of_n_prm_tie",
    "best_of_n_majority_tie",
    "best_of_n_random_tie",
)
PAIRED = (
    ("search_prm", "search"),
    ("best_of_n_prm", "best_of_n_majority"),
    ("best_of_n_prm", "random"),
    ("best_of_n_prm_vote", "best_of_n_majority"),
    ("best_of_n_prm_vote", "random"),
    ("best_of_n_prm_tie", "best_of_n_majority_tie"),
    ("best_of_n_prm_tie", "best_of_n_random_tie"),
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
        """search: {search_prm, best_of_n_prm (the highest score of the last step), best_of_n_prm_vote (the
        outputs on the visible tests' inputs with the highest sum of scores), best_of_n_majority (the most
        frequent ones), random (the mean over the samples); among the samples that pass most visible tests,
        best_of_n_prm_tie (the program with the highest sum of scores), best_of_n_majority_tie (the most
        frequent one), best_of_n_random_tie (their mean); best_of_n_tcg (agreement with the cases, among as
        many samples as the cases' tokens leave room for)}, as Comparison.figures has its arms;
        search_differences, in pass rate, paired over problems; generated_tokens, beyond those of
        `generated`."""
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
            line = ProgressLine("search with a process reward model", len(my_share(self.comparison.problems)))
            counts = itertools.count(1)

            async def work(problem: Problem) -> None:
                budget = self._budget(plain[problem.id])
                # Each rollout generates a token at least, so that the tokens alone end the search.
                settings = dataclasses.replace(
                    self.comparison.search,
                    algorithm="uct",
                    leaf_value="prm",
                    max_tokens=budget,
                    rollouts=budget,
                )
                searcher = Searcher(workers.engine, workers.judge, workers.tokenizer, settings, scorer)
                kept.append(await Search(searcher, problem, self.comparison.seed).run())
                line.count(next(counts))

            await store.work_through("trees_prm", self.comparison.problems, work, kept)
        return store.all_trees("trees_prm", self.comparison.problems)

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
        if is_lost(formed):
            return dict.fromkeys(self._ways(), math.nan)
        if not formed:
            return dict.fromkeys(self._ways(), 0.0)
        judge, tokenizer = self.comparison.workers.judge, self.comparison.workers.tokenizer
        limits, programs = self.comparison.search.limits, [rollout.program for rollout in formed]
        passed_G = await asyncio.gather(*(self.comparison.passes(problem, program) for program in programs))
        outputs_G = await unless_lost(visible_outputs(judge, problem, programs, limits), None)
        ones_G = [1.0] * len(formed)

        def voted(weight_G: Sequence[float]) -> float:
            return math.nan if outputs_G is None else passed_G[by_vote(outputs_G, weight_G)]

        chosen = {"random": sum(passed_G) / len(passed_G), "best_of_n_majority": voted(ones_G)}
        if self.scorer is not None:
            score_G = await last_scores(self.scorer, tokenizer, formed, self.comparison.sample.max_tokens)
            chosen["best_of_n_prm"] = passed_G[score_G.index(max(score_G))]
            chosen["best_of_n_prm_vote"] = voted(score_G)
            # Equal outputs on these inputs have all that pass them, so that here programs themselves vote.
            best = first_by_tests(formed)
            texts = [(programs[i].strip(),) for i in best]
            for name, weight_G in (("prm", score_G), ("majority", ones_G)):
                winner = best[by_vote(texts, [weight_G[i] for i in best])]
                chosen[f"best_of_n_{name}_tie"] = passed_G[winner]
            chosen["best_of_n_random_tie"] = sum(passed_G[i] for i in best) / len(best)
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
        by_scorer = BY_SCORER if self.scorer is not None else ()
        return ["random", "best_of_n_majority", *by_scorer, *(["best_of_n_tcg"] if self.cases else [])]

    def _case_tokens(self, problem: Problem) -> int:
        return self.cases[problem.id].generated_tokens if self.cases else 0

    def _fitting(self, problem: Problem, group: Sequence[Rollout]) -> int:
        """How many of a problem's samples cost as much as all of them less its cases; one at least."""
        lengths = [len(rollout.token_ids) for rollout in group]
        room = sum(lengths) - self._case_tokens(problem)
        return max(1, sum(total <= room for total in itertools.accumulate(lengths)))


async def visible_outputs(
    judge: Judge, problem: Problem, programs: Sequence[str], limits: Limits
) -> list[tuple[str | None, ...]]:
    """outputs_N_C of programs on the visible tests' inputs, as `by_vote` compares them; in assertion form,
    where there are no inputs, each program's own text."""
    if problem.form == "assertion":
        return [(program.strip(),) for program in programs]
    inputs = [test.input for test in search_tests(problem)]
    return comparable(await outputs_matrix(judge, problem, programs, inputs, limits))


async def last_scores(
    scorer: StepScorer, tokenizer: Tokenizer, rollouts: Sequence[Rollout], room: int
) -> list[float]:
    """The score of the last step, its program's, of each answer to the pseudocode prompt that had `room`
    tokens; 0 of a malformed one."""
    # A program may be read in a malformed answer too, but no such step was ever scored in training.
    formed = [i for i, rollout in enumerate(rollouts) if not rollout.error]
    answers = [cut(tokenizer, rollouts[i], 1, room) for i in formed]
    ends, scores_G = end_ids(tokenizer), [0.0] * len(rollouts)
    paths = [path_of(rollouts[i].prompt_ids, s, ends) for i, s in zip(formed, answers, strict=True)]
    for i, scores in zip(formed, await scorer.score(paths), strict=True):
        scores_G[i] = scores[-1]
    return scores_G


def first_by_tests(rollouts: Sequence[Rollout]) -> list[int]:
    """Which of judged rollouts pass the most of the tests that they were judged by."""
    rates = [outcome_of(rollout.verdict, "fraction") for rollout in rollouts]
    return [i for i, rate in enumerate(rates) if rate == max(rates)]


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


def comparable(outputs_N_C: Sequence[Sequence[str | None]]) -> list[tuple[str | None, ...]]:
    """Outputs of which equal ones say the same: without blanks at the end of lines and of the text, and
    without the inputs on which every program gave None (malformed ones, it seems). Raises ValueError for rows
    of different lengths."""
    columns = [column for column in zip(*outputs_N_C, strict=True) if any(o is not None for o in column)]
    return [tuple(_stripped(column[n]) for column in columns) for n in range(len(outputs_N_C))]


def by_vote(rows_N: Sequence[tuple[str | None, ...]], weight_N: Sequence[float]) -> int:
    """The heaviest program of the group of equal rows with the largest sum of weights.

    With equal weights that is the first of the largest group: the majority. With scores that are
    probabilities, a sum is the number of programs in the group that are right, as the scorer expects it, so
    that neither many copies of a doubtful answer nor one that is overrated wins. A program with a None is in
    no group. Raises ValueError for N = 0.
    """

    def weight_of(row: tuple[str | None, ...], group: Sequence[int]) -> float:
        return 0.0 if None in row else sum(weight_N[i] for i in group)

    groups = _groups(rows_N)
    best = max(groups, key=lambda row: weight_of(row, groups[row]))
    return max(groups[best], key=lambda i: weight_N[i])


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
