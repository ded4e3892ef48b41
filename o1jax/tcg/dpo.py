"""Step 1, second half: DPO of a test-case generator on true cases against false ones (O1-CODER, 3.1).

Inputs: tcg (of tcg_sft; also the reference model, whose log-probs are computed once), problems
(check_problems, as tcg_sft's). A pair is three true cases, and three false ones under the same prompt:
  shuffled   the true outputs in another order, none in its place (the paper's; traces stay where they are);
  near_miss  the outputs, and traces, of one mutant of the program;
  sampled    an answer of the generator itself, and, as chosen, the true cases of its inputs.
Departures: a shuffle is a derangement, and a pair is kept only if what is rejected is false on the reference
program, which the paper takes for granted: all three cases of a shuffle, at least one of the others.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Literal

from etils import epath

from o1jax.batches.encode import encode_pair
from o1jax.concurrency import run_in_order
from o1jax.parallel.processes import this_process
from o1jax.parallel.seeds import fold_seed
from o1jax.prompts.chat import Tokenizer
from o1jax.records import InputError, PreferencePair, Problem
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Judge, Limits, unless_lost
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
from o1jax.tcg.prompt import CASES, Case, canonical, is_renderable
from o1jax.tcg.traces import traced_cases
from o1jax.tcg.writing import WriteSettings, parse_completion, request_for, sample
from o1jax.train.checkpoint import Policy
from o1jax.train.metrics import ProgressLine

Rejected = Literal["shuffled", "near_miss", "sampled"]
Cases = tuple[Case, ...]
CONCURRENCY = 64  # sets at once
MUTANTS = 6  # tried, in random order, until one gives a near miss


@dataclasses.dataclass(frozen=True)
class Settings(training.PreferenceSettings):
    """What false cases the true ones are compared with, and how DPO trains on them."""

    rejected: Rejected = "shuffled"  # how false cases are made; "shuffled" is the paper's
    cases: CaseSettings = CaseSettings()
    # how false cases are sampled, for "sampled" alone
    write: WriteSettings = WriteSettings(answers=1, temperature=1.0, top_p=1.0, top_k=0)
    engine: EngineSettings = EngineSettings()


def run(out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], seed: int) -> StageResult:
    """figures: problems, sets, pairs (sets whose rejected cases are really false), dropped_long, steps,
    trained_tokens."""
    policy = training.open_policy(inputs["tcg"])
    training.check_model("tcg_dpo", settings.train.model, policy)
    if settings.rejected == "sampled" and this_process().count > 1:
        # Its weights lie over all processes' devices, and an engine is one process's.
        raise InputError(
            f"tcg_dpo.rejected: saw 'sampled' with {this_process().count} processes, wanted one: they are "
            "sampled by the policy that is trained"
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
    policy = training.with_adapters(policy, settings.train.lora, seed)
    fitted, long = training.train_preferences(out, "tcg_dpo", policy, pairs, settings, seed)
    figures = {"problems": made.problems, "sets": len(made.sets), "pairs": len(pairs)}
    return training.result(fitted, figures, long)


def pairs_of(sets: Sequence[CaseSet], settings: Settings, policy: Policy, seed: int) -> list[PreferencePair]:
    """The sets that have a false counterpart, each with one; "sampled" ones are the policy's."""
    tokenizer, cases, pairs = policy.tokenizer, settings.cases, []
    for case_set, both in zip(sets, asyncio.run(_counterparts(sets, settings, policy, seed)), strict=True):
        if both is not None:
            chosen, rejected = (tcg_cases.answer_ids(side, tokenizer, cases) for side in both)
            asked = tcg_cases.prompt_ids(case_set, tokenizer, cases)
            pairs.append(PreferencePair(case_set.id, case_set.problem.id, asked, chosen, rejected))
    return pairs


def _provenance(
    pairs: Sequence[PreferencePair], sets: Sequence[CaseSet], settings: Settings, tokenizer: Tokenizer
) -> list[Provenance]:
    of_id, rows = {case_set.id: case_set for case_set in sets}, []
    false, sampled_by = f"{settings.rejected} ones", "tcg" if settings.rejected == "sampled" else ""
    for pair in pairs:
        sources = [
            text_source("problems", "true cases", pair.chosen_ids, tokenizer, "chosen"),
            text_source("problems", false, pair.rejected_ids, tokenizer, "rejected", sampled_by),
        ]
        facts = {"program": of_id[pair.id].source, "program_shown": of_id[pair.id].shown}
        length = settings.train.row_length
        rows.append(provenance.row(pair, "true and false cases", sources, encode_pair(pair), length, facts))
    return rows


async def _counterparts(
    sets: Sequence[CaseSet], settings: Settings, policy: Policy, seed: int
) -> list[tuple[Cases, Cases] | None]:
    """(chosen, rejected) of each set, or None."""
    limits = settings.cases.limits
    if settings.rejected != "sampled":
        async with ForkJudge(slots=settings.cases.judge_slots) as judge:
            return await chosen_and_rejected(judge, sets, settings.rejected, limits, seed)
    # One answer a set, in the form that the sets are learned in, whatever `write` says.
    write = dataclasses.replace(
        settings.write, answers=1, traced=settings.cases.traced, style=settings.cases.style
    )
    async with open_workers(policy, settings.engine) as workers:
        return await run_in_order(
            lambda case_set: unless_lost(chosen_and_sampled(workers, case_set, write, limits, seed), None),
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
    problem, source = case_set.problem, case_set.source if case_set.shown else None
    own_seed = fold_seed(fold_seed(seed, case_set.id), problem.id, "write_cases")
    answers = await sample(workers.engine, request_for(workers.tokenizer, problem, source, write, own_seed))
    sampled = parse_completion(answers[0], problem.form).cases if answers else ()
    if len(distinct([case.test for case in sampled], problem.form)) < CASES:
        return None
    # Chosen are the same inputs with the outputs put right, so that truth alone sets the two apart.
    inputs = [case.test.input for case in sampled]
    true = await traced_cases(workers.judge, problem, case_set.source, inputs, limits)
    useful = [case for case in true if _is_usable(problem, case) and not is_degenerate(problem, case.test)]
    if len(useful) < len(true) or all(await _true(workers.judge, case_set, sampled, limits)):
        return None
    return tuple(canonical(case, problem.form) for case in useful), sampled


def _is_usable(problem: Problem, case: Case | None) -> bool:
    return case is not None and is_renderable(case, problem.form)


async def _true(judge: Judge, case_set: CaseSet, cases: Sequence[Case], limits: Limits) -> list[bool]:
    tests = [case.test for case in cases]
    return await true_cases(judge, case_set.problem, case_set.source, tests, limits)
