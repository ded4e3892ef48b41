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
    """A decoder of the Qwen2, Qwen3 or Llama family."""

    family: Family
    vocab_size: int  # V: rows of the embedding, which may be more than the tokenizer's tokens
    d_model: int  # D
    n_layers: int  # L
    n_heads: int  # N, query heads
    n_kv_heads: int  # K, of which N is a multiple
    head_dim: int  # H, even; not always D / N (Qwen3)
    d_ff: int  # F
    max_context: int  # tokens
    rope_theta: float = 10_000.0  # the base of the rotary frequencies
    rope_scaling: RopeScaling = RopeScaling()
    rms_eps: float = 1e-6  # added to the mean of squares
    tie_embeddings: bool = False  # the head is the embedding transposed
    qkv_bias: bool = False  # Qwen2's
    qk_norm: bool = False  # Qwen3's
    param_dtype: str = "float32"  # what parameters are kept in
    compute_dtype: str = "float32"  # what matrix products run in
    remat: Remat = "none"  # what a layer keeps for the backward pass, from everything to its input
    # Layers that a turn of the loop over them computes. The loop stacks what the backward pass needs, and
    # copies it in and out. With all layers in one turn nothing is stacked, and compiling takes far longer.
    # 0: all of a few layers, one of many (transformer.py).
    unroll: int = 0
    attention: str = "auto"  # the kernel of packed rows (attention.py); auto is by platform
    # Of a process reward model: the weights of a step's log-likelihood in its score, of a step that is a
    # program, and of any other.
    score_likelihood: float = 0.0
    score_step_likelihood: float = 0.0
    # Of a process reward model that is a head on a frozen policy: what the hidden state at the prompt's last
    # token weighs, D numbers. They take the place of the score tokens' direction. Empty: these score.
    score_prompt: tuple[float, ...] = ()
    # Of a process reward model: (a, b) of each step number, the last one's for all after it. A score is
    # sigmoid(a * logit + b). Empty: (1, 0) of every step.
    score_calibration: tuple[tuple[float, float], ...] = ()
    # The rows of the vocabulary that are tokens (the tokenizer's, by with_tokens); the others are padding,
    # out of every softmax. 0: all are.
    n_tokens: int = 0

    def __post_init__(self):
        if self.n_heads % self.n_kv_heads:
            raise InputError(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}")
        if self.head_dim % 2:
            raise InputError(f"head_dim {self.head_dim} is odd: rotary positions need pairs")
        if self.remat not in get_args(Remat):
            raise InputError(f"remat {self.remat!r} is unknown: use one of {', '.join(get_args(Remat))}")
        if self.unroll < 0:
            raise InputError(f"unroll {self.unroll}: wanted a number of layers, or 0 for the default")

    def kept_in(self, dtype: str) -> ModelConfig:
        """The config with its parameters in `dtype`: "" leaves it as it is, "compute" is what its products
        run in, which is all that a sampler needs."""
        kept = {"": self.param_dtype, "compute": self.compute_dtype}.get(dtype, dtype)
        return dataclasses.replace(self, param_dtype=kept)

    @property
    def token_rows(self) -> int:
        """How many rows of the vocabulary, from the first on, are tokens."""
        # A small model that is shaped after a known one has fewer rows than that one's tokenizer tokens.
        return min(self.n_tokens, self.vocab_size) or self.vocab_size

    def with_tokens(self, n_tokens: int) -> ModelConfig:
        """The config for a tokenizer of so many tokens."""
        return dataclasses.replace(self, n_tokens=n_tokens if n_tokens < self.vocab_size else 0)

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
            calibration = tuple((float(a), float(b)) for a, b in fields.pop("score_calibration", ()))
            prompt = tuple(map(float, fields.pop("score_prompt", ())))
            return cls(**fields, rope_scaling=scaling, score_calibration=calibration, score_prompt=prompt)
        except (TypeError, AttributeError, json.JSONDecodeError) as error:
            raise InputError(f"not a model config: {error}") from error
