"""The process reward model that a stage scores steps with, from its optional input `prm`.

Does not train one (prm.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping

from etils import epath

from o1jax.parallel.mesh import own_devices
from o1jax.prompts.chat import Tokenizer
from o1jax.records import InputError
from o1jax.rewards.process import StepScorer, score_ids
from o1jax.stages.policies import open_policy
from o1jax.train.checkpoint import Policy


@contextlib.asynccontextmanager
async def open_scorer(
    inputs: Mapping[str, epath.Path], tokenizer: Tokenizer, *, slots: int, context: int
) -> AsyncIterator[StepScorer | None]:
    """The scorer of inputs["prm"], or None without that input; closes it.

    InputError where it reads other tokens than the policy, whose `tokenizer` this is.
    """
    if "prm" not in inputs:
        yield None
        return
    prm = open_policy(inputs["prm"], own_devices())
    if prm.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise InputError(
            f"{inputs['prm']}: this process reward model has another tokenizer than the policy; "
            "give one that was trained from this policy or one with its tokenizer"
        )
    scorer = scorer_of(prm, slots=slots, context=context)
    try:
        yield scorer
    finally:
        await scorer.close()


def scorer_of(prm: Policy, *, slots: int, context: int) -> StepScorer:
    """A scorer of paths of at most `context` tokens, or of what the model takes."""
    return StepScorer(
        prm.config,
        prm.graphdef,
        prm.params,
        *score_ids(prm.tokenizer),
        slots=slots,
        context=min(context, prm.config.max_context),
    )


def scorer_timings(scorer: StepScorer | None) -> dict[str, float]:
    """The scorer's counters, named as such."""
    stats = scorer.stats() if scorer is not None else {}
    return {f"scorer_{name}": round(value, 4) for name, value in stats.items()}
