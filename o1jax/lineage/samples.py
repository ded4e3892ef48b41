"""The samples that a stage trained on, derived once more from its spec and inputs by its own functions: those
of SFT, DPO and process reward models.

Those of policy gradient are in lineage_rl.py, of a generator in lineage_tcg.py. Samples and trains nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from o1jax.batches.encode import Example, encode_pair, encode_sft, keep_short
from o1jax.lineage.paths import Archive, Path, PathStep, Role, of_node, of_rollout
from o1jax.lineage.stages import Stage
from o1jax.policy import dpo, sft, warm_up
from o1jax.policy.found import places_of, trees_of
from o1jax.prm import prm
from o1jax.prompts import chat
from o1jax.prompts.chat import Tokenizer
from o1jax.records import InputError, PreferencePair, SftSample, StepLabel, StepPair
from o1jax.stages.problems import read_problems
from o1jax.stages.run import module_of
from o1jax.stages.settings import parse
from o1jax.stages.training import open_tokenizer


@dataclasses.dataclass(frozen=True)
class Sample:
    """A sample of a stage and its answers (two of a pair). `left_out`: why the stage did not train on it
    after all, or empty. `facts`: what else there is to say of one of its kind."""

    id: str
    problem_id: str
    kind: str
    left_out: str
    facts: Mapping[str, Any]
    paths: tuple[Path, ...]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The samples that are asked for: one by its id, or all of a problem."""

    sample: str
    problem: str

    def has(self, id: str, problem_id: str) -> bool:
        return id == self.sample or problem_id == self.problem


def settings_of(stage: Stage) -> Any:
    """The stage's settings, as it had them."""
    return parse(module_of(stage.stage).Settings, stage.config, stage.stage)


def tokenizer_of(stage: Stage) -> Tokenizer:
    """The tokenizer of what a stage trains; InputError if a stage that starts from nothing has not ended."""
    if stage.is_complete:
        return open_tokenizer(epath.Path(stage.place))
    starts = ("prm", "policy") if stage.stage == "prm" else ("tcg", "policy")
    start = next((name for name in starts if stage.given(name)), None)
    if start is None:
        raise InputError(
            f"{stage.place}: {stage.stage} is not complete, so it has no tokenizer yet; finish it"
        )
    return open_tokenizer(stage.read(start))


def of_policy_sft(archive: Archive, stage: Stage, wanted: Wanted) -> list[Sample]:
    """Found paths, and references."""
    settings, tokenizer = settings_of(stage), tokenizer_of(stage)
    inputs = read_inputs(stage, "found_", "references", "pool_references")
    found, references = sft.samples_of(settings, inputs, tokenizer, stage.seed)
    check_count(stage, len(found) + len(references), "found", "references")
    return of_answers(archive, stage, found, references, tokenizer, settings.train.row_length, wanted)


def of_answers(
    archive: Archive,
    stage: Stage,
    found: Sequence[SftSample],
    references: Sequence[SftSample],
    tokenizer: Tokenizer,
    row_length: int,
    wanted: Wanted,
) -> list[Sample]:
    """Of found paths, and of references."""
    samples = []
    for record in found:
        if wanted.has(record.id, record.problem_id):
            paths = _found_paths(archive, stage, record, tokenizer)
            left_out = too_long(encode_sft(record), row_length)
            samples.append(Sample(record.id, record.problem_id, "found path", left_out, {}, paths))
    return samples + _of_references(archive, stage, references, tokenizer, row_length, wanted)


def of_warm_up(archive: Archive, stage: Stage, wanted: Wanted) -> list[Sample]:
    """References."""
    settings, tokenizer = settings_of(stage), tokenizer_of(stage)
    records = warm_up.samples_of(read_problems(stage.read("references")), tokenizer, settings)
    return _of_references(archive, stage, records, tokenizer, settings.train.row_length, wanted)


def of_policy_dpo(archive: Archive, stage: Stage, wanted: Wanted) -> list[Sample]:
    """Pairs of siblings, or of whole answers."""
    settings, eos_id = settings_of(stage), tokenizer_of(stage).eos_token_id
    rounds = [trees_of(place) for place in places_of(read_inputs(stage, "found_"))]
    by_kind = dpo.pairs_by_kind(rounds, settings, eos_id, stage.seed)
    check_count(stage, sum(map(len, by_kind.values())), "pairs")
    return [
        Sample(
            pair.id,
            pair.problem_id,
            f"preference of {kind}",
            too_long(encode_pair(pair), settings.train.row_length),
            {"margin": pair.margin},
            _node_paths(archive, stage, pair),
        )
        for kind, pairs in by_kind.items()
        for pair in pairs
        if wanted.has(pair.id, pair.problem_id)
    ]


