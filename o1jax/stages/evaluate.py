"""Evaluation on held-out problems: pass@k of both prompts and, with search, ASPR and best-of-n.

Inputs: policy, problems and perhaps prm, which adds arms to the comparison with search. Samples are
judged on the problems' hidden tests (where there are none, on their tests), which nothing else ever
sees; search and best-of-n choose by the visible ones. Every sample is kept in rollouts/. Trains nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from o1jax.records import InputError, Problem, Rollout, TestCase
from o1jax.rewards.process import StepScorer
from o1jax.search.mcts import SearchSettings
from o1jax.search.sampling import Prompt, Sampler, SampleSettings, sample_many
from o1jax.search.store import write_records
from o1jax.stages import check_problems
from o1jax.stages.estimators import mean_with_interval, pass_at_k
from o1jax.stages.evaluate_prm import PrmComparison
from o1jax.stages.evaluate_search import Comparison
from o1jax.stages.manifest import StageResult
from o1jax.stages.policies import open_policy
from o1jax.stages.scorers import open_scorer, scorer_timings
from o1jax.stages.workers import EngineSettings, Workers, open_workers
from o1jax.train.metrics import ProgressLine


@dataclasses.dataclass(frozen=True)
class Settings:
    """`ks`: which pass@k; none is above sample.n. `with_search` adds search, best-of-n at its tokens
    and ASPR of `aspr_samples` samples, on the first `search_problems` problems (0: all).
    `scorer_slots`: paths a forward pass of the PRM."""

    sample: SampleSettings = SampleSettings()
    prompts: tuple[str, ...] = ("pseudocode", "direct")
    ks: tuple[int, ...] = (1, 8)
    with_search: bool = False
    search_problems: int = 0
    aspr_samples: int = 8
    search: SearchSettings = SearchSettings()
    engine: EngineSettings = EngineSettings()
    concurrency: int = 64
    scorer_slots: int = 16


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: a prompt -> pass_at_<k>, by_rung, malformed_share, tokens_a_sample; search; aspr;
    search_differences, with a PRM; generated_tokens."""
    if max(settings.ks) > settings.sample.n:
        raise InputError(
            f"evaluate.ks: pass@{max(settings.ks)} needs sample.n of at least that, saw {settings.sample.n}"
        )
    if "prm" in inputs and not settings.with_search:
        raise InputError("evaluate.with_search: saw False with an input prm, which only search uses; set it")
    problems = check_problems.read(inputs["problems"])
    figures, timings = asyncio.run(_evaluate(out, settings, inputs, problems, seed))
    return StageResult(
        {"problems": len(problems), "samples_a_problem": settings.sample.n, **figures}, timings
    )


def final_tests(problem: Problem) -> tuple[TestCase, ...]:
    """The tests that count in an evaluation."""
    return problem.hidden_tests or problem.tests


async def _evaluate(
    out: epath.Path,
    settings: Settings,
    inputs: Mapping[str, epath.Path],
    problems: Sequence[Problem],
    seed: int,
) -> tuple[dict[str, Any], dict[str, float]]:
    figures: dict[str, Any] = {"generated_tokens": 0}
    async with (
        open_workers(open_policy(inputs["policy"]), settings.engine) as workers,
        open_scorer(
            inputs, workers.tokenizer, slots=settings.scorer_slots, context=settings.engine.context
        ) as scorer,
    ):
        for prompt in settings.prompts:
            groups = await _sample(workers, settings, prompt, problems, seed)
            write_records(
                out / "rollouts" / f"{prompt}.parquet", Rollout, [r for group in groups for r in group]
            )
            figures[prompt] = prompt_figures(problems, groups, settings.ks, seed)
            figures["generated_tokens"] += sum(len(r.token_ids) for group in groups for r in group)
        if settings.with_search:
            comparison = _comparison(workers, settings, problems, seed)
            beside = await _beside(comparison, scorer)
            figures["generated_tokens"] += beside.pop("generated_tokens")
            figures |= beside
        return figures, workers.timings() | scorer_timings(scorer)


async def _beside(comparison: Comparison, scorer: StepScorer | None) -> dict[str, Any]:
    """Search beside sampling, and with a PRM its arms beside both."""
    played = await comparison.play()
    figures = await comparison.figures(played)
    if scorer is not None:
        prm = await PrmComparison(comparison, played, scorer).figures()
        figures["search"] |= prm["search"]
        figures["search_differences"] = prm["search_differences"]
        figures["generated_tokens"] += prm["generated_tokens"]
    return figures


def _comparison(workers: Workers, settings: Settings, problems: Sequence[Problem], seed: int) -> Comparison:
    return Comparison(
        workers=workers,
        search=settings.search,
        sample=settings.sample,
        aspr_samples=settings.aspr_samples,
        concurrency=settings.concurrency,
        problems=problems[: settings.search_problems or None],
        final_tests=final_tests,
        seed=seed,
    )


async def _sample(
    workers: Workers, settings: Settings, prompt: Prompt, problems: Sequence[Problem], seed: int
) -> list[list[Rollout]]:
    sample = dataclasses.replace(settings.sample, prompt=prompt)
    sampler = Sampler(workers.engine, workers.judge, workers.tokenizer, sample)
    line, done = ProgressLine(f"evaluate {prompt}", len(problems)), []

    def show(group: list[Rollout]) -> None:
        done.append(sum(rollout.reward for rollout in group) / len(group))
        line.show(len(done), f"pass@1 so far {sum(done) / len(done):.3f}", now=len(done) == len(problems))

    return await sample_many(
        sampler, problems, final_tests, seed, concurrency=settings.concurrency, on_rollouts=show
    )


def prompt_figures(
    problems: Sequence[Problem], rollouts_P_G: Sequence[Sequence[Rollout]], ks: Sequence[int], seed: int
) -> dict[str, Any]:
    """pass@k with intervals over problems, in all and by difficulty, and the share that is malformed."""
    rollouts = [rollout for group in rollouts_P_G for rollout in group]
    by_rung: dict[str, list[Sequence[Rollout]]] = {}
    for problem, group in zip(problems, rollouts_P_G, strict=True):
        by_rung.setdefault(problem.difficulty or "all", []).append(group)
    return {
        **_pass_figures(rollouts_P_G, ks, seed),
        "by_rung": {rung: _pass_figures(groups, ks, seed) for rung, groups in sorted(by_rung.items())},
        "malformed_share": round(sum(r.verdict is None for r in rollouts) / len(rollouts), 4),
        "tokens_a_sample": round(sum(len(r.token_ids) for r in rollouts) / len(rollouts), 1),
    }


def _pass_figures(groups: Sequence[Sequence[Rollout]], ks: Sequence[int], seed: int) -> dict[str, Any]:
    return {
        f"pass_at_{k}": mean_with_interval(
            [pass_at_k(len(group), int(sum(r.reward for r in group)), k) for group in groups], seed
        )
        for k in ks
    }
