"""Records -> Example: the token ids and loss weights of one training sequence, or of a few kept together.

Does not tokenize (the records hold token ids) and does not pack.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from o1jax.records import InputError, SftSample


@dataclasses.dataclass(frozen=True)
class Example:
    """One sequence, or the `parts` of one (their lengths; both sides of a pair, say), which share a row.

    weights[t] is the loss weight of predicting token_ids[t]; 0 on the prompt. `columns` hold further
    values a token, float32, by name; columns[name][t] belongs to position t, where token t is read
    and t + 1 predicted.
    """

    id: str
    token_ids: tuple[int, ...]
    weights: tuple[float, ...]
    columns: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    parts: tuple[int, ...] = ()  # none: all of it is one


def encode_sft(sample: SftSample) -> Example:
    """The prompt with weight 0, then the answer: the sample's weight on its trained tokens, else 0."""
    if len(sample.is_trained) != len(sample.answer_ids):
        raise InputError(
            f"sample {sample.id!r}: {len(sample.is_trained)} is_trained flags for "
            f"{len(sample.answer_ids)} answer tokens; there must be one a token"
        )
    if not sample.prompt_ids or not any(sample.is_trained):
        raise InputError(f"sample {sample.id!r}: needs a prompt and at least one trained answer token")
    answer_weights = tuple(sample.weight * trained for trained in sample.is_trained)
    return Example(
        id=sample.id,
        token_ids=(*sample.prompt_ids, *sample.answer_ids),
        weights=(0.0,) * len(sample.prompt_ids) + answer_weights,
    )


def keep_short(examples: Sequence[Example], row_length: int) -> tuple[list[Example], int]:
    """The examples that fit into a row, and how many were dropped: the explicit choice against raising."""
    kept = [example for example in examples if len(example.token_ids) <= row_length]
    return kept, len(examples) - len(kept)
