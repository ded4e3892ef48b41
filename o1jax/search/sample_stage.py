"""Plain sampling, judged: what stands beside search at equal tokens. Rollouts go to rollouts/.

Inputs: policy, problems, and perhaps match: a search stage, whose generated tokens are spent here
problem by problem. Trains nothing, and builds no tree.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence

from etils import epath
from pydantic import NonNegativeInt, PositiveInt

from o1jax.concurrency import run_in_order
from o1jax.parallel.processes import this_process
from o1jax.records import InputError, Problem, Rollout
from o1jax.rewards.outcome import search_tests
from o1jax.search.sampling import Sampler, SampleSettings, refuse_lenient, sample_tokens
from o1jax.stages.manifest import StageResult
from o1jax.stages.problems import read_problems
from o1jax.stages.together import joined, my_share
from o1jax.stages.workers import EngineSettings, sampling_workers
from o1jax.store import read_trees, write_records
from o1jax.train.metrics import ProgressLine


@dataclasses.dataclass(frozen=True)
class Settings:
    """Plain sampling for a number of tokens."""

    sample: SampleSettings = SampleSettings()
    engine: EngineSettings = EngineSettings()
    tokens_per_problem: NonNegativeInt = 0  # generated for each problem, unless there is a search to match
    concurrency: PositiveInt = 64  # problems at once


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: problems, solved, solved_share, samples, passed, generated_tokens."""
    refuse_lenient(settings.sample, "sample.sample")
    problems = read_problems(inputs["problems"])
    mine = my_share(problems)
    tokens_P = _budgets(mine, settings, inputs)
    rollouts_P_G, timings = asyncio.run(_sample(settings, inputs["policy"], mine, tokens_P, seed))
    rollouts = [rollout for group in rollouts_P_G for rollout in group]
    rollouts = asyncio.run(
        joined(out, out / "processes", Rollout, rollouts, problems, lambda rollout: rollout.problem_id)
    )
    if this_process().index == 0:
        write_records(out / "rollouts" / "rollouts.parquet", Rollout, rollouts)
    solved = len({rollout.problem_id for rollout in rollouts if rollout.reward})
    figures = {
        "problems": len(problems),
        "solved": solved,
        "solved_share": round(solved / len(problems), 4),
        "samples": len(rollouts),
        "passed": int(sum(rollout.reward for rollout in rollouts)),
        "generated_tokens": sum(len(rollout.token_ids) for rollout in rollouts),
    }
    return StageResult(figures, timings)


def _budgets(problems: Sequence[Problem], settings: Settings, inputs: Mapping[str, epath.Path]) -> list[int]:
    """Tokens to generate, a problem."""
    if "match" not in inputs:
        if settings.tokens_per_problem < 1:
            raise InputError("sample.tokens_per_problem: saw 0; give a number, or a search stage to match")
        return [settings.tokens_per_problem] * len(problems)
    spent = {tree.problem_id: tree.generated_tokens for tree in read_trees(inputs["match"] / "trees")}
    if missing := [problem.id for problem in problems if problem.id not in spent]:
        raise InputError(
            f"{inputs['match']}: no tree of problem {missing[0]}; match a search of the same problems"
        )
    return [spent[problem.id] for problem in problems]


async def _sample(
    settings: Settings, policy: epath.Path, problems: Sequence[Problem], tokens_P: Sequence[int], seed: int
) -> tuple[list[list[Rollout]], dict[str, float]]:
    """rollouts_P_G and the timings."""
    async with sampling_workers(policy, settings.engine) as workers:
        sampler = Sampler(workers.engine, workers.judge, workers.tokenizer, settings.sample)
        line, solved = ProgressLine("sample", len(problems)), []

        async def work(item: tuple[Problem, int]) -> list[Rollout]:
            problem, tokens = item
            group = await sample_tokens(sampler, problem, search_tests(problem), seed, tokens=tokens)
            solved.append(any(rollout.reward for rollout in group))
            # At the end alone, as in a search: the problems that end first are not like the others.
            is_last = len(solved) == len(problems)
            line.show(len(solved), f"solved {sum(solved)}" if is_last else "", now=is_last)
            return group

        items = list(zip(problems, tokens_P, strict=True))
        return await run_in_order(work, items, settings.concurrency), workers.timings()
