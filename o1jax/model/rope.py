"""Rotary positions: the angles of every token, and turning heads by them.

The half-rotation form of Hugging Face, with the four ways of stretching it past the context that a model
was trained on. Reads no config.json; that is hf/config.py.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.records import InputError

RopeType = Literal["default", "linear", "llama3", "yarn"]
ROPE_TYPES = get_args(RopeType)


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How the rotary frequencies differ from theta^(-2i/H). JSON-friendly; what a type has no use for stays
    as it is here. Turns are counted in `original_context` tokens."""

    # linear: all frequencies are divided by `factor`. llama3 (Llama 3.1): those of few turns are, those of
    # many are not, with a linear passage. yarn (arXiv 2309.00071): likewise, linear in their index.
    type: RopeType = "default"
    factor: float = 1.0  # the stretch of the context
    original_context: int = 0  # tokens that the model was trained on before
    low_freq_factor: float = 1.0  # llama3: frequencies of fewer turns are divided
    high_freq_factor: float = 4.0  # llama3: those of more are not
    beta_fast: float = 32.0  # yarn: frequencies of more turns are not divided
    beta_slow: float = 1.0  # yarn: those of fewer are
    truncate: bool = True  # yarn: the passage's ends are whole numbers
    attention_factor: float = 1.0  # yarn: cos and sin are multiplied by it

    def __post_init__(self):
        if self.type not in ROPE_TYPES:
            raise InputError(f"rope type {self.type!r} is not supported: use one of {', '.join(ROPE_TYPES)}")
        if self.factor < 1.0:
            raise InputError(f"rope factor {self.factor}: wanted 1 or more, the stretch of the context")
        if self.type in ("llama3", "yarn") and self.original_context < 1:
            raise InputError(f"rope type {self.type!r} needs the context that the model was trained on")


class Rotation(NamedTuple):
    """cos and sin of the rotary angles of every token, shared by all layers; R = H / 2."""

    cos_BTR: jax.Array
    sin_BTR: jax.Array


def rotation(theta: float, head_dim: int, scaling: RopeScaling, positions_BT: jax.Array) -> Rotation:
    """Rotary angles position * frequency, float32."""
    frequencies_R = jnp.asarray(frequencies(theta, head_dim, scaling), jnp.float32)
    angles_BTR = positions_BT[..., None].astype(jnp.float32) * frequencies_R
    return Rotation(
        jnp.cos(angles_BTR) * scaling.attention_factor, jnp.sin(angles_BTR) * scaling.attention_factor
    )


def rotate(x_BTNH: jax.Array, angles: Rotation) -> jax.Array:
    """Rotates the pairs (i, i + H/2) of every head by the token's angles."""
    first_BTNR, second_BTNR = jnp.split(x_BTNH, 2, axis=-1)
    cos_BT1R, sin_BT1R = angles.cos_BTR[:, :, None], angles.sin_BTR[:, :, None]
    turned = (first_BTNR * cos_BT1R - second_BTNR * sin_BT1R, second_BTNR * cos_BT1R + first_BTNR * sin_BT1R)
    return jnp.concatenate(turned, axis=-1).astype(x_BTNH.dtype)


def frequencies(theta: float, head_dim: int, scaling: RopeScaling) -> np.ndarray:
    """Radians a token of each pair, [R] float64: from the fastest, 1, to nearly 1 / theta."""
    plain_R = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    if scaling.type == "default":
        return plain_R
    stretched_R = plain_R / scaling.factor
    if scaling.type == "linear":
        return stretched_R
    kept_R = (
        llama3_kept(plain_R, scaling) if scaling.type == "llama3" else yarn_kept(theta, head_dim, scaling)
    )
    return kept_R * plain_R + (1 - kept_R) * stretched_R


def llama3_kept(plain_R: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """The share of each frequency that is not stretched, by its turns in the original context."""
    turns_R = scaling.original_context * plain_R / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    return np.clip((turns_R - low) / (high - low), 0, 1)


def yarn_kept(theta: float, head_dim: int, scaling: RopeScaling) -> np.ndarray:
    """The share of each frequency that is not stretched, by its index (section 3.2 of the paper)."""

    def index_of(turns: float) -> float:
        return head_dim * math.log(scaling.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = index_of(scaling.beta_fast), index_of(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    passage = max(last - first, 0.001)  # as published: no division by 0
    return 1 - np.clip((np.arange(head_dim // 2) - first) / passage, 0, 1)
