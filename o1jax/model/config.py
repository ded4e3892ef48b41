"""The shape of a decoder: a frozen record that goes to JSON and back, and into every checkpoint.

Does not hold sizes of particular models; those are presets.py.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Literal, get_args

from o1jax.model.rope import RopeScaling
from o1jax.records import InputError

Family = Literal["qwen2", "qwen3", "llama"]
Remat = Literal["none", "dots", "attention", "full"]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder of the Qwen2, Qwen3 or Llama family.

    `param_dtype` is what parameters are kept in, `compute_dtype` what matrix products run in.
    `remat`: what a layer keeps for the backward pass, from everything to its input (remat.py).
    `attention`: the kernel of packed rows (attention.py); auto is by platform.
    `score_likelihood`: of a process reward model, the weight of a program's log-likelihood in its score.
    """

    family: Family
    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    max_context: int
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling = RopeScaling()
    rms_eps: float = 1e-6
    tie_embeddings: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    remat: Remat = "none"
    attention: str = "auto"
    score_likelihood: float = 0.0

    def __post_init__(self):
        if self.n_heads % self.n_kv_heads:
            raise InputError(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}")
        if self.head_dim % 2:
            raise InputError(f"head_dim {self.head_dim} is odd: rotary positions need pairs")
        if self.remat not in get_args(Remat):
            raise InputError(f"remat {self.remat!r} is unknown: use one of {', '.join(get_args(Remat))}")

    def to_json(self) -> str:
        """One JSON object with every field."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """The config that to_json wrote; InputError for text that is none."""
        try:
            fields = json.loads(text)
            if isinstance(fields.get("remat"), bool):  # as it was written before it had names
                fields["remat"] = "full" if fields["remat"] else "none"
            scaling = RopeScaling(**fields.pop("rope_scaling", {}))  # absent before there was any
            return cls(**fields, rope_scaling=scaling)
        except (TypeError, AttributeError, json.JSONDecodeError) as error:
            raise InputError(f"not a model config: {error}") from error
