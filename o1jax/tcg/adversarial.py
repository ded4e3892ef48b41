"""The generator's turn of self-play: DPO on its own answers, the better the more of the policy's wrong
programs their true cases kill.

The paper trains its generator once, before self-play; here it follows the policy. Run after every round of
search with the generator of the round before, it is iterative DPO.

Inputs: tcg (also the reference model), problems (check_problems, with reference programs), found_<k>: search
or sample stages of the policy. answers.parquet holds every answer with its reward; a stage that was killed
goes on from it. Writes no tests (write_tests does).
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated

from etils import epath
from pydantic import Field, NonNegativeInt, PositiveInt

from o1jax.batches.encode import encode_pair
from o1jax.concurrency import run_in_order
from o1jax.parallel.seeds import drawn, fold_seed
from o1jax.policy.found import found_directories, wrong_programs
from o1jax.prompts import chat
from o1jax.records import Form, InputError, PreferencePair, Problem, TestCase
from o1jax.sandbox.interface import Judge, Limits, unless_lost
from o1jax.stages import provenance, training
from o1jax.stages.manifest import StageResult
from o1jax.stages.problems import read_problems
from o1jax.stages.provenance import Provenance, Role, Source
from o1jax.stages.workers import EngineSettings, Workers, open_workers
from o1jax.store import read_records, write_records
from o1jax.tcg.gate import distinct, is_degenerate, killed, true_cases
from o1jax.tcg.prompt import CASES
from o1jax.tcg.writing import WriteSettings, parse_completion, request_for, sample
from o1jax.train.checkpoint import Policy
from o1jax.train.metrics import ProgressLine

ROUNDING = 1e-9  # of a difference of rewards, so that 0.3 - 0.2 is not less than a margin of 0.1


@dataclasses.dataclass(frozen=True)
class Settings(training.PreferenceSettings):
    """The generator's answers, how they are rewarded and paired, and how DPO trains on the pairs."""

    write: WriteSettings = WriteSettings(answers=8, temperature=1.0, top_p=1.0, top_k=0)
    max_wrong: PositiveInt = 8  # wrong programs of a problem that an answer is rewarded on
    validity_weight: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of valid cases in the reward (reward_of)
    margin: Annotated[float, Field(gt=0, le=1)] = 0.25  # the least difference of rewards in a pair
    max_pairs: NonNegativeInt = 2  # of a problem (0: all)
    limits: Limits = Limits()  # of a wrong program on one case
    concurrency: PositiveInt = 64  # problems at once
    engine: EngineSettings = EngineSettings()

    def __post_init__(self):
        if self.write.answers < 2:
            raise InputError(
                f"tcg_adversarial.write.answers: saw {self.write.answers}, wanted at least 2 to compare"
            )


