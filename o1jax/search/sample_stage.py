"""Plain sampling, judged: what stands beside search at equal tokens. Rollouts go to rollouts/.

Inputs: policy, problems, and perhaps match: a search stage, whose generated tokens are spent here
problem by problem. Trains nothing, and builds no tree.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence

from etils import epath
from pydantic import PositiveInt

from o1jax.concurrency import run_in_order
from o1jax.parallel.processes import this_process
from o1jax.records import InputError, Problem, Rollout
from o1jax.rewards.outcome import search_tests
from o1jax.search.sampling import Sampler, SampleSettings, StopRule, refuse_lenient, sample_until
from o1jax.stages.manifest import StageResult
from o1jax.stages.problems import read_problems
from o1jax.stages.together import joined, my_share
from o1jax.stages.workers import EngineSettings, sampling_workers
from o1jax.store import read_trees, write_records
from o1jax.train.metrics import ProgressLine


@dataclasses.dataclass(frozen=True)
class Settings:
    """Plain sampling until a stop rule is reached."""

    sample: SampleSettings = SampleSettings()
    engine: EngineSettings = EngineSettings()
    stop: StopRule = StopRule()  # of each problem; its tokens give way to those of a search to match
    concurrency: PositiveInt = 64  # problems at once


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: problems, solved, solved_share, samples, passed, generated_tokens."""
    refuse_lenient(settings.sample, "sample.sample")
    problems = read_problems(inputs["problems"])
    mine = my_share(problems)
    rules_P = _rules(mine, settings, inputs)
    rollouts_P_G, timings = asyncio.run(_sample(settings, inputs["policy"], mine, rules_P, seed))
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


def _rules(
    problems: Sequence[Problem], settings: Settings, inputs: Mapping[str, epath.Path]
) -> list[StopRule]:
    """When each problem's sampling ends."""
    if "match" not in inputs:
        if not (settings.stop.tokens or settings.stop.answers):
            raise InputError(
                "sample.stop: saw no tokens and no answers; give one, or a search stage to match"
            )
        return [settings.stop] * len(problems)
    spent = {tree.problem_id: tree.generated_tokens for tree in read_trees(inputs["match"] / "trees")}
    if missing := [problem.id for problem in problems if problem.id not in spent]:
        raise InputError(
            f"{inputs['match']}: no tree of problem {missing[0]}; match a search of the same problems"
        )
    return [dataclasses.replace(settings.stop, tokens=spent[problem.id]) for problem in problems]


async def _sample(
    settings: Settings,
    policy: epath.Path,
    problems: Sequence[Problem],
    rules_P: Sequence[StopRule],
    seed: int,
) -> tuple[list[list[Rollout]], dict[str, float]]:
    """rollouts_P_G and the timings."""
    async with sampling_workers(policy, settings.engine) as workers:
        sampler = Sampler(workers.engine, workers.judge, workers.tokenizer, settings.sample)
        line, solved = ProgressLine("sample", len(problems)), []

        async def work(item: tuple[Problem, StopRule]) -> list[Rollout]:
            problem, stop = item
            group = await sample_until(sampler, problem, search_tests(problem), seed, stop)
            solved.append(any(rollout.reward for rollout in group))
            # At the end alone, as in a search: the problems that end first are not like the others.
            is_last = len(solved) == len(problems)
            line.show(len(solved), f"solved {sum(solved)}" if is_last else "", now=is_last)
            return group

        items = list(zip(problems, rules_P, strict=True))
        return await run_in_order(work, items, settings.concurrency), workers.timings()
