"""Step 1, second half: DPO of a test-case generator on true cases against false ones (O1-CODER, 3.1).

Inputs: tcg (of tcg_sft; also the reference model, whose log-probs are computed once), problems
(check_problems, as tcg_sft's). A pair is three true cases, and three false ones under the same prompt:
  shuffled   the true outputs in another order, none in its place (the paper's; traces stay where they are);
  near_miss  the outputs, and traces, of one mutant of the program;
  sampled    an answer of the generator itself, and, as chosen, the true cases of its inputs;
or, after all that is right in an answer of the generator itself,
  first_wrong_line  its first line that is wrong, of a trace or an output, and, as chosen, the true line
                    (Step-DPO, Lai et al. 2024, arXiv 2406.18629): nothing that it can do already is in it.
Departures: a shuffle is a derangement, and a pair is kept only if what is rejected is false on the reference
program, which the paper takes for granted: all three cases of a shuffle, at least one of the others.
With objective "sft" the chosen sides alone are learned, by their likelihood: what DPO is to be compared with.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Literal

from etils import epath

from o1jax.batches.encode import encode_pair, encode_sft, keep_short
from o1jax.concurrency import run_in_order
from o1jax.parallel.processes import this_process
from o1jax.parallel.seeds import fold_seed
from o1jax.prompts.chat import Tokenizer, decode
from o1jax.records import InputError, PreferencePair, Problem, SftSample
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Judge, Limits, unless_lost
from o1jax.search.samples import whole_sample
from o1jax.stages import provenance, training
from o1jax.stages.manifest import StageResult
from o1jax.stages.problems import read_problems
from o1jax.stages.provenance import Provenance, text_source
from o1jax.stages.together import made_once
from o1jax.stages.workers import EngineSettings, Workers, open_workers
from o1jax.tcg import cases as tcg_cases
from o1jax.tcg.cases import CaseSet, CaseSettings
from o1jax.tcg.gate import distinct, is_degenerate, true_cases
from o1jax.tcg.mutants import mutants
from o1jax.tcg.prompt import CASES, Case, Parsed, canonical, is_renderable
from o1jax.tcg.traces import traced_cases
from o1jax.tcg.writing import WriteSettings, parse_completion, request_for, sample
from o1jax.train import objectives
from o1jax.train.checkpoint import Policy
from o1jax.train.loop import Fitted
from o1jax.train.metrics import ProgressLine

Rejected = Literal["shuffled", "near_miss", "sampled", "first_wrong_line"]
Cases = tuple[Case, ...]
CONCURRENCY = 64  # sets at once
MUTANTS = 6  # tried, in random order, until one gives a near miss


@dataclasses.dataclass(frozen=True)
class Settings(training.PreferenceSettings):
    """What false cases the true ones are compared with, and how DPO trains on them."""

    rejected: Rejected = "shuffled"  # how false cases are made; "shuffled" is the paper's
    # "sft" learns the chosen sides of the same pairs instead, for as many tokens
    objective: Literal["dpo", "sft"] = "dpo"
    cases: CaseSettings = CaseSettings()
    # how the generator is sampled, for "sampled" and "first_wrong_line"
    write: WriteSettings = WriteSettings(answers=1, temperature=1.0, top_p=1.0, top_k=0)
    engine: EngineSettings = EngineSettings()

    @property
    def samples(self) -> bool:
        """Whether what is rejected is the generator's own."""
        return self.rejected in ("sampled", "first_wrong_line")


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: problems, sets, pairs (sets whose rejected cases are really false), dropped_long, steps,
    trained_tokens."""
    policy = training.open_policy(inputs["tcg"])
    training.check_model("tcg_dpo", settings.train.model, policy)
    if settings.samples and this_process().count > 1:
        # Its weights lie over all processes' devices, and an engine is one process's.
        raise InputError(
            f"tcg_dpo.rejected: saw {settings.rejected!r} with {this_process().count} processes, wanted one: "
            "they are sampled by the policy that is trained"
        )
    made = tcg_cases.kept_sets(out, read_problems(inputs["problems"]), settings.cases, seed)
    pairs = made_once(
        out / "pairs.parquet", PreferencePair, lambda: pairs_of(made.sets, settings, policy, seed)
    )
    if not pairs:
        raise InputError(
            f"{inputs['problems']}: no set of cases with a false counterpart; lost: {made.dropped}"
        )
    provenance.write(out, _provenance(pairs, made.sets, settings, policy.tokenizer))
    policy = training.as_trained(policy, settings.train, seed)
    if settings.objective == "sft":
        fitted, long = _imitated(out, policy, pairs, settings, seed)
    else:
        fitted, long = training.train_preferences(out, "tcg_dpo", policy, pairs, settings, seed)
    figures = {"problems": made.problems, "sets": len(made.sets), "pairs": len(pairs)}
    return training.result(fitted, figures, long)


def _imitated(
    out: epath.Path, policy: Policy, pairs: Sequence[PreferencePair], settings: Settings, seed: int
) -> tuple[Fitted, int]:
    """SFT on the chosen sides, and how many of them are longer than a row; InputError if that is all."""
    examples, long = keep_short([encode_sft(_chosen(pair)) for pair in pairs], settings.train.row_length)
    if not examples:
        raise InputError(
            f"tcg_dpo.train.row_length: saw {settings.train.row_length} tokens, and all {long} chosen sides "
            "are longer; raise it"
        )
    return training.train_tokens(out, "tcg_dpo", policy, objectives.sft, examples, settings, seed), long


def pairs_of(sets: Sequence[CaseSet], settings: Settings, policy: Policy, seed: int) -> list[PreferencePair]:
    """The sets that have a false counterpart, each with one; where settings.samples, the policy's."""
    tokenizer, cases, pairs = policy.tokenizer, settings.cases, []
    for case_set, both in zip(sets, asyncio.run(_counterparts(sets, settings, policy, seed)), strict=True):
        if both is not None:
            chosen, rejected = (
                tcg_cases.answer_ids(side, case_set.problem, tokenizer, cases) for side in both
            )
            asked = tcg_cases.prompt_ids(case_set, tokenizer, cases)
            pair = PreferencePair(case_set.id, case_set.problem.id, asked, chosen, rejected)
            is_line = settings.rejected == "first_wrong_line"
            pairs.append(first_difference(pair, tokenizer) if is_line else pair)
    return pairs


