"""What an update of policy_rl trains on beside the policy's own answers: found paths and references.

Without it nothing holds a policy in place: the gradient of its own answers is noise where they are alike, and
an optimizer that divides by the gradient's size makes steps of noise. Samples nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from o1jax.batches.encode import Example, encode_sft, keep_short
from o1jax.parallel.seeds import fold_seed
from o1jax.prompts.chat import Tokenizer
from o1jax.records import SftSample
from o1jax.stages import check_problems, found, references
from o1jax.stages.rl_settings import Settings


def replayed(
    settings: Settings, inputs: Mapping[str, epath.Path], tokenizer: Tokenizer, seed: int
) -> list[Example]:
    """All that may be drawn, and that fits into a row."""
    samples = [sample for kind in samples_of(settings, inputs, tokenizer, seed) for sample in kind]
    return keep_short([encode_sft(sample) for sample in samples], settings.row_length)[0]


def samples_of(
    settings: Settings, inputs: Mapping[str, epath.Path], tokenizer: Tokenizer, seed: int
) -> tuple[list[SftSample], list[SftSample]]:
    """The answers that were found, and those of the references."""
    replay, places = settings.replay, found.places_of(inputs)
    passing = found.passing_paths(places, tokenizer, replay.max_per_problem, seed)
    problems = check_problems.read(inputs["references"]) if "references" in inputs else []
    return passing, references.samples(problems, tokenizer, replay.variants, settings.sample.style)


def draw(examples: Sequence[Example], count: int, seed: int, t: int) -> list[Example]:
    """The `count` examples of update t, all different (if there are so many)."""
    order = np.random.RandomState(fold_seed(seed, "replay", t)).permutation(len(examples))
    return [examples[i] for i in order[:count]]
