"""What update t works on: the problems it plays, and the answers of others that it replays beside its own.

All draws are pure functions of (seed, t) and of what passed in earlier updates, so that a run killed at any
instant draws the same again. Samples no answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from o1jax.batches.encode import Example, encode_sft, keep_short
from o1jax.parallel.seeds import fold_seed
from o1jax.policy.found import provenance_of, read_answers
from o1jax.prompts.chat import Tokenizer
from o1jax.records import Problem
from o1jax.rl.settings import Settings
from o1jax.stages import provenance

History = Mapping[str, Sequence[int]]  # problem id -> (samples, passes); a problem never played has no entry
# The weight of a problem that always passes, or never. p (1 - p) alone would be 0 for it, and the problem
# never drawn again, although the policy goes on changing.
LEAST = 0.05


def uniform(problems: Sequence[Problem], count: int, seed: int, t: int) -> list[Problem]:
    """The `count` problems of update t: epoch after epoch, each in an order of its own."""
    # The few problems at an epoch's end that do not fill an update are left out of that epoch: an update of
    # another size would have a gradient of another variance under the same learning rate.
    epoch, at = divmod(t, len(problems) // count)
    order = np.random.RandomState(fold_seed(seed, "problems", epoch)).permutation(len(problems))
    return [problems[i] for i in order[at * count : (at + 1) * count]]


def by_difficulty(
    problems: Sequence[Problem], count: int, seed: int, t: int, history: History
) -> list[Problem]:
    """`count` different problems for update t, drawn with weights p (1 - p) + LEAST, p = (passes + 1) /
    (samples + 2): most often those about which least is known to be sure."""
    samples_P, passes_P = np.array([history.get(problem.id, (0, 0)) for problem in problems]).T
    p_P = (passes_P + 1) / (samples_P + 2)  # the posterior mean from a uniform prior: 1/2 at first
    weights_P = p_P * (1 - p_P) + LEAST
    # The largest of log(weight) + Gumbel noise are a weighted draw without replacement (Gumbel top-k).
    gumbel_P = np.random.RandomState(fold_seed(seed, "problems", t)).gumbel(size=len(problems))
    order = np.argsort(-(np.log(weights_P) + gumbel_P), kind="stable")
    return [problems[i] for i in order[:count]]


def replay_buffer(
    out: epath.Path, settings: Settings, inputs: Mapping[str, epath.Path], tokenizer: Tokenizer, seed: int
) -> list[Example]:
    """All that may be replayed, and that fits into a row: passing paths of the inputs found_<k>, and answers
    of the input references. The same in every update of a run. Writes their provenance into `out`."""
    answers = read_answers(
        inputs,
        tokenizer,
        seed,
        max_per_problem=settings.replay.max_per_problem,
        variants=settings.replay.variants,
        style=settings.sample.style,
        prompts=settings.replay.prompts,
    )
    provenance.write(out, provenance_of(answers, inputs, tokenizer, settings.train.row_length))
    return keep_short([encode_sft(sample) for sample in answers.all()], settings.train.row_length)[0]


def replay(buffer: Sequence[Example], count: int, seed: int, t: int) -> list[Example]:
    """The `count` examples that update t replays, all different (if there are so many)."""
    # Without them nothing holds a policy in place: the gradient of its own answers is noise where they are
    # alike, and an optimizer that divides by the gradient's size makes full steps of noise.
    order = np.random.RandomState(fold_seed(seed, "replay", t)).permutation(len(buffer))
    return [buffer[i] for i in order[:count]]
