"""The answers of one update: sampled, judged, cut into steps and scored; and the files that it leaves.

In the stage's directory: rollouts/update_<t>.parquet (its Rollouts), rewards/update_<t>.parquet (a
RewardedRollout each) and, if something was replayed, replayed/update_<t>.parquet (ReplayedSamples). An update
whose rollouts are there already is read from them, so that a resumed run does not sample twice. Chooses no
problems and makes no rewards.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from etils import epath

from o1jax.batches.encode import Example
from o1jax.concurrency import run_in_order
from o1jax.engine.step_scorer import StepScorer
from o1jax.parallel.processes import barrier, is_leader, this_process
from o1jax.parallel.seeds import fold_seed
from o1jax.prompts.chat import Tokenizer
from o1jax.prompts.ends import end_ids
from o1jax.records import InputError, Problem, Rollout
from o1jax.rewards.outcome import is_lost, judge_program, search_tests
from o1jax.rewards.phi import RewardParts
from o1jax.rl.settings import Settings
from o1jax.sandbox.interface import SandboxError
from o1jax.search.sampling import Sampler, prompt_of, sample_paths
from o1jax.search.steps import SampledStep, cut, path_of
from o1jax.stages.together import wait_for
from o1jax.store import read_records, write_records

READ_AT_ONCE = 16  # files of other processes


@dataclasses.dataclass(frozen=True)
class Answer:
    """A rollout, read as steps where the prompt asks for them."""

    rollout: Rollout
    step_ends: tuple[int, ...] = ()  # where in its token_ids each step ends (past its last token)
    actions: tuple[int, ...] = ()  # one a step; 0 of a malformed step, which ends its answer
    scores: tuple[float, ...] = ()  # one a step; 0 of a malformed one, and without a process reward model
    false_accept: bool | None = None  # whether a program that passed fails the audit, where there is one


@dataclasses.dataclass(frozen=True)
class RewardedRollout:
    """What update t made of one of its rollouts: a row of rewards/update_<t>.parquet."""

    rollout_id: str  # the Rollout.id in rollouts/update_<t>.parquet: "<t>/<problem id>#<number>"
    problem_id: str
    update: int  # t, counted over all rounds
    # What RewardParts has, in its order:
    reward: float  # phi = alpha * outcome + (1 - alpha) * process, in [0, 1] as its parts are
    outcome: float  # R: by the tests alone
    process: float  # the process term; 0 without a process reward model
    alpha: float  # the outcome's share at update t
    step_scores: tuple[float, ...]  # the process reward model's, one a step; empty without one
    kept: bool  # whether its group was trained on: the others do not differ in what keep_groups names
    trained: bool  # whether it was itself; of a kept group all, unless settings.negative_weight is 0


@dataclasses.dataclass(frozen=True)
class ReplayedSample:
    """A found path or a reference that update t trained on: a row of replayed/update_<t>.parquet."""

    sample_id: str  # the SftSample.id, as policy/found.py gives it
    update: int  # t


@dataclasses.dataclass(frozen=True)
class RolloutCollector:
    """Samples the answers of updates with what a stage holds open."""

    sampler: Sampler
    scorer: StepScorer | None
    settings: Settings
    audit: Mapping[str, Problem]  # problems with more tests, by id, which only measure
    out: epath.Path  # of the stage
    seed: int

    @property
    def parts(self) -> epath.Path:
        """What processes give one another."""
        return self.out / "parts"

    def remove_parts(self) -> None:
        """Removes what processes gave one another, now or in an earlier, killed try; all call it."""
        if is_leader():
            self.parts.rmtree(missing_ok=True)
        barrier("rollouts")

    def check(self, problems: Sequence[Problem]) -> None:
        """InputError that names a problem which could not be sampled: no tests, or too long a prompt."""
        for problem in problems:
            search_tests(problem)
            length, context = len(prompt_of(self.sampler, problem)), self.sampler.engine.max_context
            if length >= context:
                raise InputError(
                    f"problem {problem.id}: its prompt of {length} tokens leaves no room for an answer in "
                    f"engine.context ({context}); raise that, or leave the problem out"
                )

    async def collect(self, problems: Sequence[Problem], t: int, longest: int) -> list[list[Answer]]:
        """groups_P_G of update t: what the engine's weights, in at most `longest` tokens an answer, or the
        update's file, answer. Of several processes each samples as many answers, and all get all groups, but
        those of problems of which the judge lost an answer. Raises SandboxError where these are all."""
        # Whoever writes parts of update t has read all of t - 1, so that nobody still reads those of t - 2.
        if this_process().index == 0:
            (self.parts / str(t - 2)).rmtree(missing_ok=True)
        path = rollouts_path(self.out / "rollouts", t)
        saved = groups_in(path) if path.exists() else {}
        # Should the file hold other problems, it is another run's: it is sampled again and replaced.
        if list(saved) == [problem.id for problem in problems]:
            groups = await self._scored_again(problems, saved, t, longest)
        else:
            groups = await self._sampled(problems, t, longest)
            if this_process().index == 0:
                write_records(path, Rollout, [answer.rollout for group in groups for answer in group])
        judged = [group for group in groups if not is_lost([answer.rollout for answer in group])]
        if groups and not judged:
            raise SandboxError(f"update {t}: of each of {len(groups)} problems the judge lost an answer")
        return judged

    async def _sampled(self, problems: Sequence[Problem], t: int, longest: int) -> list[list[Answer]]:
        """sample.n answers to each problem, and as many again while none passed, up to max_samples."""
        # Groups grow where a pass is rare: there the first one is worth most, for a group without a pass has
        # no outcome to compare. This bends the sampling towards hard problems, as dropping groups does.
        n, settings = self.settings.sample.n, dataclasses.replace(self.settings.sample, max_tokens=longest)
        sampler = dataclasses.replace(self.sampler, settings=settings)
        groups: dict[str, list[Answer]] = {problem.id: [] for problem in problems}

        async def work(part: Part) -> list[Answer]:
            seed = fold_seed(self.seed, "rollouts", t, before)
            tests = search_tests(part.problem)
            sampled = await sample_paths(sampler, part.problem, tests, seed, first=part.first, n=part.n)
            ids = (f"{t}/{part.problem.id}#{i}" for i in itertools.count(before + part.first))
            rollouts = [dataclasses.replace(r, id=id) for r, id in zip(sampled, ids, strict=False)]
            return await self._read(part.problem, rollouts, longest)

        for before in range(0, max(n, self.settings.max_samples) - n + 1, n):
            open_problems = [p for p in problems if not any(a.rollout.reward for a in groups[p.id])]
            if not open_problems:
                break
            mine = parts_of(open_problems, n)
            answers = await run_in_order(work, mine, max(1, len(mine)))
            for answer in await self._of_all(answers, self.parts / str(t) / str(before)):
                groups[answer.rollout.problem_id].append(answer)
        return list(groups.values())

    async def _scored_again(
        self, problems: Sequence[Problem], saved: Mapping[str, Sequence[Rollout]], t: int, longest: int
    ) -> list[list[Answer]]:
        """The answers that are these rollouts, which an earlier try kept."""
        # Scores are not in the file and are made again: with the same scorer they are the same bits.
        index, count, _ = this_process()
        mine = problems[index::count]
        answers = await run_in_order(
            lambda problem: self._read(problem, saved[problem.id], longest), mine, max(1, len(mine))
        )
        of_problem = {problem.id: [] for problem in problems}
        for answer in await self._of_all(answers, self.parts / str(t) / "again"):
            of_problem[answer.rollout.problem_id].append(answer)
        return list(of_problem.values())

    async def _of_all(self, mine: Sequence[Sequence[Answer]], parts: epath.Path) -> list[Answer]:
        """The answers of all processes, in the order of the processes."""
        index, count, _ = this_process()
        answers = [answer for group in mine for answer in group]
        if count == 1:
            return answers
        # By process 0, which writes what it has read as one file: were every process to open every other's,
        # 256 of them would open 65,000 files an update. And by files, not by a collective of JAX, which
        # would have to wait for the training that goes on meanwhile (max_staleness).
        whole = parts / "all.parquet"
        paths = [parts / f"{other}_of_{count}.parquet" for other in range(count)]
        if index:
            await asyncio.to_thread(write_records, paths[index], Answer, answers)
            await wait_for(self.out, [whole], "process 0")
            return await asyncio.to_thread(read_records, whole, Answer)

        async def read(other: int) -> list[Answer]:
            await wait_for(self.out, [paths[other]], f"process {other}")
            return await asyncio.to_thread(read_records, paths[other], Answer)

        for found in await run_in_order(read, range(1, count), READ_AT_ONCE):
            answers += found
        await asyncio.to_thread(write_records, whole, Answer, answers)
        return answers

    async def _read(self, problem: Problem, rollouts: Sequence[Rollout], longest: int) -> list[Answer]:
        answers = await read_answers(rollouts, self.sampler.tokenizer, self.scorer, self.settings, longest)
        false_accepts_G = await asyncio.gather(*(self._false_accept(problem, r) for r in rollouts))
        pairs = zip(answers, false_accepts_G, strict=True)
        return [dataclasses.replace(answer, false_accept=false) for answer, false in pairs]

    async def _false_accept(self, problem: Problem, rollout: Rollout) -> bool | None:
        if problem.id not in self.audit or not rollout.reward:
            return None
        audited, limits = self.audit[problem.id], self.settings.sample.limits
        verdict = await judge_program(
            self.sampler.judge, audited, rollout.program, search_tests(audited), limits
        )
        return None if verdict.lost else not verdict.passed


class Part(NamedTuple):
    """Some of the answers to a problem."""

    problem: Problem
    first: int  # the number of the first of them
    n: int


def parts_of(problems: Sequence[Problem], n: int) -> list[Part]:
    """What this process samples of n answers to each problem: as many answers as any other, give or take one,
    of as few problems as can be."""
    # By answers, not by problems: of 256 processes and 64 problems three of four would have none.
    index, count, _ = this_process()
    begin, end = (len(problems) * n * k // count for k in (index, index + 1))
    ranges = [(max(begin - at * n, 0), min(end - at * n, n)) for at in range(len(problems))]
    pairs = zip(problems, ranges, strict=True)
    return [Part(problem, first, last - first) for problem, (first, last) in pairs if first < last]


async def read_answers(
    rollouts: Sequence[Rollout],
    tokenizer: Tokenizer,
    scorer: StepScorer | None,
    settings: Settings,
    longest: int,
) -> list[Answer]:
    """Rollouts of one problem, which had room for `longest` tokens, cut into steps, and scored where there is
    a scorer."""
    steps_G: list[list[SampledStep]] = [[] for _ in rollouts]
    if settings.has_steps:
        steps_G = [cut(tokenizer, r, 1, longest) for r in rollouts]
    scores_G = [[0.0] * len(steps) for steps in steps_G]
    if scorer is not None:
        # A malformed step comes last and is not scored: the scorer was trained on well-formed ones alone.
        formed_G = [[step for step in steps if not step.error] for steps in steps_G]
        scored = [g for g, formed in enumerate(formed_G) if formed]
        prompt_ids, ends = rollouts[0].prompt_ids, end_ids(tokenizer)
        scores_of_scored = await scorer.score([path_of(prompt_ids, formed_G[g], ends) for g in scored])
        for g, scores in zip(scored, scores_of_scored, strict=True):
            scores_G[g][: len(scores)] = scores
    return [
        Answer(
            rollout,
            step_ends=tuple(itertools.accumulate(len(step.token_ids) for step in steps)),
            actions=tuple(0 if step.error else step.action for step in steps),
            scores=tuple(scores),
        )
        for rollout, steps, scores in zip(rollouts, steps_G, scores_G, strict=True)
    ]


def write_rewards(
    out: epath.Path,
    t: int,
    groups: Sequence[Sequence[Answer]],
    rewards_P_G: Sequence[Sequence[RewardParts]],
    examples: Sequence[Example],
    replay: Sequence[Example],
    *,
    scored: bool,
) -> None:
    """Writes the provenance of update t: what its rollouts were worth, which of them became `examples`, and
    what is replayed beside those. An update that is done again after a kill writes the same again."""
    trained, rows = {example.id for example in examples}, []
    for group, rewards_G in zip(groups, rewards_P_G, strict=True):
        kept = any(answer.rollout.id in trained for answer in group)
        for answer, parts in zip(group, rewards_G, strict=True):
            id, problem_id = answer.rollout.id, answer.rollout.problem_id
            scores = answer.scores if scored else ()
            rows.append(RewardedRollout(id, problem_id, t, *parts, scores, kept, id in trained))
    write_records(rewards_path(out, t), RewardedRollout, rows)
    if replay:
        write_records(replayed_path(out, t), ReplayedSample, [ReplayedSample(e.id, t) for e in replay])


def rollouts_path(directory: epath.Path, t: int) -> epath.Path:
    """Where in rollouts/ the rollouts of update t are kept."""
    return directory / f"update_{t:05d}.parquet"


def rewards_path(out: epath.Path, t: int) -> epath.Path:
    """Where the stage in `out` keeps the RewardedRollouts of update t, in the order of its rollouts."""
    return out / "rewards" / f"update_{t:05d}.parquet"


def replayed_path(out: epath.Path, t: int) -> epath.Path:
    """Where it keeps the ReplayedSamples of update t; there is no file where nothing was replayed."""
    return out / "replayed" / f"update_{t:05d}.parquet"


def groups_in(path: epath.Path) -> dict[str, list[Rollout]]:
    """Problem id -> its rollouts, in the order of an update's file."""
    groups: dict[str, list[Rollout]] = {}
    for rollout in read_records(path, Rollout):
        groups.setdefault(rollout.problem_id, []).append(rollout)
    return groups
