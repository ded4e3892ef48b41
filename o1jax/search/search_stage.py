"""Step 2: searches every problem with the policy; the trees go to trees/.

Inputs: policy (a stage that trains one), problems (check_problems) and, where search.leaf_value is "prm",
prm. With draw.problems, so many of the problems are searched, drawn by what the inputs scout and found_<k>,
stages of sampling and search, found before; posterior.parquet keeps what was known of all (posterior.py). A
stage that was killed goes on with the problems whose trees are not written yet. Trains nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence

from etils import epath
from pydantic import PositiveInt

from o1jax.parallel.memory import report_held
from o1jax.records import Node, Problem, Tree
from o1jax.search.growth import Searcher, SearchSettings
from o1jax.search.mcts import search_many
from o1jax.search.posterior import DrawSettings, drawn_problems
from o1jax.search.tree import passing_leaves
from o1jax.stages.manifest import StageResult
from o1jax.stages.problems import read_problems
from o1jax.stages.together import all_have_finished, my_share
from o1jax.stages.workers import EngineSettings, open_scorer, sampling_workers, scorer_timings
from o1jax.store import ShardWriter, read_trees
from o1jax.train.metrics import ProgressLine


@dataclasses.dataclass(frozen=True)
class Settings:
    """The search of a set of problems."""

    search: SearchSettings = SearchSettings()
    engine: EngineSettings = EngineSettings()
    draw: DrawSettings = DrawSettings()  # which problems are searched
    concurrency: PositiveInt = 64  # problems searched at once
    scorer_slots: PositiveInt = 16  # paths in one forward pass of the process reward model


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: problems, solved, solved_share, mixed (with leaves that pass and others that do not),
    passing_paths, rollouts, judged_programs, dead_paths, generated_tokens and, by difficulty, the share
    solved."""
    problems = drawn_problems(out, read_problems(inputs["problems"]), settings.draw, inputs, seed)
    timings = asyncio.run(_search(out, settings, inputs, my_share(problems), seed))
    asyncio.run(all_have_finished(out, "trees"))
    # Read back, not returned: of several processes each has searched its share alone.
    trees = read_trees(out / "trees", [problem.id for problem in problems])
    return StageResult(_figures(problems, trees), timings)


async def _search(
    out: epath.Path,
    settings: Settings,
    inputs: Mapping[str, epath.Path],
    problems: Sequence[Problem],
    seed: int,
) -> dict[str, float]:
    """Searches the problems whose trees are not in trees/ yet; returns the timings."""
    line, solved = ProgressLine("search", len(problems)), []

    def show(tree: Tree) -> None:
        solved.append(tree.solved)
        # How many are solved is said at the end alone: easy problems end first, so that a share of those
        # that ended would begin near 1 and fall.
        is_last = len(solved) == len(problems)
        line.show(len(solved), f"solved {sum(solved)}" if is_last else "", now=is_last)

    context = settings.engine.context
    async with (
        sampling_workers(inputs["policy"], settings.engine) as workers,
        open_scorer(inputs, workers.tokenizer, slots=settings.scorer_slots, context=context) as scorer,
    ):
        report_held({} if scorer is None else {"reward model": scorer.params})
        searcher = Searcher(workers.engine, workers.judge, workers.tokenizer, settings.search, scorer)
        with ShardWriter(out / "trees", Tree) as store:
            await search_many(
                searcher, problems, seed, concurrency=settings.concurrency, store=store, on_tree=show
            )
        return workers.timings() | scorer_timings(scorer)


def _figures(problems: Sequence[Problem], trees: Sequence[Tree]) -> dict:
    by_difficulty: dict[str, list[bool]] = {}
    for problem, tree in zip(problems, trees, strict=True):
        by_difficulty.setdefault(problem.difficulty or "all", []).append(tree.solved)
    solved = sum(tree.solved for tree in trees)
    return {
        "problems": len(trees),
        "solved": solved,
        "solved_share": round(solved / len(trees), 4) if trees else 0.0,
        "solved_by_difficulty": {key: round(sum(v) / len(v), 4) for key, v in sorted(by_difficulty.items())},
        "mixed": sum(tree.solved and any(_fails(node) for node in tree.nodes) for tree in trees),
        "passing_paths": sum(len(passing_leaves(tree)) for tree in trees),
        "rollouts": sum(tree.rollouts for tree in trees),
        "judged_programs": sum(tree.judged_programs for tree in trees),
        "dead_paths": sum(bool(node.error) for tree in trees for node in tree.nodes),
        "generated_tokens": sum(tree.generated_tokens for tree in trees),
    }


def _fails(leaf: Node) -> bool:
    return leaf.value is not None and not leaf.passed
