"""What a step cannot be faster than: operations, bytes of memory and bytes between devices, by formula.

Knows one network, the links between neighbouring chips, and not the slower one between TPU slices or GPU
hosts (topology.slower_network says where there is one): across those a step may take much longer.
"""

from __future__ import annotations

import dataclasses

from o1jax.model.config import ModelConfig
from o1jax.model.flops import forward_flops, train_flops
from o1jax.parallel.chips import Chip
from o1jax.plan.program import GIB, Found

RECOMPUTED = {"none": 0.0, "dots": 0.0, "attention": 1.0, "full": 1.0}  # forward passes that remat adds


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Seconds a step, each alone; `step_s` is the largest, and `mfu` what it leaves of the peak.

    model_flops: train_flops, or forward_flops of one token a slot. compute_s adds what remat computes again;
    memory_s reads and writes the arguments once; network_s sends every collective's bytes over all links."""

    model_flops: float
    compute_s: float
    memory_s: float
    network_s: float

    @property
    def step_s(self) -> float:
        return max(self.compute_s, self.memory_s, self.network_s)


def train_bounds(
    config: ModelConfig,
    chip: Chip,
    n_devices: int,
    found: Found,
    rows: int,
    row_length: int,
    *,
    lora: bool = False,
) -> Bounds:
    """The bounds of a step on rows of one sequence each."""
    tokens, pairs = rows * row_length, rows * row_length**2 / 2
    model = train_flops(config, tokens, pairs, lora=lora)
    executed = model + RECOMPUTED[config.remat] * forward_flops(config, tokens, pairs)
    return bounds(chip, n_devices, found, model, executed, memory_passes=2)


def decode_bounds(
    config: ModelConfig, chip: Chip, n_devices: int, found: Found, slots: int, context: int
) -> Bounds:
    """The bounds of one token a slot, at half of the context."""
    flops = forward_flops(config, slots, slots * context / 2)
    return bounds(chip, n_devices, found, flops, flops, memory_passes=1)


def bounds(
    chip: Chip, n_devices: int, found: Found, model: float, executed: float, memory_passes: int
) -> Bounds:
    """The bounds from counts."""
    sent = sum(traffic.sent_bytes for traffic in found.collectives.values())
    return Bounds(
        model,
        executed / n_devices / chip.flops,
        memory_passes * found.arguments_gib * GIB / chip.hbm_bytes_s,
        sent / chip.link_bytes_s,
    )


def mfu(of: Bounds, chip: Chip, n_devices: int) -> float:
    """Model FLOPs utilisation if a step took its bound."""
    return of.model_flops / (of.step_s * n_devices * chip.flops) if of.step_s else 0.0
