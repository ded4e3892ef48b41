"""How many floating-point operations a model's matrix products take, by formula; a multiply-add is two.

Counts what the mathematics needs: causal attention is half a square, nothing that remat computes again.
"""

from __future__ import annotations

from o1jax.model.config import ModelConfig


def product_parameters(config: ModelConfig) -> int:
    """N: parameters that take part in a product for every token; the head does, the embedding does not."""
    D, F, H = config.d_model, config.d_ff, config.head_dim
    attention = D * H * (2 * config.n_heads + 2 * config.n_kv_heads)
    return config.n_layers * (attention + 3 * D * F) + D * config.vocab_size


def forward_flops(config: ModelConfig, tokens: int, pairs: float) -> float:
    """2 N a token, and 4 L N H a (query, key) pair; `pairs` of a sequence of n tokens is n^2 / 2."""
    attention = 4 * config.n_layers * config.n_heads * config.head_dim * pairs
    return 2 * product_parameters(config) * tokens + attention


def train_flops(config: ModelConfig, tokens: int, pairs: float, *, lora: bool = False) -> float:
    """Forward and backward: 6 N a token and three times the attention. With a frozen base under LoRA its
    parameters have no gradient: 4 N a token; the adapters' own are not counted."""
    products = 2 * product_parameters(config) * tokens * (2 if lora else 3)
    attention = 3 * (forward_flops(config, tokens, pairs) - 2 * product_parameters(config) * tokens)
    return products + attention
