"""Training for a number of tokens: what policy_sft, tcg_sft, tcg_dpo and prm do once they have examples.

Makes no examples and chooses no objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from etils import epath

from o1jax.batches.encode import Example
from o1jax.batches.stream import Batches
from o1jax.parallel.mesh import make_mesh
from o1jax.train.checkpoint import Policy, save_policy
from o1jax.train.loop import FitSettings, Fitted, fit
from o1jax.train.objectives import Objective
from o1jax.train.optimizer import OptimizerSettings


class TokenBudget(Protocol):
    """What such a stage's settings have. `train_tokens`: tokens to train on, padding not counted, in as
    many epochs as that takes."""

    train_tokens: int
    row_length: int
    rows_per_batch: int
    learning_rate: float
    schedule: str
    warmup_steps: int
    weight_decay: float


def train_tokens(
    out: epath.Path,
    title: str,
    policy: Policy,
    objective: Objective,
    examples: Sequence[Example],
    settings: TokenBudget,
    seed: int,
) -> Fitted:
    """Trains the policy's parameters in out/fit, or resumes there, and saves them as out/policy."""
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
    )
    fitted = fit(
        out / "fit",
        policy.graphdef,
        policy.params,
        objective,
        batches,
        optimizer,
        FitSettings(steps),
        mesh=make_mesh(),
        title=title,
    )
    save_policy(out / "policy", policy.config, fitted.params, policy.tokenizer)
    return fitted


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
