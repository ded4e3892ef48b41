"""The samples that a test-case generator's stage trained on, derived as lineage_samples.py does.

Runs reference programs in the sandbox, as the stages did, and samples once more what tcg_dpo rejected if the
generator itself had written it. Trains nothing.
"""

from __future__ import annotations

import dataclasses

from etils import epath

from o1jax.batches.encode import encode_pair, encode_sft
from o1jax.lineage.paths import Archive, Path, Role
from o1jax.lineage.samples import (
    Sample,
    Wanted,
    check_count,
    numbers_in,
    read_inputs,
    settings_of,
    text_path,
    tokenizer_of,
    too_long,
)
from o1jax.lineage.stages import Stage
from o1jax.prompts.chat import Tokenizer
from o1jax.stages.problems import read_problems
from o1jax.stages.training import open_policy
from o1jax.store import read_records
from o1jax.tcg import adversarial, cases, dpo, sft
from o1jax.tcg.adversarial import JudgedAnswer
from o1jax.tcg.cases import CaseSet, CaseSettings


def of_tcg_sft(archive: Archive, stage: Stage, wanted: Wanted) -> list[Sample]:
    """Sets of true cases."""
    settings, tokenizer = settings_of(stage), tokenizer_of(stage)
    samples = []
    for case_set in _case_sets(stage, settings.cases, wanted):
        record = sft.sample_of(case_set, tokenizer, settings.cases)
        left_out = too_long(encode_sft(record), settings.train.row_length)
        path = text_path(str(stage.read("problems")), "cases of its tests", record.answer_ids, tokenizer)
        samples.append(_of_cases(case_set, "true cases", left_out, path))
    return samples


def of_tcg_dpo(archive: Archive, stage: Stage, wanted: Wanted) -> list[Sample]:
    """True cases against false ones."""
    settings, policy = settings_of(stage), open_policy(stage.read("tcg"))
    sets = {case_set.id: case_set for case_set in _case_sets(stage, settings.cases, wanted)}
    place, samples = str(stage.read("problems")), []
    for pair in dpo.pairs_of(list(sets.values()), settings, policy, stage.seed):
        left_out = too_long(encode_pair(pair), settings.train.row_length)
        chosen = text_path(place, "true cases", pair.chosen_ids, policy.tokenizer, "chosen")
        rejected = text_path(
            place, f"{settings.rejected} ones", pair.rejected_ids, policy.tokenizer, "rejected"
        )
        if settings.rejected == "sampled":
            rejected = dataclasses.replace(rejected, policy=stage.given("tcg"))
        samples.append(_of_cases(sets[pair.id], "true and false cases", left_out, chosen, rejected))
    return samples


def of_tcg_adversarial(archive: Archive, stage: Stage, wanted: Wanted) -> list[Sample]:
    """Answers of the generator, by the wrong programs that they kill."""
    settings, tokenizer = settings_of(stage), tokenizer_of(stage)
    answers = read_records(epath.Path(stage.place) / "answers.parquet", JudgedAnswer)
    pairs = adversarial.pairs_of(answers, settings.margin, settings.max_pairs, stage.seed)
    check_count(stage, len(pairs), "pairs")
    inputs = read_inputs(stage, "found_", "problems", "policy")
    problems = read_problems(inputs["problems"])
    wrong, _ = adversarial.wrong_of(inputs, problems, settings, stage.seed)
    by_number = {(answer.problem_id, answer.number): answer for answer in answers}
    return [
        Sample(
            pair.id,
            pair.problem_id,
            "cases by what they kill",
            too_long(encode_pair(pair), settings.train.row_length),
            {f"wrong_program_{r}": source for r, source in enumerate(wrong[pair.problem_id])},
            tuple(
                _of_answer(stage, by_number[pair.problem_id, number], tokenizer, role)
                for number, role in zip(numbers_in(pair.id), ("chosen", "rejected"), strict=True)
            ),
        )
        for pair in pairs
        if wanted.has(pair.id, pair.problem_id)
    ]


def _case_sets(stage: Stage, settings: CaseSettings, wanted: Wanted) -> tuple[CaseSet, ...]:
    """The wanted sets: those of a problem need no other problem."""
    problems = [
        problem
        for problem in read_problems(stage.read("problems"))
        if problem.id == wanted.problem or wanted.sample.startswith(f"{problem.id}#")
    ]
    made = cases.make_sets(problems, settings, stage.seed)
    return tuple(found for found in made.sets if wanted.has(found.id, found.problem.id))


def _of_cases(case_set: CaseSet, kind: str, left_out: str, *paths: Path) -> Sample:
    facts = {"program": case_set.source, "program_shown": case_set.shown}
    return Sample(case_set.id, case_set.problem.id, kind, left_out, facts, paths)


def _of_answer(stage: Stage, answer: JudgedAnswer, tokenizer: Tokenizer, role: Role) -> Path:
    killed = ", ".join(map(str, answer.killed)) or "none"
    record = f"answer {answer.number}, reward {answer.reward:.3f}, which kills wrong programs {killed},"
    path = text_path(stage.place, record, answer.token_ids, tokenizer, role)
    return dataclasses.replace(path, policy=stage.given("tcg"))
