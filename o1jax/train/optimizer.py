"""AdamW with clipping, a schedule and a decay mask, from one frozen record of settings.

Does not apply updates, nor choose where in the schedule a run stands; that is step.py.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import optax
from flax import nnx

from o1jax.records import InputError

Schedule = Literal["constant", "linear", "cosine"]
DTYPES = ("", "float32", "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW:
    """What is rarely changed. A dtype that is empty is the parameters' own."""

    clip_norm: float = 1.0  # of the whole gradient; 0 does not clip
    b1: float = 0.9
    b2: float = 0.95  # the usual one for language models; Adam's .999 is slow to forget the first steps
    eps: float = 1e-8
    final_share: float = 0.1  # of the peak learning rate, where a schedule ends
    moment_dtype: str = ""  # of the first moment; the second's changes are too small for bfloat16
    gradient_dtype: str = ""  # in which gradients are made and added up

    def __post_init__(self):
        wanted = {
            f"clip_norm {self.clip_norm}; wanted 0 or more": self.clip_norm >= 0,
            f"b1 {self.b1} and b2 {self.b2}; wanted both in [0, 1)": 0 <= self.b1 < 1 and 0 <= self.b2 < 1,
            f"eps {self.eps}; wanted more than 0": self.eps > 0,
            f"final_share {self.final_share}; wanted 0 to 1": 0 <= self.final_share <= 1,
        }
        for name, seen in (("moment_dtype", self.moment_dtype), ("gradient_dtype", self.gradient_dtype)):
            wanted[f"{name} {seen!r}; wanted one of {DTYPES}"] = seen in DTYPES
        for message, holds in wanted.items():
            if not holds:
                raise InputError(f"adamw.{message}")


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
    elif settings.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, decay_steps, alpha=settings.final_share)
    else:
        raise InputError(f"schedule {settings.schedule!r} is unknown: use constant, linear or cosine")
    # step 0 already moves: the first of n warm-up steps has 1/n of the peak
    warmup = optax.linear_schedule(
        peak / max(1, settings.warmup_steps), peak, max(1, settings.warmup_steps - 1)
    )
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
