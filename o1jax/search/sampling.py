"""Plain sampling: whole answers, judged. What search is compared with, and what evaluation counts.

Samples from one of the prompts, to a number of samples or of tokens, and for ASPR from the last pseudocode
step of a path that search found. Reads the program of an answer strictly, or as lenient harnesses do. Does
not search, and chooses no tests itself.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from transformers import PreTrainedTokenizerBase

from o1jax.concurrency import run_in_order
from o1jax.engine.interface import Engine, Request
from o1jax.parallel.seeds import drawn, fold_seed
from o1jax.prompts import chat, direct, extraction, fence, pseudocode
from o1jax.prompts.extraction import Extract
from o1jax.prompts.fence import Style
from o1jax.records import InputError, Problem, Prompt, Rollout, TestCase, Tree
from o1jax.rewards.outcome import judge_program, outcome_of
from o1jax.sandbox.interface import Judge, Limits
from o1jax.search import hidden
from o1jax.search.steps import cut, text_of
from o1jax.search.tree import passing_leaves, path_ids

Tests = tuple[TestCase, ...]


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """How answers are sampled and judged; the sampling settings are those of search."""

    n: PositiveInt = 8  # answers of a request
    prompt: Prompt = "pseudocode"
    temperature: NonNegativeFloat = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    top_k: NonNegativeInt = 40  # 0: all tokens
    max_tokens: PositiveInt = 2048  # of an answer
    few_shot: NonNegativeInt = 0  # worked examples in the pseudocode prompt
    style: Style = "full"  # of the pseudocode and the direct prompt
    # How the program of an answer to those two is found. strict: in the form that search and RL teach, and
    # nowhere else. lenient: as in the field's harnesses. "": strict, but in evaluations lenient with style
    # full, whose models were not taught here (`for_evaluation`).
    extract: Extract = ""
    limits: Limits = Limits()  # of one execution of a program


def for_evaluation(settings: SampleSettings) -> SampleSettings:
    """The settings with `extract` decided, as evaluations have it."""
    by_style = "lenient" if settings.style == "full" else "strict"
    return dataclasses.replace(settings, extract=settings.extract or by_style)


def refuse_lenient(settings: SampleSettings, where: str) -> None:
    """InputError for answers that are trained on and read leniently."""
    if settings.extract == "lenient":
        raise InputError(
            f"{where}.extract: saw 'lenient', wanted 'strict': what is trained on keeps the form; leave it "
            "out, only evaluations may be lenient"
        )


@dataclasses.dataclass(frozen=True)
class Sampler:
    """What every sampling needs: who generates, who judges, how."""

    engine: Engine
    judge: Judge
    tokenizer: PreTrainedTokenizerBase
    settings: SampleSettings
    examples: tuple[Problem, ...] = ()  # solved ones, which a completion prompt begins with


async def sample_paths(
    sampler: Sampler, problem: Problem, tests: Tests, seed: int, *, first: int = 0, n: int = 0
) -> list[Rollout]:
    """n (0: settings.n) whole answers to `problem`, those from number `first` on, judged on `tests`; reward 1
    if every test passes, else 0.

    An answer without a program is not judged: verdict None, reward 0.
    """
    settings = dataclasses.replace(sampler.settings, n=n or sampler.settings.n)
    sampler = dataclasses.replace(sampler, settings=settings)
    seed = fold_seed(seed, problem.id, "sample", sampler.settings.prompt)
    return await _sample(sampler, problem, tests, prompt_of(sampler, problem), 1, seed, first=first)


async def sample_many(
    sampler: Sampler,
    problems: Sequence[Problem],
    tests_of: Callable[[Problem], Tests],
    seed: int,
    *,
    concurrency: int = 64,
) -> list[list[Rollout]]:
    """rollouts_P_G: `sample_paths` of every problem, in their order."""
    return await run_in_order(
        lambda problem: sample_paths(sampler, problem, tests_of(problem), seed), problems, concurrency
    )


@dataclasses.dataclass(frozen=True)
class StopRule:
    """When the sampling of one problem ends: at the first that is reached. 0: no such limit."""

    tokens: NonNegativeInt = 0  # about so many are generated
    answers: NonNegativeInt = 0
    passes: NonNegativeInt = 0  # answers that pass
    fails: NonNegativeInt = 0  # answers that do not, with as many that pass if `passes` is given too

    def is_reached(self, passes: int, fails: int) -> bool:
        """Whether so many answers are enough, tokens apart."""
        counts = [(passes, self.passes), (fails, self.fails)]
        asked = [count >= wanted for count, wanted in counts if wanted]
        return bool(self.answers) and passes + fails >= self.answers or bool(asked) and all(asked)

    def is_reached_by(self, rollouts: Sequence[Rollout]) -> bool:
        """Whether these answers are enough, tokens apart."""
        passes = sum(rollout.reward == 1 for rollout in rollouts)
        return self.is_reached(passes, len(rollouts) - passes)


async def sample_until(
    sampler: Sampler, problem: Problem, tests: Tests, seed: int, stop: StopRule
) -> list[Rollout]:
    """Answers in groups of settings.n (the last one smaller, where `stop.answers` leaves less) until a group
    ends with `stop` reached. With `stop.tokens` it is best-of-n at equal tokens: there is at least one
    answer, and what was sampled beyond them is left out."""
    if not (stop.tokens or stop.answers):
        raise InputError(
            "stop rule: saw neither tokens nor answers, so that sampling might never end; give one"
        )
    rollouts, spent = [], 0
    while (not stop.tokens or spent < stop.tokens) and not stop.is_reached_by(rollouts):
        n = min(sampler.settings.n, stop.answers - len(rollouts) if stop.answers else sampler.settings.n)
        for rollout in await sample_more(sampler, problem, tests, seed, len(rollouts), n):
            if stop.tokens and rollouts and is_too_much(spent, rollout, stop.tokens):
                return rollouts
            rollouts.append(rollout)
            spent += len(rollout.token_ids)
    return rollouts


def is_too_much(spent: int, rollout: Rollout, tokens: int) -> bool:
    """Whether an answer beyond those that cost `spent` is outside of a budget."""
    # It counts if half of it fits, so that over many problems nothing is gained or lost: always counting it
    # would give sampling more tokens than search, and never counting it would give it fewer.
    return spent + len(rollout.token_ids) / 2 > tokens


async def sample_more(
    sampler: Sampler, problem: Problem, tests: Tests, seed: int, before: int, n: int
) -> list[Rollout]:
    """n answers beyond the `before` that there are, judged and numbered after them."""
    group = dataclasses.replace(sampler, settings=dataclasses.replace(sampler.settings, n=n))
    seed = fold_seed(seed, problem.id, "sample_tokens", before)
    rollouts = await _sample(group, problem, tests, prompt_of(sampler, problem), 1, seed)
    return [dataclasses.replace(r, id=f"{r.group_id}#{i}") for i, r in enumerate(rollouts, before)]


# (number of the round, its problems, answers that each has, answers that each gets) -> problem id -> answers
Round = Callable[[int, Sequence[Problem], int, int], Awaitable[Mapping[str, Sequence[Rollout]]]]
MOST_AT_ONCE = 8  # answers a problem in a round


async def sample_to_total(
    problems: Sequence[Problem], tokens: int, stop: StopRule, seed: int, sample_round: Round
) -> list[list[Rollout]]:
    """rollouts_P_G at a budget of all problems together: an answer to each in turn, in an order drawn by the
    seed, until `tokens` are spent (within half an answer; each problem gets one in any case). None to a
    problem whose `stop` is reached: what it leaves goes to the others, as where search stops early.

    What a round samples beyond that is left out, so that the answers are those of asking one by one.
    """
    # The last turn, which the budget cuts, would else go to the first problems: on the ladder the easy ones.
    order = drawn(problems, 0, seed, "order of turns")
    groups: dict[str, list[Rollout]] = {problem.id: [] for problem in problems}
    turns = spent = 0
    for number in itertools.count():
        open_problems = [problem for problem in order if not stop.is_reached_by(groups[problem.id])]
        if not open_problems or turns and spent >= tokens:
            break
        n = _turns_at_once(groups, tokens - spent, len(open_problems))
        new = await sample_round(number, open_problems, turns, n)
        for turn, problem in itertools.product(range(n), open_problems):
            answers, answer = groups[problem.id], new[problem.id][turn]
            if stop.is_reached_by(answers):
                continue
            if answers and is_too_much(spent, answer, tokens):
                return list(groups.values())
            answers.append(answer)
            spent += len(answer.token_ids)
        turns += n
    return list(groups.values())


def _turns_at_once(groups: Mapping[str, Sequence[Rollout]], tokens: int, open_problems: int) -> int:
    """Answers a problem in the next round: half of the turns that the tokens left are likely to buy."""
    lengths = [len(rollout.token_ids) for group in groups.values() for rollout in group]
    turns = tokens * len(lengths) / sum(lengths) / open_problems if lengths else 0
    # Not all of them: problems that pass in between leave their part, and what they were sampled is wasted.
    return min(MOST_AT_ONCE, max(1, int(turns / 2)))


async def sample_last_step(
    sampler: Sampler, tree: Tree, problem: Problem, tests: Tests, seed: int
) -> list[Rollout]:
    """settings.n fresh programs from the last pseudocode step of a passing path, judged (ASPR, D8).

    The path is the first that passed; the rollouts' prompt is everything before its program. Raises
    InputError if the tree is not solved.
    """
    if not tree.solved:
        raise InputError(
            f"problem {tree.problem_id}: search did not solve it, so ASPR has no path; leave it out"
        )
    # The first in order of creation, not the best: which path is taken must not depend on the final tests.
    leaf = passing_leaves(tree)[0]
    prefix_ids = tree.prompt_ids + path_ids(tree.nodes, leaf.parent)
    seed = fold_seed(seed, problem.id, "last_step")
    return await _sample(sampler, problem, tests, prefix_ids, leaf.depth, seed, shown=len(tree.prompt_ids))


def prompt_of(sampler: Sampler, problem: Problem) -> tuple[int, ...]:
    """The token ids of the settings' prompt."""
    settings = sampler.settings
    if settings.prompt == "completion":
        return chat.begin(sampler.tokenizer, direct.completion_prompt(problem, sampler.examples))
    if settings.prompt == "direct":
        return chat.render(sampler.tokenizer, direct.messages(problem, style=settings.style))
    messages = pseudocode.messages(problem, few_shot=settings.few_shot, style=settings.style)
    return chat.render(sampler.tokenizer, messages)


