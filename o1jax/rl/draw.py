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
from o1jax.policy import found
from o1jax.policy import found as references
from o1jax.prompts.chat import Tokenizer
from o1jax.records import Problem, SftSample
from o1jax.rl.settings import Settings
from o1jax.stages.problems import read_problems


def replayed(
    settings: Settings, inputs: Mapping[str, epath.Path], tokenizer: Tokenizer, seed: int
) -> list[Example]:
    """All that may be drawn, and that fits into a row."""
    samples = [sample for kind in samples_of(settings, inputs, tokenizer, seed) for sample in kind]
    return keep_short([encode_sft(sample) for sample in samples], settings.train.row_length)[0]


def samples_of(
    settings: Settings, inputs: Mapping[str, epath.Path], tokenizer: Tokenizer, seed: int
) -> tuple[list[SftSample], list[SftSample]]:
    """The answers that were found, and those of the references."""
    replay, places = settings.replay, found.places_of(inputs)
    passing = found.passing_paths(places, tokenizer, replay.max_per_problem, seed)
    problems = read_problems(inputs["references"]) if "references" in inputs else []
    return passing, references.samples(problems, tokenizer, replay.variants, settings.sample.style)


def draw(examples: Sequence[Example], count: int, seed: int, t: int) -> list[Example]:
    """The `count` examples of update t, all different (if there are so many)."""
    order = np.random.RandomState(fold_seed(seed, "replay", t)).permutation(len(examples))
    return [examples[i] for i in order[:count]]


# Which problems an update plays: pure functions of the seed, the update's number and what passed so far.

History = Mapping[str, Sequence[int]]  # problem id -> (samples, passes); a problem never played has no entry
LEAST = 0.05  # the weight of a problem that always passes, or never


def uniform(problems: Sequence[Problem], count: int, seed: int, t: int) -> list[Problem]:
    """The `count` problems of update t: epoch after epoch, each in an order of its own, without the few at
    its end that do not fill an update."""
    epoch, at = divmod(t, len(problems) // count)
    order = np.random.RandomState(fold_seed(seed, "problems", epoch)).permutation(len(problems))
    return [problems[i] for i in order[at * count : (at + 1) * count]]


def by_difficulty(
    problems: Sequence[Problem], count: int, seed: int, t: int, history: History
) -> list[Problem]:
    """`count` different problems, drawn with weights p (1 - p) + LEAST, p = (passes + 1) / (samples + 2):
    most often those about which least is known to be sure (Gumbel top-k)."""
    weights_P = np.array([_weight(*history.get(problem.id, (0, 0))) for problem in problems])
    gumbel_P = np.random.RandomState(fold_seed(seed, "problems", t)).gumbel(size=len(problems))
    order = np.argsort(-(np.log(weights_P) + gumbel_P), kind="stable")
    return [problems[i] for i in order[:count]]


def _weight(samples: int, passes: int) -> float:
    p = (passes + 1) / (samples + 2)
    return p * (1 - p) + LEAST