def of_prm(archive: Archive, stage: Stage, wanted: Wanted) -> list[Sample]:
    """Labelled paths, or pairs of siblings."""
    settings, eos_id = settings_of(stage), tokenizer_of(stage).eos_token_id
    rounds = [trees_of(place) for place in places_of(read_inputs(stage, "found_"))]
    records = prm.samples_of(rounds, settings, eos_id, stage.seed)
    check_count(stage, len(records), "examples", "dropped_long")
    return [
        Sample(
            record.id,
            record.problem_id,
            f"steps with {settings.objective} labels",
            too_long(prm.encode(record, settings), settings.train.row_length),
            {},
            _node_paths(archive, stage, record),
        )
        for record in records
        if wanted.has(record.id, record.problem_id)
    ]


def read_inputs(stage: Stage, *prefixes: str) -> dict[str, epath.Path]:
    """The inputs whose names begin so; InputError if one is not there any more."""
    return {given.name: stage.read(given.name) for given in stage.inputs if given.name.startswith(prefixes)}


def check_count(stage: Stage, seen: int, *figures: str) -> None:
    """InputError unless a complete stage had as many samples: its inputs' files are not under any hash."""
    counted = sum(stage.figures[name] for name in figures) if stage.is_complete else seen
    if seen != counted:
        raise InputError(
            f"{stage.place}: had {counted} samples, and its inputs give {seen} now: files in them have "
            "changed, so what it trained on is not known"
        )


def too_long(example: Example, row_length: int) -> str:
    """Why a stage with such rows leaves an example out, or empty."""
    return "" if keep_short([example], row_length)[0] else f"longer than a row of {row_length} tokens"


def _found_place(stage: Stage, id: str) -> str:
    """The input found_<k> by whose number an id begins."""
    return str(places_of(read_inputs(stage, "found_"))[int(id.split("/")[0])])


def numbers_in(id: str) -> list[int]:
    """The number, or the two of a pair, by which an id ends."""
    return [int(number) for number in id.rpartition("#")[2].split(">")]


def _node_paths(
    archive: Archive, stage: Stage, record: SftSample | PreferencePair | StepLabel | StepPair
) -> tuple[Path, ...]:
    """The path to the node, or the two of a pair, by whose indices the id ends."""
    place, indices = _found_place(stage, record.id), numbers_in(record.id)
    roles = ("answer",) if len(indices) == 1 else ("chosen", "rejected")
    return tuple(
        of_node(archive, place, record.problem_id, index, role)
        for index, role in zip(indices, roles, strict=True)
    )


def _found_paths(archive: Archive, stage: Stage, sample: SftSample, tokenizer: Tokenizer) -> tuple[Path, ...]:
    place = _found_place(stage, sample.id)
    if (epath.Path(place) / "trees").exists():
        return _node_paths(archive, stage, sample)
    rollout, sampled = archive.rollout(place, sample.id.partition("/")[2]), settings_of(archive.stages[place])
    return (of_rollout(archive, place, rollout, tokenizer, sampled.sample),)


def _of_references(
    archive: Archive,
    stage: Stage,
    records: Sequence[SftSample],
    tokenizer: Tokenizer,
    row_length: int,
    wanted: Wanted,
) -> list[Sample]:
    places = [str(place) for place in read_inputs(stage, "references", "pool_references").values()]
    samples = []
    for record in records:
        if wanted.has(record.id, record.problem_id):
            place = next(at for at in places if record.problem_id in archive.problems(at))
            name = record.id.removeprefix(f"{record.problem_id}/")
            path = text_path(place, name, record.answer_ids, tokenizer)
            left_out = too_long(encode_sft(record), row_length)
            samples.append(Sample(record.id, record.problem_id, "reference", left_out, {}, (path,)))
    return samples


def text_path(
    place: str, record: str, token_ids: tuple[int, ...], tokenizer: Tokenizer, role: Role = "answer"
) -> Path:
    """An answer that was not sampled from the policy, or is in no tree."""
    step = PathStep(chat.decode(tokenizer, token_ids), len(token_ids))
    return Path(role=role, place=place, record=record, steps=(step,))
