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
from o1jax.stages.together import joined
from o1jax.store import read_records, write_records


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

    async def collect(self, problems: Sequence[Problem], t: int) -> list[list[Answer]]:
        """groups_P_G of update t: what the engine's weights, or the update's file, answer. Of several
        processes each samples its share, and all get all groups, but those of problems of which the judge
        lost an answer. Raises SandboxError where these are all."""
        index, count, _ = this_process()
        path, mine = rollouts_path(self.out / "rollouts", t), problems[index::count]
        saved = groups_in(path) if path.exists() else {}
        # Should the file hold other problems, it is another run's: it is sampled again and replaced.
        is_saved = list(saved) == [problem.id for problem in problems]
        if is_saved:
            rollouts_P_G = [saved[problem.id] for problem in mine]
        else:
            rollouts_P_G = await run_in_order(lambda problem: self._sample(problem, t), mine, len(mine))
        # Scores are not in the file and are made again: with the same scorer they are the same bits.
        items = list(zip(mine, rollouts_P_G, strict=True))
        groups = await run_in_order(lambda item: self._read(*item), items, len(items))
        answers = await self._gathered([answer for group in groups for answer in group], problems, t)
        if not is_saved and index == 0:
            write_records(path, Rollout, [answer.rollout for answer in answers])
        by_problem = itertools.groupby(answers, key=lambda answer: answer.rollout.problem_id)
        groups = [list(group) for _, group in by_problem]
        judged = [group for group in groups if not is_lost([answer.rollout for answer in group])]
        if groups and not judged:
            raise SandboxError(f"update {t}: of each of {len(groups)} problems the judge lost an answer")
        return judged

    async def _gathered(self, mine: Sequence[Answer], problems: Sequence[Problem], t: int) -> list[Answer]:
        """Those of all processes, in the order of the problems."""
        # Whoever writes parts of update t has read all of t - 1, so that nobody still reads those of t - 2.
        if is_leader():
            (self.parts / str(t - 2)).rmtree(missing_ok=True)
        parts = self.parts / str(t)
        return await joined(self.out, parts, Answer, mine, problems, lambda answer: answer.rollout.problem_id)

    async def _sample(self, problem: Problem, t: int) -> list[Rollout]:
        """sample.n answers, and as many again while none passed, up to max_samples."""
        # Groups grow where a pass is rare: there the first one is worth most, for a group without a pass has
        # no outcome to compare. This bends the sampling towards hard problems, as dropping groups does.
        n, rollouts = self.settings.sample.n, []
        most = max(n, self.settings.max_samples)
        while len(rollouts) + n <= most and not any(rollout.reward for rollout in rollouts):
            seed = fold_seed(self.seed, "rollouts", t, len(rollouts))
            rollouts += await sample_paths(self.sampler, problem, search_tests(problem), seed)
        return [dataclasses.replace(r, id=f"{t}/{problem.id}#{i}") for i, r in enumerate(rollouts)]

    async def _read(self, problem: Problem, rollouts: Sequence[Rollout]) -> list[Answer]:
        answers = await read_answers(rollouts, self.sampler.tokenizer, self.scorer, self.settings)
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


async def read_answers(
    rollouts: Sequence[Rollout], tokenizer: Tokenizer, scorer: StepScorer | None, settings: Settings
) -> list[Answer]:
    """The rollouts of one problem, cut into steps, and scored where there is a scorer."""
    steps_G: list[list[SampledStep]] = [[] for _ in rollouts]
    if settings.has_steps:
        steps_G = [cut(tokenizer, r, 1, settings.sample.max_tokens) for r in rollouts]
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
