"""The prompts of an evaluation: their samples, pass@k with intervals, and what one gains on another.

Part of the evaluate stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from o1jax.records import Problem, Rollout, TestCase
from o1jax.search.sampling import Sampler, judged, sample_paths
from o1jax.stages.estimators import mean_with_interval, pass_at_k
from o1jax.stages.evaluate_kept import Kept
from o1jax.train.metrics import ProgressLine

FinalTests = Callable[[Problem], tuple[TestCase, ...]]


async def prompt_samples(
    kept: Kept, sampler: Sampler, problems: Sequence[Problem], final_tests: FinalTests, seed: int
) -> list[list[Rollout]]:
    """rollouts_P_G of the sampler's prompt, judged on the final tests: kept ones, or new."""
    prompt = sampler.settings.prompt
    line, done = ProgressLine(f"evaluate {prompt}", len(problems)), []

    def show(group: list[Rollout]) -> None:
        done.append(sum(rollout.reward for rollout in group) / len(group))
        line.show(len(done), f"pass@1 so far {sum(done) / len(done):.3f}", now=len(done) == len(problems))

    async def sample(problem: Problem) -> list[Rollout]:
        return await sample_paths(sampler, problem, final_tests(problem), seed)

    async def again(problem: Problem, rollouts: Sequence[Rollout]) -> list[Rollout]:
        return await judged(sampler, problem, final_tests(problem), rollouts)

    return await kept.groups(f"rollouts/{prompt}", problems, sample, again, show)


def prompt_differences(groups: Mapping[str, Sequence[Sequence[Rollout]]], seed: int) -> dict[str, Any]:
    """Pass@1 of each prompt less that of the direct one, paired over problems."""
    rates = {
        prompt: [sum(r.reward for r in group) / len(group) for group in rollouts_P_G]
        for prompt, rollouts_P_G in groups.items()
    }
    return {
        f"{prompt} - direct": mean_with_interval(
            [a - b for a, b in zip(rates[prompt], rates["direct"], strict=True)], seed
        )
        for prompt in rates
        if prompt != "direct" and "direct" in rates
    }


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