async def _sample(
    sampler: Sampler,
    problem: Problem,
    tests: Tests,
    prompt_ids: tuple[int, ...],
    number: int,
    seed: int,
    shown: int = 0,
    first: int = 0,
) -> list[Rollout]:
    """n answers that go on from `prompt_ids` with step `number` (pseudocode) or whole, judged. The first
    `shown` tokens of it (0: all) are the question's prompt. `first`: as Request.first."""
    settings, tokenizer = sampler.settings, sampler.tokenizer
    is_hidden = settings.prompt == "pseudocode"
    hidden_ids = hidden.program_prompt(tokenizer, settings.style) if is_hidden else ()
    shown = shown or len(prompt_ids)
    request = Request(
        prompt_ids=prompt_ids,
        n=settings.n,
        first=first,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        stop=direct.completion_stops(problem) if settings.prompt == "completion" else (),
        seed=seed,
        # Nobody asks for this prompt again: its keys and values would only push those of a search's trees
        # out of the cache.
        reuse_prefix=False,
    )
    (completions,) = await hidden.generate(sampler.engine, tokenizer, [request], shown, hidden_ids)
    rollouts = [
        Rollout(
            id=f"{problem.id}#{i}",
            group_id=problem.id,
            problem_id=problem.id,
            prompt_ids=prompt_ids,
            token_ids=completion.token_ids,
            log_probs=completion.log_probs,
            is_policy_token=(True,) * len(completion.token_ids),
            finish_reason=completion.finish_reason,
            temperature=settings.temperature,
            policy_version=completion.policy_version,
            prompt=settings.prompt,
            program="",
            # It stands for the whole of prompt_ids: here with the steps of a prompt that goes on from some.
            program_prompt_ids=hidden_ids + prompt_ids[shown:] if hidden_ids else (),
            program_from=hidden.program_from(tokenizer, completion.token_ids) if hidden_ids else 0,
        )
        for i, completion in enumerate(completions)
    ]
    return await judged(sampler, problem, tests, read(sampler, problem, rollouts, number))


