"""What a step cannot be faster than: operations, bytes of memory and bytes between devices, by formula.

Operations are those of matrix products, a multiply-add being two; causal attention is half a square. Knows
one network, the links between neighbouring chips, and not the slower one between TPU slices or GPU hosts
(topology.slower_network says where there is one): across those a step may take much longer.
"""

from __future__ import annotations

import dataclasses

from o1jax.model.config import ModelConfig
from o1jax.parallel.chips import Chip
from o1jax.plan.program import GIB, Compiled

# What remat computes again, of a forward pass: (products with parameters, attention's own).
RECOMPUTED = {"none": (0, 0), "dots": (0, 0), "attention": (1, 0), "full": (1, 1)}


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
    """Forward and backward, without what remat computes again: 6 N a token and three times the attention.
    A frozen base under LoRA has no gradient of its own: 4 N a token; adapters are not counted."""
    products = 2 * product_parameters(config) * tokens
    return products * (2 if lora else 3) + 3 * (forward_flops(config, tokens, pairs) - products)


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Seconds that a step takes at least, by each of three resources alone."""

    model_flops: float  # train_flops, or forward_flops of one token a slot
    compute_s: float  # of model_flops, and of what remat computes again
    memory_s: float  # reading the arguments once, and when training writing them
    network_s: float  # every collective's bytes over all links

    @property
    def step_s(self) -> float:
        return max(self.compute_s, self.memory_s, self.network_s)

    def mfu(self, chip: Chip, n_devices: int) -> float:
        """Model FLOPs utilisation if a step took its bound."""
        return self.model_flops / (self.step_s * n_devices * chip.flops) if self.step_s else 0.0


def train_bounds(
    config: ModelConfig,
    chip: Chip,
    n_devices: int,
    program: Compiled,
    rows: int,
    row_length: int,
    *,
    lora: bool = False,
) -> Bounds:
    """The bounds of a step on rows of one sequence each."""
    tokens, pairs = rows * row_length, rows * row_length**2 / 2
    model = train_flops(config, tokens, pairs, lora=lora)
    products, attention = RECOMPUTED[config.remat]
    executed = model + forward_flops(config, products * tokens, attention * pairs)
    return bounds(chip, n_devices, program, model, executed, memory_passes=2)


def decode_bounds(
    config: ModelConfig, chip: Chip, n_devices: int, program: Compiled, slots: int, context: int
) -> Bounds:
    """The bounds of one token a slot, at half of the context."""
    flops = forward_flops(config, slots, slots * context / 2)
    return bounds(chip, n_devices, program, flops, flops, memory_passes=1)


def bounds(
    chip: Chip, n_devices: int, program: Compiled, model: float, executed: float, memory_passes: int
) -> Bounds:
    """The bounds from counts."""
    return Bounds(
        model_flops=model,
        compute_s=executed / n_devices / chip.flops,
        memory_s=memory_passes * program.arguments_gib * GIB / chip.hbm_bytes_s,
        network_s=sum(traffic.sent_bytes for traffic in program.collectives.values()) / chip.link_bytes_s,
    )
