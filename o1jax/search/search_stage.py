"""Step 2: searches every problem with the policy; the trees go to trees/.

Inputs: policy (a stage that trains one), problems (check_problems) and, where search.leaf_value is "prm",
prm. With draw.problems, so many of the problems are searched, drawn by what the inputs scout and found_<k>,
stages of sampling and search, found before; posterior.parquet keeps what was known of all (posterior.py). A
stage that was killed goes on with the problems whose trees are not written yet. Trains nothing.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from collections.abc import Mapping, Sequence

from etils import epath
from pydantic import PositiveInt

from o1jax.parallel.memory import report_held
from o1jax.records import Node, Problem, Rollout, Tree
from o1jax.search.growth import Searcher, SearchSettings
from o1jax.search.mcts import search_of
from o1jax.search.posterior import DrawSettings, drawn_problems, found_before
from o1jax.search.tree import passing_leaves
from o1jax.stages.leases import by_problem, work_through
from o1jax.stages.manifest import StageResult
from o1jax.stages.problems import read_problems
from o1jax.stages.together import my_share
from o1jax.stages.workers import EngineSettings, open_scorer, sampling_workers, scorer_timings
from o1jax.store import ShardWriter, read_shards, read_trees
from o1jax.train.metrics import ProgressLine


@dataclasses.dataclass(frozen=True)
class Settings:
    """The search of a set of problems."""

    search: SearchSettings = SearchSettings()
    engine: EngineSettings = EngineSettings()
    draw: DrawSettings = DrawSettings()  # which problems are searched
    concurrency: PositiveInt = 64  # problems searched at once
    scorer_slots: PositiveInt = 16  # paths in one forward pass of the process reward model


@dataclasses.dataclass(frozen=True)
class TreeFigures:
    """What the stage's figures need of a tree: a row beside each, so that of several processes none waits
    until one has read all trees."""

    problem_id: str
    solved: bool
    mixed: bool  # with leaves that pass and others that do not
    passing_paths: int
    rollouts: int
    judged_programs: int
    dead_paths: int
    generated_tokens: int


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: problems, solved, solved_share, mixed, passing_paths, rollouts, judged_programs, dead_paths,
    generated_tokens (sums of TreeFigures) and, by difficulty, the share solved."""
    problems = drawn_problems(out, read_problems(inputs["problems"]), settings.draw, inputs, seed)
    in_work_order = longest_first(problems, found_before(inputs))
    timings = asyncio.run(_search(out, settings, inputs, in_work_order, seed))
    # A process that was killed may have kept a tree and not its row.
    rows = {id: row for id, (row, *_) in by_problem(out / "tree_figures", TreeFigures).items()}
    if any(problem.id not in rows for problem in problems):
        rows = {tree.problem_id: figures_of(tree) for tree in read_trees(out / "trees")}
    return StageResult(_figures(problems, [rows[problem.id] for problem in problems]), timings)


def longest_first(problems: Sequence[Problem], found: Sequence[epath.Path]) -> list[Problem]:
    """The problems in the order of the work that is to be expected. By what stages of search and sampling
    found, those come first that never passed, and of equals those whose answers were longest: at the end of a
    search no process then waits long for another's last one. Without such stages the order stays."""
    passed: set[str] = set()
    tokens: collections.Counter[str] = collections.Counter()
    for directory in found:
        for tree in read_trees(directory / "trees"):
            tokens[tree.problem_id] += tree.generated_tokens
            passed |= {tree.problem_id} if tree.solved else set()
        for rollout in read_shards(directory / "rollouts", Rollout):
            tokens[rollout.problem_id] += len(rollout.token_ids)
            passed |= {rollout.problem_id} if rollout.reward == 1 else set()
    return sorted(problems, key=lambda problem: (problem.id in passed, -tokens[problem.id]))


async def _search(
    out: epath.Path,
    settings: Settings,
    inputs: Mapping[str, epath.Path],
    problems: Sequence[Problem],
    seed: int,
) -> dict[str, float]:
    """Searches the problems whose trees are not in trees/ yet; returns the timings."""
    line, solved = ProgressLine("search", len(my_share(problems))), []
    context = settings.engine.context
    async with (
        sampling_workers(inputs["policy"], settings.engine) as workers,
        open_scorer(inputs, workers.tokenizer, slots=settings.scorer_slots, context=context) as scorer,
    ):
        report_held({} if scorer is None else {"reward model": scorer.params})
        searcher = Searcher(workers.engine, workers.judge, workers.tokenizer, settings.search, scorer)
        for problem in my_share(problems):  # InputError before anything is searched
            search_of(searcher, problem, seed)
        with (
            ShardWriter(out / "tree_figures", TreeFigures) as rows,
            ShardWriter(out / "trees", Tree) as trees,
        ):

            async def search(problem: Problem) -> None:
                tree = await search_of(searcher, problem, seed).run()
                rows.append(figures_of(tree))
                trees.append(tree)
                solved.append(tree.solved)
                # How many are solved is said at the end alone: easy problems end first, so that a share of
                # those that ended would begin near 1 and fall.
                line.show(len(solved), "")

            await work_through(out, "trees", problems, search, trees, settings.concurrency)
        line.show(len(solved), f"solved {sum(solved)}", now=True)
        return workers.timings() | scorer_timings(scorer)


def figures_of(tree: Tree) -> TreeFigures:
    """A tree's row."""
    return TreeFigures(
        problem_id=tree.problem_id,
        solved=tree.solved,
        mixed=tree.solved and any(_fails(node) for node in tree.nodes),
        passing_paths=len(passing_leaves(tree)),
        rollouts=tree.rollouts,
        judged_programs=tree.judged_programs,
        dead_paths=sum(bool(node.error) for node in tree.nodes),
        generated_tokens=tree.generated_tokens,
    )


def _figures(problems: Sequence[Problem], rows: Sequence[TreeFigures]) -> dict:
    by_difficulty: dict[str, list[bool]] = {}
    for problem, row in zip(problems, rows, strict=True):
        by_difficulty.setdefault(problem.difficulty or "all", []).append(row.solved)
    solved = sum(row.solved for row in rows)
    return {
        "problems": len(rows),
        "solved": solved,
        "solved_share": round(solved / len(rows), 4) if rows else 0.0,
        "solved_by_difficulty": {key: round(sum(v) / len(v), 4) for key, v in sorted(by_difficulty.items())},
        "mixed": sum(row.mixed for row in rows),
        "passing_paths": sum(row.passing_paths for row in rows),
        "rollouts": sum(row.rollouts for row in rows),
        "judged_programs": sum(row.judged_programs for row in rows),
        "dead_paths": sum(row.dead_paths for row in rows),
        "generated_tokens": sum(row.generated_tokens for row in rows),
    }


def _fails(leaf: Node) -> bool:
    return leaf.value is not None and not leaf.passed
