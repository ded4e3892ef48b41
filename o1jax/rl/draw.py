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
from o1jax.records import InputError, Problem
from o1jax.rl.settings import Settings
from o1jax.search import posterior
from o1jax.stages import provenance

History = Mapping[str, Sequence[float]]  # problem id -> (samples, passes); see posterior.Counts
POWER = 3  # of P(mixed) in a problem's weight
# The least weight of a problem. Of one that always passes, or never, P(mixed) ** POWER is nearly 0, and it
# would not be drawn again, although the policy goes on changing.
LEAST = 0.01


def uniform(problems: Sequence[Problem], count: int, seed: int, t: int) -> list[Problem]:
    """The `count` problems of update t: epoch after epoch, each in an order of its own."""
    # The few problems at an epoch's end that do not fill an update are left out of that epoch: an update of
    # another size would have a gradient of another variance under the same learning rate.
    epoch, at = divmod(t, len(problems) // count)
    order = np.random.RandomState(fold_seed(seed, "problems", epoch)).permutation(len(problems))
    return [problems[i] for i in order[at * count : (at + 1) * count]]


def by_difficulty(
    problems: Sequence[Problem],
    count: int,
    seed: int,
    t: int,
    history: History,
    *,
    found: History | None = None,
    group: int = 8,
) -> list[Problem]:
    """`count` different problems for update t, drawn with weights P(mixed) ** POWER, at least LEAST: most
    often those of whose `group` answers some are likely to pass and some to fail, by the posterior of what
    was seen in earlier updates (`history`) and `found` before the run."""
    known = posterior.beliefs(problems, posterior.added(found or {}, history), group)
    weights_P = [max(belief.p_mixed**POWER, LEAST) for belief in known]
    return [problems[i] for i in posterior.draw(weights_P, count, fold_seed(seed, "problems", t))]


def found_counts(settings: Settings, inputs: Mapping[str, epath.Path]) -> History:
    """What stages of search and sampling found before the run (inputs found_<k>, and scout, the newest), for
    draws by difficulty. InputError for a scout that nothing is drawn by."""
    if settings.draw == "by_difficulty":
        return posterior.read_counts(posterior.found_before(inputs), posterior.DrawSettings().forget)
    if "scout" in inputs:
        raise InputError(
            f"policy_rl.draw: saw {settings.draw!r} with an input scout, wanted 'by_difficulty', which draws "
            "by what the scout found, or no scout"
        )
    return {}


def of_update(
    problems: Sequence[Problem], settings: Settings, seed: int, t: int, history: History, found: History
) -> list[Problem]:
    """The problems of update t, as the settings draw them; `found`: see found_counts."""
    count = settings.problems_per_update
    if settings.draw == "uniform":
        return uniform(problems, count, seed, t)
    return by_difficulty(problems, count, seed, t, history, found=found, group=settings.sample.n)


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
