"""The answers of one update: sampled, judged, cut into steps, scored, and kept in a file.

An update whose file is there already is read from it, so that a resumed run does not sample twice. Chooses
no problems and makes no rewards.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from etils import epath

from o1jax.concurrency import run_in_order
from o1jax.engine.step_scorer import StepScorer
from o1jax.parallel.processes import barrier, is_leader, place
from o1jax.parallel.seeds import fold_seed
from o1jax.prompts.chat import Tokenizer
from o1jax.records import InputError, Problem, Rollout
from o1jax.rewards.outcome import judge_program, search_tests
from o1jax.rl.settings import Settings
from o1jax.search.sampling import Sampler, prompt_of, sample_paths, steps_of_rollout
from o1jax.search.steps import SampledStep, path_of
from o1jax.stages.together import joined
from o1jax.stages.workers import Workers
from o1jax.store import read_records, write_records


@dataclasses.dataclass(frozen=True)
class Answer:
    """A rollout and its steps: where in its token_ids each ends (past its last token), its action and its
    score. A malformed step, which ends its answer, has action and score 0; without a process reward model
    all scores are 0. `false_accept`: whether a program that passed fails the audit, where there is one."""

    rollout: Rollout
    step_ends: tuple[int, ...] = ()
    actions: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    false_accept: bool | None = None


@dataclasses.dataclass(frozen=True)
class RewardedRollout:
    """What update t made of one of its rollouts: a row of rewards/update_<t>.parquet."""

    rollout_id: str  # the Rollout.id in rollouts/update_<t>.parquet: "<t>/<problem id>#<number>"
    problem_id: str
    update: int  # t, counted over all rounds
    reward: float  # phi = alpha * outcome + (1 - alpha) * process, in [0, 1] as its parts are
    outcome: float  # R: by the tests alone
    process: float  # the process term; 0 without a process reward model
    alpha: float  # the outcome's share at update t
    step_scores: tuple[float, ...]  # the process reward model's, one a step; empty without one
    kept: bool  # whether its group was trained on: the others' answers were all rewarded alike
    trained: bool  # whether it was itself; of a kept group all, unless settings.negative_weight is 0


@dataclasses.dataclass(frozen=True)
class ReplayedSample:
    """A found path or a reference that update t trained on: a row of replayed/update_<t>.parquet."""

    sample_id: str  # the SftSample.id, as policy/found.py gives it
    update: int  # t


class Player:
    """Plays updates with what a stage holds open. `audit`: problems with more tests, by id."""

    def __init__(
        self,
        workers: Workers,
        scorer: StepScorer | None,
        settings: Settings,
        audit: Mapping[str, Problem],
        directory: epath.Path,
        seed: int,
    ):
        self.sampler = Sampler(workers.engine, workers.judge, workers.tokenizer, settings.sample)
        self.scorer, self.settings, self.audit = scorer, settings, audit
        self.directory, self.parts, self.seed = directory, directory.parent / "parts", seed

    def forget(self) -> None:
        """Removes what processes said to one another, now or in an earlier, killed try; all call it."""
        if is_leader():
            self.parts.rmtree(missing_ok=True)
        barrier("rollouts")

    def check(self, problems: Sequence[Problem]) -> None:
        """InputError that names a problem which could not be played: no tests, or too long a prompt."""
        for problem in problems:
            search_tests(problem)
            length, context = len(prompt_of(self.sampler, problem)), self.sampler.engine.max_context
            if length >= context:
                raise InputError(
                    f"problem {problem.id}: its prompt of {length} tokens leaves no room for an answer in "
                    f"engine.context ({context}); raise that, or leave the problem out"
                )

    async def play(self, problems: Sequence[Problem], t: int) -> list[list[Answer]]:
        """groups_P_G of update t: what the engine's weights, or the update's file, answer. Of several
        processes each plays as many, and all get all groups."""
        index, count, _ = place()
        path, mine = rollouts_path(self.directory, t), problems[index::count]
        kept = groups_in(path) if path.exists() else {}
        is_kept = list(kept) == [problem.id for problem in problems]
        if is_kept:
            rollouts_P_G = [kept[problem.id] for problem in mine]
        else:
            rollouts_P_G = await run_in_order(lambda problem: self._sample(problem, t), mine, len(mine))
        items = list(zip(mine, rollouts_P_G, strict=True))
        groups = await run_in_order(lambda item: self._read(*item), items, len(items))
        answers = await self._joined([answer for group in groups for answer in group], problems, t)
        if not is_kept and index == 0:
            write_records(path, Rollout, [answer.rollout for answer in answers])
        by_problem = itertools.groupby(answers, key=lambda answer: answer.rollout.problem_id)
        return [list(group) for _, group in by_problem]

    async def _joined(self, mine: Sequence[Answer], problems: Sequence[Problem], t: int) -> list[Answer]:
        """Those of all processes, which have read the parts of the update before the last."""
        if is_leader():
            (self.parts / str(t - 2)).rmtree(missing_ok=True)
        out, parts = self.parts.parent, self.parts / str(t)
        return await joined(out, parts, Answer, mine, problems, lambda answer: answer.rollout.problem_id)

    async def _sample(self, problem: Problem, t: int) -> list[Rollout]:
        """sample.n answers, and as many again while none passed, up to max_samples."""
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
        return not verdict.passed


def rollouts_path(directory: epath.Path, t: int) -> epath.Path:
    """Where the rollouts of update t are kept."""
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


async def read_answers(
    rollouts: Sequence[Rollout], tokenizer: Tokenizer, scorer: StepScorer | None, settings: Settings
) -> list[Answer]:
    """The rollouts of one problem, cut into steps, and scored where there is a scorer."""
    steps_G: list[list[SampledStep]] = [[] for _ in rollouts]
    if settings.has_steps:
        steps_G = [steps_of_rollout(tokenizer, r, settings.sample.max_tokens) for r in rollouts]
    scores_G = [[0.0] * len(steps) for steps in steps_G]
    if scorer is not None:
        formed_G = [[step for step in steps if not step.error] for steps in steps_G]
        scored = [g for g, formed in enumerate(formed_G) if formed]
        prompt_ids, eos_id = rollouts[0].prompt_ids, tokenizer.eos_token_id
        found = await scorer.score([path_of(prompt_ids, formed_G[g], eos_id) for g in scored])
        for g, scores in zip(scored, found, strict=True):
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