def first_difference(pair: PreferencePair, tokenizer: Tokenizer) -> PreferencePair:
    """The pair of what the answers begin to differ with, up to the end of that line, under all before it."""
    # The line's own beginning is of the prompt as far as its tokens are the same in both: their log-probs are
    # too, and would cancel.
    both = zip(pair.chosen_ids, pair.rejected_ids, strict=False)
    start = next(at for at, (chosen, rejected) in enumerate(both) if chosen != rejected)
    return dataclasses.replace(
        pair,
        prompt_ids=pair.prompt_ids + pair.chosen_ids[:start],
        chosen_ids=_line(pair.chosen_ids[start:], tokenizer),
        rejected_ids=_line(pair.rejected_ids[start:], tokenizer),
    )


def _line(token_ids: tuple[int, ...], tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens up to the one that ends the line; it is a part of what was said: 1 is not 14."""
    whole = range(1, len(token_ids) + 1)
    end = next((n for n in whole if "\n" in decode(tokenizer, token_ids[:n])), len(token_ids))
    return token_ids[:end]


def _provenance(
    pairs: Sequence[PreferencePair], sets: Sequence[CaseSet], settings: Settings, tokenizer: Tokenizer
) -> list[Provenance]:
    of_id, rows = {case_set.id: case_set for case_set in sets}, []
    is_line, sampled_by = settings.rejected == "first_wrong_line", "tcg" if settings.samples else ""
    true, false = ("true line", "wrong line") if is_line else ("true cases", f"{settings.rejected} ones")
    for pair in pairs:
        sources = [text_source("problems", true, pair.chosen_ids, tokenizer, "chosen")]
        example, kind = encode_pair(pair), f"true and false {'lines' if is_line else 'cases'}"
        if settings.objective == "sft":
            sources = [dataclasses.replace(sources[0], role="answer")]
            example, kind = encode_sft(_chosen(pair)), f"{true} of a pair"
        else:
            rejected = text_source("problems", false, pair.rejected_ids, tokenizer, "rejected", sampled_by)
            sources.append(rejected)
        facts = {"program": of_id[pair.id].source, "program_shown": of_id[pair.id].shown}
        rows.append(provenance.row(pair, kind, sources, example, settings.train.row_length, facts))
    return rows


def _chosen(pair: PreferencePair) -> SftSample:
    return whole_sample(pair.id, pair.problem_id, pair.prompt_ids, pair.chosen_ids)


async def _counterparts(
    sets: Sequence[CaseSet], settings: Settings, policy: Policy, seed: int
) -> list[tuple[Cases, Cases] | None]:
    """(chosen, rejected) of each set, or None."""
    limits = settings.cases.limits
    if not settings.samples:
        async with ForkJudge(slots=settings.cases.judge_slots) as judge:
            return await chosen_and_rejected(judge, sets, settings.rejected, limits, seed)
    # One answer a set, in the form that the sets are learned in, whatever `write` says.
    write = dataclasses.replace(
        settings.write, answers=1, traced=settings.cases.traced, style=settings.cases.style
    )
    one = chosen_and_sampled if settings.rejected == "sampled" else true_to_first_wrong
    async with open_workers(policy, settings.engine) as workers:
        return await run_in_order(
            lambda case_set: unless_lost(one(workers, case_set, write, limits, seed), None),
            sets,
            CONCURRENCY,
            ended=ProgressLine("sample rejected tests", len(sets)).count,
        )


async def chosen_and_rejected(
    judge: Judge, sets: Sequence[CaseSet], kind: Literal["shuffled", "near_miss"], limits: Limits, seed: int
) -> list[tuple[Cases, Cases] | None]:
    """For each set, in order, its cases and rejected ones; None where there are none really false."""
    one = {"shuffled": _shuffled, "near_miss": _near_miss}[kind]
    rejected_S = await run_in_order(
        lambda s: unless_lost(one(judge, s, limits, random.Random(fold_seed(seed, "rejected", s.id))), None),
        sets,
        CONCURRENCY,
    )
    return [None if cases is None else (s.cases, cases) for s, cases in zip(sets, rejected_S, strict=True)]


async def _shuffled(judge: Judge, case_set: CaseSet, limits: Limits, rng: random.Random) -> Cases | None:
    cases = deranged(case_set.cases, rng)
    # Equal outputs may still leave a true case: rejected beside its own copy among the chosen, DPO would push
    # one text up and down at once.
    return cases if not any(await _true(judge, case_set, cases, limits)) else None


def deranged(cases: Sequence[Case], rng: random.Random) -> Cases:
    """The cases with their outputs moved round by 1 to n - 1 places: of three, the two derangements."""
    # A uniform shuffle of three is the identity one time in six, and leaves one output in its place in three
    # of the other five: true cases among the rejected.
    shift = rng.randrange(1, len(cases))
    return tuple(
        dataclasses.replace(case, test=dataclasses.replace(case.test, output=other.test.output))
        for case, other in zip(cases, (*cases[shift:], *cases[:shift]), strict=True)
    )


async def _near_miss(judge: Judge, case_set: CaseSet, limits: Limits, rng: random.Random) -> Cases | None:
    inputs, form = [case.test.input for case in case_set.cases], case_set.problem.form
    for mutant in mutants(case_set.source, MUTANTS, rng.randrange(1 << 31)):
        cases = await traced_cases(judge, case_set.problem, mutant, inputs, limits)
        usable = [canonical(case, form) for case in cases if _is_usable(case_set.problem, case)]
        # A mutant is wrong on some inputs only: one false case is what is near about the miss.
        if len(usable) == CASES and not all(await _true(judge, case_set, usable, limits)):
            return tuple(usable)
    return None


async def chosen_and_sampled(
    workers: Workers, case_set: CaseSet, write: WriteSettings, limits: Limits, seed: int
) -> tuple[Cases, Cases] | None:
    """The true cases of the inputs in an answer to the set's prompt, and that answer's cases; None where
    they are all true, not three of different inputs, or a true one is degenerate or has no trace, and where
    the prompt fills the engine's context."""
    problem, sampled = case_set.problem, (await _sampled(workers, case_set, write, seed)).cases
    if len(distinct([case.test for case in sampled], problem.form)) < CASES:
        return None
    # Chosen are the same inputs with the outputs put right, so that truth alone sets the two apart.
    inputs = [case.test.input for case in sampled]
    true = await traced_cases(workers.judge, problem, case_set.source, inputs, limits)
    useful = [case for case in true if _is_usable(problem, case) and not is_degenerate(problem, case.test)]
    if len(useful) < len(true) or all(await _true(workers.judge, case_set, sampled, limits)):
        return None
    return tuple(canonical(case, problem.form) for case in useful), sampled


async def true_to_first_wrong(
    workers: Workers, case_set: CaseSet, write: WriteSettings, limits: Limits, seed: int
) -> tuple[Cases, Cases] | None:
    """An answer to the set's prompt with its first wrong case put right, and that answer; None where no case
    is wrong, where the program has no trace on the wrong one's input, and of an answer that is not
    well-formed throughout."""
    problem, answer = case_set.problem, await _sampled(workers, case_set, write, seed)
    if answer.dropped or not answer.cases:
        return None
    inputs = [case.test.input for case in answer.cases]
    cases = await traced_cases(workers.judge, problem, case_set.source, inputs, limits)
    is_true = await _true(workers.judge, case_set, answer.cases, limits)
    for at, (sampled, true) in enumerate(zip(answer.cases, cases, strict=True)):
        # An output that the judge takes is right however it is written; a trace is one text.
        if is_true[at] and (true is None or not write.traced or true.trace == sampled.trace):
            continue
        if true is None or not _is_usable(problem, true):
            return None
        right = canonical(true, problem.form)
        right = right if not is_true[at] else dataclasses.replace(right, test=sampled.test)
        # The others stay as they were written, right or not: the pair ends before them.
        return (*answer.cases[:at], right, *answer.cases[at + 1 :]), answer.cases
    return None


async def _sampled(workers: Workers, case_set: CaseSet, write: WriteSettings, seed: int) -> Parsed:
    """What the generator answers to the set's prompt; nothing where that fills the engine's context."""
    problem, source = case_set.problem, case_set.source if case_set.shown else None
    own_seed = fold_seed(fold_seed(seed, case_set.id), problem.id, "write_cases")
    answers = await sample(workers.engine, request_for(workers.tokenizer, problem, source, write, own_seed))
    return parse_completion(answers[0], problem.form) if answers else Parsed((), ())


def _is_usable(problem: Problem, case: Case | None) -> bool:
    return case is not None and is_renderable(case, problem.form)


async def _true(judge: Judge, case_set: CaseSet, cases: Sequence[Case], limits: Limits) -> list[bool]:
    tests = [case.test for case in cases]
    return await true_cases(judge, case_set.problem, case_set.source, tests, limits)
