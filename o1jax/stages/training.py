"""Training for a number of tokens: what SFT, DPO and PRM stages do once they have examples.

Makes no examples or pairs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from etils import epath

from o1jax.batches.encode import Example, encode_pair, keep_short
from o1jax.batches.stream import Batches
from o1jax.model.lora import LoraSettings
from o1jax.parallel.mesh import make_mesh
from o1jax.records import InputError, PreferencePair
from o1jax.stages.adapters import save_trained
from o1jax.train.checkpoint import Policy
from o1jax.train.loop import FitSettings, Fitted, fit
from o1jax.train.objectives import Objective, dpo
from o1jax.train.optimizer import AdamW, OptimizerSettings
from o1jax.train.reference import with_reference


class TokenBudget(Protocol):
    """What such a stage's settings have. `train_tokens`: tokens to train on, padding not counted, in as
    many epochs as that takes. `micro_batches`: the parts of a batch whose gradients are added up. `lora`:
    the adapters that the policy was given to train (adapters.py)."""

    train_tokens: int
    row_length: int
    rows_per_batch: int
    micro_batches: int
    learning_rate: float
    schedule: str
    warmup_steps: int
    weight_decay: float
    adamw: AdamW
    lora: LoraSettings


def train_tokens(
    out: epath.Path,
    title: str,
    policy: Policy,
    objective: Objective,
    examples: Sequence[Example],
    settings: TokenBudget,
    seed: int,
) -> Fitted:
    """Trains the policy's parameters in out/fit, or resumes there, and saves them as out/policy. The result's
    are those of the plain policy, adapters merged."""
    batches = Batches(
        examples, row_length=settings.row_length, rows_per_batch=settings.rows_per_batch, seed=seed
    )
    steps = steps_for(batches, settings.train_tokens)
    optimizer = OptimizerSettings(
        learning_rate=settings.learning_rate,
        total_steps=steps,
        schedule=settings.schedule,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        **dataclasses.asdict(settings.adamw),
    )
    fitted = fit(
        out / "fit",
        policy.graphdef,
        policy.params,
        objective,
        batches,
        optimizer,
        FitSettings(steps, micro_batches=settings.micro_batches),
        mesh=make_mesh(),
        title=title,
        frozen=policy.frozen,
    )
    plain = save_trained(out, policy, fitted.params, settings.lora)
    return dataclasses.replace(fitted, params=plain.params)


class PreferenceBudget(TokenBudget, Protocol):
    """Such a stage's settings for DPO; `train_tokens` counts both sides of a pair."""

    beta: float
    nll_weight: float


def train_preferences(
    out: epath.Path,
    title: str,
    policy: Policy,
    pairs: Sequence[PreferencePair],
    settings: PreferenceBudget,
    seed: int,
) -> tuple[Fitted, int]:
    """DPO of the policy, which is the reference too, as train_tokens; and how many pairs were left out for
    being longer than a row. InputError if that is all of them. New adapters add nothing, so that with them
    the policy is its base, frozen or not."""
    examples, long = keep_short([encode_pair(pair) for pair in pairs], settings.row_length)
    if not examples:
        raise InputError(
            f"{out}: nothing to train on: {long} pairs were longer than row_length {settings.row_length}; "
            "raise it: both sides of a pair share a row"
        )
    shape = {"row_length": settings.row_length, "rows_per_batch": settings.rows_per_batch}
    examples = with_reference(examples, policy.graphdef, policy.all_params, mesh=make_mesh(), **shape)
    objective = dpo(settings.beta, settings.nll_weight)
    return train_tokens(out, title, policy, objective, examples, settings, seed), long


def steps_for(batches: Batches, tokens: int) -> int:
    """The fewest steps that train on at least `tokens`."""
    steps = spent = 0
    while spent < tokens:
        spent += batches.tokens_at(steps)
        steps += 1
    return steps


def tokens_per_second(fitted: Fitted) -> dict[str, float]:
    """The stage's timing."""
    return {"tokens_per_second": round(fitted.progress.tokens / fitted.seconds)}
