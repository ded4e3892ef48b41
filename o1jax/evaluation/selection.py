"""Choosing one of n programs without a reference: by a generator's cases, by majority, by chance.

Inputs: policy, tcg, problems. The generator sees the question only. `agreement`: the cases and the
programs that agree most choose (CodeT). `majority` and `random` have more programs instead, at the same
generated tokens a problem. The final tests then decide. Trains nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from pydantic import PositiveInt

from o1jax.concurrency import run_in_order
from o1jax.evaluation.choice import agreement, majority
from o1jax.intervals import mean_with_interval
from o1jax.records import InputError, Problem, Rollout
from o1jax.rewards.outcome import final_tests
from o1jax.search.sampling import Sampler, SampleSettings, program_of_rollout, sample_paths, sample_tokens
from o1jax.stages.manifest import StageResult
from o1jax.stages.problems import read_problems
from o1jax.stages.training import open_policy
from o1jax.stages.workers import EngineSettings, Workers, open_workers
from o1jax.tcg.writing import WriteSettings, Written, write_cases


@dataclasses.dataclass(frozen=True)
class Settings:
    """Programs of a policy, and the generator's cases that choose among them."""

    sample: SampleSettings = SampleSettings()  # sample.n programs of a problem are chosen from
    write: WriteSettings = WriteSettings()  # of the generator
    engine: EngineSettings = EngineSettings()  # of the policy
    tcg_engine: EngineSettings = EngineSettings()  # of the generator
    concurrency: PositiveInt = 64  # problems at once


@dataclasses.dataclass(frozen=True)
class Choice:
    """One problem: whether each way of choosing took a program that passes (random: the share of the
    well-formed ones that do)."""

    agreement: float
    majority: float
    random: float
    any_passes: float
    tokens: int
    more_tokens: int  # those of majority and random
    long_prompts: int


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: the pass rate of each choice and its tokens, agreement less majority and random, and
    long_prompts (longer than the generator's context). InputError, before anything is sampled, for a problem
    without visible tests, on whose inputs a majority is found."""
    problems = read_problems(inputs["problems"])
    for problem in problems:
        if problem.form != "assertion" and not problem.tests:
            raise InputError(
                f"problem {problem.id}: has no visible tests, on whose inputs a majority is found; "
                "prepare it with shown_tests"
            )
    choices, timings = asyncio.run(_choose_all(settings, inputs, problems, seed))
    names = ("agreement", "majority", "random", "any_passes")
    figures: dict[str, Any] = {
        name: mean_with_interval([getattr(c, name) for c in choices], seed) for name in names
    }
    for other in ("majority", "random"):
        figures[f"agreement_less_{other}"] = mean_with_interval(
            [c.agreement - getattr(c, other) for c in choices], seed
        )
    spent, more = sum(c.tokens for c in choices), sum(c.more_tokens for c in choices)
    figures |= {"problems": len(problems), "agreement_tokens": spent, "majority_tokens": more}
    figures["long_prompts"] = sum(c.long_prompts for c in choices)
    return StageResult({**figures, "generated_tokens": spent + more}, timings)


async def _choose_all(
    settings: Settings, inputs: Mapping[str, epath.Path], problems: Sequence[Problem], seed: int
) -> tuple[list[Choice], dict[str, float]]:
    async with open_workers(open_policy(inputs["tcg"]), settings.tcg_engine) as workers:

        async def write(problem: Problem) -> Written:
            if problem.form == "assertion":  # of which no case could choose
                return Written((), (), asked=0, generated_tokens=0)
            return await write_cases(workers, problem, None, settings.write, seed)

        written = await run_in_order(write, problems, settings.concurrency)
    async with open_workers(open_policy(inputs["policy"]), settings.engine) as workers:

        async def choose(item: tuple[Problem, Written]) -> Choice:
            return await _choose(workers, settings, *item, seed)

        pairs = list(zip(problems, written, strict=True))
        return await run_in_order(choose, pairs, settings.concurrency), workers.timings()


async def _choose(
    workers: Workers, settings: Settings, problem: Problem, written: Written, seed: int
) -> Choice:
    sampler = Sampler(workers.engine, workers.judge, workers.tokenizer, settings.sample)
    tests = final_tests(problem)
    few = await sample_paths(sampler, problem, tests, seed)
    tokens = sum(len(rollout.token_ids) for rollout in few) + written.generated_tokens
    many = await sample_tokens(sampler, problem, tests, seed, tokens=tokens)
    return Choice(
        agreement=await _by_agreement(sampler, problem, few, written),
        majority=await _by_majority(sampler, problem, many),
        random=_by_chance(many),
        any_passes=float(any(rollout.reward for rollout in few)),
        tokens=tokens,
        more_tokens=sum(len(rollout.token_ids) for rollout in many),
        long_prompts=written.long_prompts,
    )


def _by_chance(rollouts: Sequence[Rollout]) -> float:
    """The mean reward of the well-formed answers, among which the other ways choose too."""
    right = [rollout.reward for rollout in rollouts if rollout.verdict is not None]
    return sum(right) / len(right) if right else 0.0


async def _by_agreement(
    sampler: Sampler, problem: Problem, rollouts: Sequence[Rollout], written: Written
) -> float:
    """The reward of the program that the cases choose."""
    right = [rollout for rollout in rollouts if rollout.verdict is not None]
    programs = [program_of_rollout(sampler, problem, rollout) for rollout in right]
    if not programs:
        return 0.0
    return right[
        await agreement(sampler.judge, problem, programs, written.cases, sampler.settings.limits)
    ].reward


async def _by_majority(sampler: Sampler, problem: Problem, rollouts: Sequence[Rollout]) -> float:
    """The reward of a program of the largest group with equal outputs on the visible tests' inputs."""
    right = [rollout for rollout in rollouts if rollout.verdict is not None]
    programs = [program_of_rollout(sampler, problem, rollout) for rollout in right]
    if not programs:
        return 0.0
    return right[await majority(sampler.judge, problem, programs, sampler.settings.limits)].reward
