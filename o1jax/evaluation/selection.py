"""Choosing one of n programs without a reference: by a generator's cases, by majority, by chance.

Inputs: policy, tcg, problems, and perhaps prm, a process reward model. The generator sees the question only.
`agreement`: the cases and the programs that agree most choose (CodeT). `majority`, `random` and, with a
reward model, `prm_vote`, where each program votes by its score, have more programs instead, at the same
generated tokens a problem. The final tests then decide. Trains nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from pydantic import PositiveInt

from o1jax.concurrency import run_in_order
from o1jax.engine.step_scorer import StepScorer
from o1jax.evaluation.choice import agreement, by_vote, last_scores, visible_outputs
from o1jax.intervals import mean_with_interval
from o1jax.records import InputError, Problem
from o1jax.rewards.outcome import final_tests, is_lost
from o1jax.sandbox.interface import unless_lost
from o1jax.search.sampling import (
    Sampler,
    SampleSettings,
    StopRule,
    for_evaluation,
    sample_paths,
    sample_until,
)
from o1jax.stages.manifest import StageResult
from o1jax.stages.problems import read_problems
from o1jax.stages.workers import (
    EngineSettings,
    Workers,
    open_scorer,
    sampling_workers,
    scorer_timings,
)
from o1jax.tcg.writing import WriteSettings, Written, write_cases
from o1jax.train.metrics import ProgressLine


@dataclasses.dataclass(frozen=True)
class Settings:
    """Programs of a policy, and the generator's cases that choose among them."""

    sample: SampleSettings = SampleSettings()  # sample.n programs of a problem are chosen from
    write: WriteSettings = WriteSettings()  # of the generator
    engine: EngineSettings = EngineSettings()  # of the policy
    tcg_engine: EngineSettings = EngineSettings()  # of the generator
    concurrency: PositiveInt = 64  # problems at once
    scorer_slots: PositiveInt = 16  # paths in one forward pass of the process reward model


@dataclasses.dataclass(frozen=True)
class Choice:
    """One problem: whether each way of choosing took a program that passes; NaN where the judge lost one."""

    agreement: float  # among n programs, by the generator's cases
    majority: float  # among more programs, at the tokens of those and the cases
    random: float  # among the same: the share that passes of those with a program
    prm_vote: float  # among the same, by the sums of their scores; without a reward model the majority's
    any_passes: float  # whether one of the n programs does
    tokens: int  # of the n programs and the cases
    more_tokens: int  # of the programs of majority and random
    long_prompts: int  # 1 if the question is longer than the generator's context


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: the pass rate of each choice and its tokens, agreement (and, with a reward model, prm_vote)
    less majority and random, and long_prompts (longer than the generator's context). InputError, before
    anything is sampled, for a problem without visible tests, on whose inputs a majority is found, and for a
    reward model with another prompt than the pseudocode's, whose steps alone it scores."""
    settings = dataclasses.replace(settings, sample=for_evaluation(settings.sample))
    if "prm" in inputs and settings.sample.prompt != "pseudocode":
        raise InputError(
            f"evaluate_selection.sample.prompt: saw {settings.sample.prompt!r} with an input prm, wanted "
            "'pseudocode': other answers have no steps to score"
        )
    problems = read_problems(inputs["problems"])
    for problem in problems:
        if problem.form != "assertion" and not problem.tests:
            raise InputError(
                f"problem {problem.id}: has no visible tests, on whose inputs a majority is found; "
                "prepare it with shown_tests"
            )
    choices, timings = asyncio.run(_choose_all(settings, inputs, problems, seed))
    ways = ("agreement", "prm_vote") if "prm" in inputs else ("agreement",)
    names = (*ways, "majority", "random", "any_passes")
    rows = [dataclasses.asdict(choice) for choice in choices]
    figures: dict[str, Any] = {name: mean_with_interval([row[name] for row in rows], seed) for name in names}
    for way, other in itertools.product(ways, ("majority", "random")):
        figures[f"{way}_less_{other}"] = mean_with_interval([row[way] - row[other] for row in rows], seed)
    spent, more = sum(c.tokens for c in choices), sum(c.more_tokens for c in choices)
    figures |= {"problems": len(problems), "agreement_tokens": spent, "majority_tokens": more}
    figures["long_prompts"] = sum(c.long_prompts for c in choices)
    return StageResult({**figures, "generated_tokens": spent + more}, timings)


async def _choose_all(
    settings: Settings, inputs: Mapping[str, epath.Path], problems: Sequence[Problem], seed: int
) -> tuple[list[Choice], dict[str, float]]:
    async with sampling_workers(inputs["tcg"], settings.tcg_engine) as workers:
        written = await run_in_order(
            lambda problem: write_cases(workers, problem, None, settings.write, seed),
            problems,
            settings.concurrency,
            ended=ProgressLine("write tests", len(problems)).count,
        )
    context = settings.engine.context
    async with (
        sampling_workers(inputs["policy"], settings.engine) as workers,
        open_scorer(inputs, workers.tokenizer, slots=settings.scorer_slots, context=context) as scorer,
    ):
        choices = await run_in_order(
            lambda item: _choose(workers, settings, *item, seed, scorer),
            list(zip(problems, written, strict=True)),
            settings.concurrency,
            ended=ProgressLine("choose", len(problems)).count,
        )
        return choices, workers.timings() | scorer_timings(scorer)


async def _choose(
    workers: Workers,
    settings: Settings,
    problem: Problem,
    written: Written,
    seed: int,
    scorer: StepScorer | None = None,
) -> Choice:
    sampler = Sampler(workers.engine, workers.judge, workers.tokenizer, settings.sample)
    tests, limits = final_tests(problem), settings.sample.limits
    few = await sample_paths(sampler, problem, tests, seed)
    tokens = sum(len(rollout.token_ids) for rollout in few) + written.generated_tokens
    many = await sample_until(sampler, problem, tests, seed, StopRule(tokens=tokens))
    # Every way chooses among those with a program, so that none is better for seeing the form.
    few_formed, many_formed = ([r for r in group if r.verdict is not None] for group in (few, many))
    by_agreement = by_majority = by_scores = by_chance = 0.0
    if few_formed:
        programs = [rollout.program for rollout in few_formed]
        agreeing = agreement(workers.judge, problem, programs, written.cases, limits)
        chosen = await unless_lost(agreeing, None)
        by_agreement = math.nan if chosen is None else few_formed[chosen].reward
    if many_formed:
        programs = [rollout.program for rollout in many_formed]
        outputs = await unless_lost(visible_outputs(workers.judge, problem, programs, limits), None)
        if outputs is None:
            by_majority = by_scores = math.nan
        else:
            by_majority = by_scores = many_formed[by_vote(outputs, [1.0] * len(programs))].reward
        if scorer is not None and outputs is not None:
            scores = await last_scores(scorer, workers.tokenizer, many_formed, settings.sample.max_tokens)
            by_scores = many_formed[by_vote(outputs, scores)].reward
        by_chance = sum(rollout.reward for rollout in many_formed) / len(many_formed)
    if is_lost([*few, *many]):
        by_agreement = by_majority = by_scores = by_chance = math.nan
    return Choice(
        agreement=by_agreement,
        majority=by_majority,
        random=by_chance,
        prm_vote=by_scores,
        any_passes=math.nan if is_lost(few) else float(any(rollout.reward for rollout in few)),
        tokens=tokens,
        more_tokens=sum(len(rollout.token_ids) for rollout in many),
        long_prompts=written.long_prompts,
    )