@dataclasses.dataclass(frozen=True)
class JudgedAnswer:
    """One sampled answer and its reward."""

    problem_id: str
    number: int  # among those of its problem, from 0
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    finish_reason: str  # eos, or length where the token limit cut it short
    text: str
    valid: int  # cases that are true, not degenerate and of distinct inputs
    killed: tuple[int, ...]  # the wrong programs that these kill: indices into found.wrong_programs
    wrong: int  # how many of those there are
    reward: float  # in [0, 1]


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: problems, with_wrong (that have a wrong program and a reference), no_reference (that have a
    wrong program alone, and are left out), long_prompts (of with_wrong), answers,
    mean_reward, kill_share (of a problem's wrong programs, by any answer, mean over problems), valid_share
    (of the asked cases), pairs, dropped_long, steps, trained_tokens, generated_tokens. Without a pair the
    generator is saved unchanged, after 0 steps."""
    policy = training.open_policy(inputs["tcg"])
    training.check_model("tcg_adversarial", settings.train.model, policy)
    problems = read_problems(inputs["problems"])
    wrong, no_reference = wrong_of(inputs, problems, settings, seed)
    answers, timings = _answers(out, settings, policy, problems, wrong, seed)
    pairs = pairs_of(answers, settings.margin, settings.max_pairs, seed)
    provenance.write(out, _provenance(pairs, answers, wrong, settings, policy.tokenizer))
    found = {
        "problems": len(problems),
        "with_wrong": len(wrong),
        "no_reference": no_reference,
        "long_prompts": len(wrong.keys() - {answer.problem_id for answer in answers}),
        **_figures(answers),
        "pairs": len(pairs),
    }
    if not pairs:
        why = (
            f"{len(answers)} answers about {len(wrong)} problems, none with a reward {settings.margin} below "
            "its problem's best; sample more answers or lower the margin"
        )
        return StageResult(found | training.keep_unchanged(out, policy, why), timings)
    policy = training.as_trained(policy, settings.train, seed)
    fitted, long = training.train_preferences(out, "tcg_adversarial", policy, pairs, settings, seed)
    return training.result(fitted, found, long, timings)


def reward_of(
    cases: Sequence[TestCase],
    kills: Mapping[TestCase, frozenset[int]],
    wrong: int,
    form: Form,
    validity_weight: float,
) -> tuple[int, tuple[int, ...], float]:
    """(valid, killed, reward in [0, 1]) of an answer with these cases; `kills` has the true, not degenerate
    ones with the indices, below `wrong`, of the wrong programs that fail them.

    reward = validity_weight * valid / CASES + (1 - validity_weight) * killed / wrong, where valid counts
    distinct inputs and killed the programs that at least one case kills.
    """
    useful = [case for case in cases if case in kills]
    valid = len(distinct(useful, form))
    # A union, not a sum: three cases that kill the same program are worth one, so that variety pays.
    dead = frozenset().union(*(kills[case] for case in useful))
    reward = validity_weight * valid / CASES + (1.0 - validity_weight) * len(dead) / wrong
    return valid, tuple(sorted(dead)), reward


def pairs_of(
    answers: Sequence[JudgedAnswer], margin: float, max_pairs: int, seed: int
) -> list[PreferencePair]:
    """For each problem its best answer (of equals that with the most valid cases, then the first) against
    different ones whose rewards are at least `margin` lower; at most `max_pairs` of them (0: all), drawn by
    seed."""
    by_problem: dict[str, list[JudgedAnswer]] = collections.defaultdict(list)
    for answer in answers:
        by_problem[answer.problem_id].append(answer)
    pairs = []
    for problem_id, group in by_problem.items():
        # An answer that the token limit cut short is never chosen: it would teach not to stop.
        ended = [answer for answer in group if answer.finish_reason == "eos"]
        best = max(ended, key=lambda answer: (answer.reward, answer.valid), default=None)
        if best is not None:
            # A margin, for with few wrong programs rewards are coarse, and small differences are luck.
            worse = {a.token_ids: a for a in group if best.reward - a.reward >= margin - ROUNDING}
            pairs += [
                PreferencePair(
                    id=f"{problem_id}#{best.number}>{answer.number}",
                    problem_id=problem_id,
                    prompt_ids=best.prompt_ids,
                    chosen_ids=best.token_ids,
                    rejected_ids=answer.token_ids,
                    margin=best.reward - answer.reward,
                )
                for answer in drawn(worse.values(), max_pairs, seed, "tcg_adversarial", problem_id)
            ]
    return pairs


def _provenance(
    pairs: Sequence[PreferencePair],
    answers: Sequence[JudgedAnswer],
    wrong: Mapping[str, Sequence[str]],
    settings: Settings,
    tokenizer: chat.Tokenizer,
) -> list[Provenance]:
    of_number, rows = {(answer.problem_id, answer.number): answer for answer in answers}, []
    kind, length = "cases by what they kill", settings.train.row_length
    for pair in pairs:
        numbers = zip(pair.id.rpartition("#")[2].split(">"), ("chosen", "rejected"), strict=True)
        sources = [_source(of_number[pair.problem_id, int(n)], role, tokenizer) for n, role in numbers]
        facts = {f"wrong_program_{r}": source for r, source in enumerate(wrong[pair.problem_id])}
        rows.append(provenance.row(pair, kind, sources, encode_pair(pair), length, facts))
    return rows


def _source(answer: JudgedAnswer, role: Role, tokenizer: chat.Tokenizer) -> Source:
    killed = ", ".join(map(str, answer.killed)) or "none"
    record = f"answer {answer.number}, reward {answer.reward:.3f}, which kills wrong programs {killed},"
    return provenance.text_source(provenance.OWN, record, answer.token_ids, tokenizer, role, "tcg")


async def kills_of(
    judge: Judge, problem: Problem, cases: Sequence[TestCase], wrong: Sequence[str], limits: Limits
) -> dict[TestCase, frozenset[int]]:
    """For each different case that is true on the first reference program and not degenerate, the indices
    of the `wrong` programs that fail it. Raises JobLost."""
    different = list(dict.fromkeys(cases))
    true_C = await true_cases(judge, problem, problem.solutions[0], different, limits)
    # Only true cases kill: else a generator that writes nonsense kills every program, the right ones too.
    useful = [c for c, true in zip(different, true_C, strict=True) if true and not is_degenerate(problem, c)]
    # A case is run alone: in call form one execution holds all cases of a job, and what a program did on
    # another answer's case would be held against it.
    killed_C_R = await asyncio.gather(*(killed(judge, problem, wrong, [case], limits) for case in useful))
    return {
        case: frozenset(r for r, (fails,) in enumerate(killed_R) if fails)
        for case, killed_R in zip(useful, killed_C_R, strict=True)
    }


def wrong_of(
    inputs: Mapping[str, epath.Path], problems: Sequence[Problem], settings: Settings, seed: int
) -> tuple[dict[str, list[str]], int]:
    """(problem id -> the policy's wrong programs, where there are any and a reference program to know true
    cases by; how many problems have only the former). InputError where those are all, or others' are."""
    found = list(found_directories(inputs).values())
    if not found:
        raise InputError("tcg_adversarial: saw no input found_0; give at least one search or sample stage")
    wrong = wrong_programs(found, settings.max_wrong, seed)
    failed = [problem for problem in problems if problem.id in wrong]
    of_problems = {problem.id: wrong[problem.id] for problem in failed if problem.solutions}
    if wrong and not failed:
        raise InputError(
            f"{', '.join(map(str, found))}: wrong programs of {len(wrong)} problems, of none of those in "
            f"{inputs['problems']}; give stages in which a program of them failed a test"
        )
    if failed and not of_problems:
        raise InputError(
            f"problem {failed[0].id}: needs a reference program to know true cases by; none of the "
            f"{len(failed)} problems with wrong programs has one"
        )
    return of_problems, len(failed) - len(of_problems)


def _answers(
    out: epath.Path,
    settings: Settings,
    policy: Policy,
    problems: Sequence[Problem],
    wrong: Mapping[str, Sequence[str]],
    seed: int,
) -> tuple[list[JudgedAnswer], dict[str, float]]:
    """Every answer, in the order of the problems, and the engine's timings: sampled, or (no timings) those
    that this stage kept before it was killed; none about no problems."""
    kept = out / "answers.parquet"
    if kept.exists():
        return read_records(kept, JudgedAnswer), {}
    asked = [problem for problem in problems if problem.id in wrong]

    async def ask() -> tuple[list[JudgedAnswer], dict[str, float]]:
        async with open_workers(policy, settings.engine) as workers:
            answers_P_A = await run_in_order(
                lambda problem: judged_answers(workers, problem, wrong[problem.id], settings, seed),
                asked,
                settings.concurrency,
                ended=ProgressLine("write tests", len(asked)).count,
            )
            return [answer for answers in answers_P_A for answer in answers], workers.timings()

    answers, timings = asyncio.run(ask()) if asked else ([], {})
    write_records(kept, JudgedAnswer, answers)
    return answers, timings


async def judged_answers(
    workers: Workers, problem: Problem, wrong: Sequence[str], settings: Settings, seed: int
) -> list[JudgedAnswer]:
    """settings.write.answers answers about `problem`, its first reference program shown, with rewards; none
    where the prompt fills the engine's context, or the judge lost a program."""
    own_seed = fold_seed(seed, problem.id, "tcg_adversarial")
    request = request_for(workers.tokenizer, problem, problem.solutions[0], settings.write, own_seed)
    completions = await sample(workers.engine, request)
    parsed_A = [parse_completion(completion, problem.form) for completion in completions]
    cases_A_C = [[case.test for case in parsed.cases] for parsed in parsed_A]
    every = [case for cases in cases_A_C for case in cases]
    kills = await unless_lost(kills_of(workers.judge, problem, every, wrong, settings.limits), None)
    if kills is None:
        return []
    answers = []
    for number, (answer, cases) in enumerate(zip(completions, cases_A_C, strict=True)):
        valid, dead, reward = reward_of(cases, kills, len(wrong), problem.form, settings.validity_weight)
        answers.append(
            JudgedAnswer(
                problem_id=problem.id,
                number=number,
                prompt_ids=request.prompt_ids,
                token_ids=answer.token_ids,
                finish_reason=answer.finish_reason,
                text=answer.text,
                valid=valid,
                killed=dead,
                wrong=len(wrong),
                reward=reward,
            )
        )
    return answers


def _figures(answers: Sequence[JudgedAnswer]) -> dict[str, float]:
    wrong = {answer.problem_id: answer.wrong for answer in answers}
    dead = collections.Counter(id for id, _ in {(a.problem_id, r) for a in answers for r in a.killed})
    n, n_problems = len(answers) or 1, len(wrong) or 1  # the means of no answers are 0
    return {
        "answers": len(answers),
        "mean_reward": round(sum(answer.reward for answer in answers) / n, 4),
        "kill_share": round(sum(dead[id] / n_wrong for id, n_wrong in wrong.items()) / n_problems, 4),
        "valid_share": round(sum(answer.valid for answer in answers) / n / CASES, 4),
        "generated_tokens": sum(len(answer.token_ids) for answer in answers),
    }
