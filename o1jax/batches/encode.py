"""Records -> Example: the token ids and loss weights of one training sequence.

Does not tokenize (the records hold token ids) and does not pack.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from o1jax.records import InputError, SftSample


@dataclasses.dataclass(frozen=True)
class Example:
    """One sequence. weights[t] is the loss weight of predicting token_ids[t]; 0 on the prompt."""

    id: str
    token_ids: tuple[int, ...]
    weights: tuple[float, ...]


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
