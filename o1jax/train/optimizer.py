"""AdamW with clipping, a schedule and a decay mask, from one frozen record of settings.

Does not apply updates, nor choose where in the schedule a run stands; that is step.py.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import jax
import optax
from flax import nnx
from pydantic import Field, NonNegativeFloat, PositiveFloat

Schedule = Literal["constant", "linear", "cosine"]
Dtype = Literal["", "float32", "bfloat16"]  # "": the parameters' own


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW:
    """What is rarely changed."""

    clip_norm: NonNegativeFloat = 1.0  # of the whole gradient; 0 does not clip
    b1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    # The usual b2 for language models; Adam's .999 is slow to forget the first steps.
    b2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    eps: PositiveFloat = 1e-8
    final_share: Annotated[float, Field(ge=0, le=1)] = 0.1  # of the peak learning rate, where a schedule ends
    moment_dtype: Dtype = ""  # of the first moment; the second's changes are too small for bfloat16
    gradient_dtype: Dtype = ""  # in which gradients are made and added up


@dataclasses.dataclass(frozen=True)
class OptimizerSettings(AdamW):
    """AdamW and its learning rate."""

    learning_rate: float  # the peak
    total_steps: int  # where the schedule has come down to `final_share` of it
    schedule: Schedule = "cosine"
    warmup_steps: int = 0  # linear, from 1 / warmup_steps of the peak
    weight_decay: float = 0.0  # of matrices, decoupled (decay_mask)


def make_schedule(settings: OptimizerSettings) -> optax.Schedule:
    """The learning rate as a function of the step, counted from 0, or of a point between two steps."""
    peak, final = settings.learning_rate, settings.learning_rate * settings.final_share
    decay_steps = max(1, settings.total_steps - settings.warmup_steps)
    if settings.schedule == "constant":
        after = optax.constant_schedule(peak)
    elif settings.schedule == "linear":
        after = optax.linear_schedule(peak, final, decay_steps)
    else:
        after = optax.cosine_decay_schedule(peak, decay_steps, alpha=settings.final_share)
    # step 0 already moves: the first of n warm-up steps has 1/n of the peak
    n = max(1, settings.warmup_steps)
    warmup = optax.linear_schedule(peak / n, peak, max(1, settings.warmup_steps - 1))
    return optax.join_schedules([warmup, after], [settings.warmup_steps])


def decay_mask(params: Any) -> Any:
    """True for matrices: their logical axes name `embed`, or None, an adapter's rank. Norms' scales and
    biases do not decay."""
    return jax.tree.map(
        lambda variable: variable.replace(bool({"embed", None} & set(variable.get_metadata("axes")))),
        params,
        is_leaf=lambda x: isinstance(x, nnx.Variable),
    )


def make_optimizer(settings: OptimizerSettings) -> optax.GradientTransformation:
    """AdamW on gradients that are clipped by their global norm, before the learning rate: its updates are
    to be multiplied by minus that, which step.stepped does."""
    parts = [optax.clip_by_global_norm(settings.clip_norm)] if settings.clip_norm else []
    moment_dtype = settings.moment_dtype or None
    parts.append(optax.scale_by_adam(settings.b1, settings.b2, settings.eps, mu_dtype=moment_dtype))
    if settings.weight_decay:
        parts.append(optax.add_decayed_weights(settings.weight_decay, decay_mask))
    return optax.chain(*parts)
