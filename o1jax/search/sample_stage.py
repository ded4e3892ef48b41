"""Plain sampling, judged: what stands beside search at equal tokens, and the scout before one. Rollouts go to
rollouts/.

Inputs: policy, problems, and perhaps
  match, match_<k>   stages of search and sampling, whose generated tokens, all together, are spent here,
  scout, found_<k>   such stages that choose the problems (posterior.py), if draw.problems says how many.

Equal to a search that is matched are the tokens in all, within half an answer, and what ends the work on
one problem: the search's own rule. Not equal are the tokens of each problem: where a search passes early it
stops, and sampling that got those few tokens there, and no more elsewhere, would have one try where search
had many. Trains nothing, and builds no tree.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence

from etils import epath
from pydantic import PositiveInt

from o1jax.parallel.processes import this_process
from o1jax.records import InputError, Problem, Rollout
from o1jax.rewards.outcome import search_tests
from o1jax.search.growth import SearchSettings
from o1jax.search.posterior import DrawSettings, drawn_problems, finder_manifest
from o1jax.search.sampling import (
    Sampler,
    SampleSettings,
    StopRule,
    refuse_lenient,
    sample_more,
    sample_to_total,
    sample_until,
)
from o1jax.stages.manifest import StageResult, read_manifest
from o1jax.stages.problems import read_problems
from o1jax.stages.settings import parse
from o1jax.stages.together import my_share, shared
from o1jax.stages.workers import EngineSettings, sampling_workers
from o1jax.store import write_records
from o1jax.train.metrics import ProgressLine


@dataclasses.dataclass(frozen=True)
class Settings:
    """Plain sampling until a stop rule is reached."""

    sample: SampleSettings = SampleSettings()
    engine: EngineSettings = EngineSettings()
    # Of each problem. With stages to match, its tokens give way to their total, and where it names neither
    # passes nor fails, it has those that end a search among them.
    stop: StopRule = StopRule()
    draw: DrawSettings = DrawSettings()  # which problems are sampled
    concurrency: PositiveInt = 64  # problems at once


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: problems, solved, solved_share, mixed (with answers that pass and others that do not),
    samples, passed, generated_tokens; tokens_to_match, with stages to match."""
    refuse_lenient(settings.sample, "sample.sample")
    matched = [directory for name, directory in inputs.items() if name.partition("_")[0] == "match"]
    if not (matched or settings.stop.tokens or settings.stop.answers):
        raise InputError("sample.stop: saw no tokens and no answers; give one, or a search stage to match")
    problems = drawn_problems(out, read_problems(inputs["problems"]), settings.draw, inputs, seed)
    rollouts, timings = asyncio.run(_sample(out, settings, inputs["policy"], matched, problems, seed))
    if this_process().index == 0:
        write_records(out / "rollouts" / "rollouts.parquet", Rollout, rollouts)
    passes = collections.Counter(rollout.problem_id for rollout in rollouts if rollout.reward)
    samples = collections.Counter(rollout.problem_id for rollout in rollouts)
    figures = {
        "problems": len(problems),
        "solved": len(passes),
        "solved_share": round(len(passes) / len(problems), 4),
        "mixed": sum(0 < passes[id] < samples[id] for id in samples),
        "samples": len(rollouts),
        "passed": passes.total(),
        "generated_tokens": sum(len(rollout.token_ids) for rollout in rollouts),
        **({"tokens_to_match": tokens_of_stages(matched)} if matched else {}),
    }
    return StageResult(figures, timings)


def tokens_of_stages(directories: Sequence[epath.Path]) -> int:
    """What stages of search and sampling generated in all; InputError for another stage."""
    manifests = [finder_manifest(directory, "match") for directory in directories]
    return sum(manifest["figures"]["generated_tokens"] for manifest in manifests)


def rule_of_match(stop: StopRule, directories: Sequence[epath.Path]) -> StopRule:
    """The rule that ends a problem's sampling beside these stages."""
    stop = dataclasses.replace(stop, tokens=0)
    for manifest in map(read_manifest, directories):
        if manifest["stage"] == "search" and not (stop.passes or stop.fails):
            searched = parse(SearchSettings, manifest["config"].get("search", {}), "search.search").stop
            stop = dataclasses.replace(stop, passes=searched.passes, fails=searched.fails)
    return stop


async def _sample(
    out: epath.Path,
    settings: Settings,
    policy: epath.Path,
    matched: Sequence[epath.Path],
    problems: Sequence[Problem],
    seed: int,
) -> tuple[list[Rollout], dict[str, float]]:
    """The answers of all processes, in the order of `problems`, and the timings."""
    async with sampling_workers(policy, settings.engine) as workers:
        sampler = Sampler(workers.engine, workers.judge, workers.tokenizer, settings.sample)
        work = Sampling(sampler, settings, problems, seed, out)
        if matched:
            rule = rule_of_match(settings.stop, matched)
            return await work.to_total(tokens_of_stages(matched), rule), workers.timings()
        return await work.until_stop(), workers.timings()


@dataclasses.dataclass(frozen=True)
class Sampling:
    """The stage's work, shared out among the processes."""

    sampler: Sampler
    settings: Settings
    problems: Sequence[Problem]
    seed: int
    out: epath.Path  # of the stage

    async def until_stop(self) -> list[Rollout]:
        """Answers to each problem until the settings' rule is reached there."""
        line, solved = ProgressLine("sample", len(my_share(self.problems))), []

        async def work(problem: Problem) -> list[Rollout]:
            tests, stop = search_tests(problem), self.settings.stop
            group = await sample_until(self.sampler, problem, tests, self.seed, stop)
            solved.append(any(rollout.reward for rollout in group))
            # At the end alone, as in a search: the problems that end first are not like the others.
            line.show(len(solved), "")
            return group

        rollouts = await self._of_all("answers", self.problems, work)
        line.show(len(solved), f"solved {sum(solved)}", now=True)
        return rollouts

    async def to_total(self, tokens: int, stop: StopRule) -> list[Rollout]:
        """Answers to all problems in turn until `tokens` are spent; see sample_to_total."""

        async def sample_round(
            number: int, open_problems: Sequence[Problem], before: int, n: int
        ) -> dict[str, list[Rollout]]:
            def work(problem: Problem) -> Awaitable[list[Rollout]]:
                return sample_more(self.sampler, problem, search_tests(problem), self.seed, before, n)

            # Every process needs the answers of all: what one problem leaves goes to those of the others.
            new = {problem.id: [] for problem in open_problems}
            for rollout in await self._of_all(f"round_{number}", open_problems, work):
                new[rollout.problem_id].append(rollout)
            line.show(len(self.problems) - len(open_problems), f"ended after {before} answers")
            return new

        line = ProgressLine("sample", len(self.problems))
        groups = await sample_to_total(self.problems, tokens, stop, self.seed, sample_round)
        return [rollout for group in groups for rollout in group]

    async def _of_all(
        self,
        what: str,
        problems: Sequence[Problem],
        work: Callable[[Problem], Awaitable[list[Rollout]]],
    ) -> list[Rollout]:
        """What `work` gives for these problems, in every process."""
        return await shared(self.out, what, Rollout, problems, work, self.settings.concurrency)
