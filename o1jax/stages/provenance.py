"""Provenance: which tree node, rollout or text each sample of a training stage was made from.

A training stage writes out/provenance.parquet when it makes its samples, and o1jax/lineage reads it. The
policy and the tests behind a node or a rollout are those of the stage that holds it, so a row names the input
and repeats neither. Makes no samples.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

from etils import epath

from o1jax.batches.encode import Example
from o1jax.parallel.processes import is_leader
from o1jax.prompts import chat
from o1jax.records import InputError
from o1jax.store import read_records, write_records

FILE = "provenance.parquet"
OWN = "."  # in place of an input's name: the stage's own directory
Role = Literal["answer", "chosen", "rejected"]


class Record(Protocol):
    """What every sample to train on has."""

    id: str
    problem_id: str


@dataclasses.dataclass(frozen=True)
class Source:
    """One answer of a sample. It is a node's path, a rollout, or, held by neither, a text."""

    role: Role  # "chosen" and "rejected" of a pair, else "answer"
    input: str  # the stage's input whose directory holds the answer; OWN: the stage itself
    node: int | None = None  # index of the last node, in the tree of the sample's problem
    rollout: str = ""  # id of the rollout
    text: str = ""  # the answer, where it is neither
    tokens: int = 0  # of the text
    record: str = ""  # what the text is, in words
    policy: str = ""  # input whose policy sampled the text; "": no policy did


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where one sample came from, and whether it was trained on."""

    id: str  # the sample's, unique in its stage
    problem_id: str
    kind: str  # "found path", "reference", "true cases", ...
    left_out: str  # why the stage did not train on it; "": it did
    facts: str  # JSON object: what else there is to say of one of its kind
    sources: tuple[Source, ...]


def row(
    record: Record,
    kind: str,
    sources: Sequence[Source],
    example: Example,
    row_length: int,
    facts: Mapping[str, Any] | None = None,
) -> Provenance:
    """The provenance of a record that was encoded as `example` and is left out if it does not fit a row."""
    left_out = f"longer than a row of {row_length} tokens" if len(example.token_ids) > row_length else ""
    return Provenance(record.id, record.problem_id, kind, left_out, json.dumps(facts or {}), tuple(sources))


def node_row(
    record: Record,
    kind: str,
    inputs: Iterable[str],
    example: Example,
    row_length: int,
    facts: Mapping[str, Any] | None = None,
) -> Provenance:
    """As `row`, of a record that was made from a tree of one of the `inputs` found_<k>."""
    return row(record, kind, node_sources(record.id, list(inputs)), example, row_length, facts)


def node_sources(id: str, inputs: Sequence[str]) -> tuple[Source, ...]:
    """Of a record that was made from a tree, by its id: `<k>/...#<node>`, or of a pair
    `<k>/...#<chosen>><rejected>`, where k is the index of the tree's stage among the `inputs` found_<k>."""
    nodes = id.rpartition("#")[2].split(">")  # from the right: a problem's id may hold these signs too
    roles: tuple[Role, ...] = ("answer",) if len(nodes) == 1 else ("chosen", "rejected")
    name = inputs[int(id.partition("/")[0])]
    return tuple(Source(role, name, node=int(node)) for role, node in zip(roles, nodes, strict=True))


def text_source(
    input: str,
    record: str,
    token_ids: tuple[int, ...],
    tokenizer: chat.Tokenizer,
    role: Role = "answer",
    policy: str = "",
) -> Source:
    """Of an answer that is in no tree and no rollout: its text is kept, so that nothing is needed later."""
    text = chat.decode(tokenizer, token_ids)
    return Source(role, input, text=text, tokens=len(token_ids), record=record, policy=policy)


def write(out: epath.Path, rows: Sequence[Provenance]) -> None:
    """Writes the rows of the stage in `out`; of several processes one does. A stage that goes on after a kill
    writes the same again."""
    if is_leader():
        write_records(out / FILE, Provenance, rows)


def read(out: epath.Path, stage: str) -> list[Provenance]:
    """The rows of the `stage` in `out`, in order. InputError if it has none."""
    if not (out / FILE).exists():
        raise InputError(
            f"{out}: no {FILE} there: {stage} trains on no samples, or has not made them yet, or an earlier "
            "o1jax ran it; if so, run it again in a new directory"
        )
    return read_records(out / FILE, Provenance)