def read(sampler: Sampler, problem: Problem, rollouts: Sequence[Rollout], number: int = 1) -> list[Rollout]:
    """Answers that begin with step `number` (pseudocode) or are whole, with the program and the error that
    the settings' `extract` finds in their tokens in place of what they had before."""
    found = [_program(sampler, problem, rollout, number) for rollout in rollouts]
    return [
        dataclasses.replace(rollout, program=program, error=error)
        for rollout, (program, error) in zip(rollouts, found, strict=True)
    ]


async def judged(
    sampler: Sampler, problem: Problem, tests: Tests, rollouts: Sequence[Rollout]
) -> list[Rollout]:
    """Answers with the verdict on `tests`, and its reward, in place of what they had before. One that the
    judge lost has no reward: outcome.is_lost tells such groups."""

    async def work(rollout: Rollout) -> Rollout:
        verdict = None
        if rollout.program:
            limits = sampler.settings.limits
            verdict = await judge_program(sampler.judge, problem, rollout.program, tests, limits)
        reward = 0.0 if verdict is not None and verdict.lost else outcome_of(verdict)
        return dataclasses.replace(rollout, verdict=verdict, reward=reward)

    return await asyncio.gather(*map(work, rollouts))


def _program(sampler: Sampler, problem: Problem, answer: Rollout, number: int) -> tuple[str, str]:
    """The program of an answer, and how it breaks the form that is taught; "" for what there is none of."""
    settings = sampler.settings
    text = text_of(sampler.tokenizer, answer.token_ids)
    if settings.prompt == "completion":
        program = direct.completed_program(problem, text)
        return program, "" if program else "the answer says nothing"
    if settings.prompt == "pseudocode":
        step = cut(sampler.tokenizer, answer, number, settings.max_tokens)[-1]
        program, error = step.program, "" if step.program else step.error or "no program"
    else:
        program, error = _fenced(text)
    if settings.extract == "lenient" and settings.prompt == "direct":
        program = extraction.find_program(text, problem)
    elif settings.extract == "lenient" and error:
        program = extraction.find_program(pseudocode.program_part(text), problem)
    # The prompt shows starter code, and an answer need not repeat its imports and helpers.
    return extraction.with_starter(program, problem), error


def _fenced(text: str) -> tuple[str, str]:
    try:
        return fence.only_program(text), ""
    except fence.FenceError as error:
        # A malformed answer is an expected result of sampling, not a fault: no program, reward 0.
        return "", str(error)
