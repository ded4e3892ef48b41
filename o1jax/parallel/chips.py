"""What an accelerator can do at most, by the name that JAX gives it. Measures nothing."""

from __future__ import annotations

from typing import NamedTuple


class Chip(NamedTuple):
    """One device. Sources: Google Cloud's pages of TPU versions, NVIDIA's H100 and H200 data sheets."""

    flops: float  # bfloat16, dense, a second
    hbm_gib: float
    hbm_bytes_s: float
    link_bytes_s: float  # to its neighbours, all links together, in one direction


CHIPS = {
    "v4": Chip(275e12, 32, 1228e9, 150e9),
    "v5e": Chip(197e12, 16, 819e9, 100e9),
    "v5p": Chip(459e12, 95, 2765e9, 300e9),
    "v6e": Chip(918e12, 32, 1640e9, 224e9),
    "h100": Chip(989e12, 79.6, 3350e9, 450e9),
    "h200": Chip(989e12, 140.4, 4800e9, 450e9),
}
KINDS = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p", "TPU v6 lite": "v6e"}


def chip_of_kind(device_kind: str) -> Chip | None:
    """The chip that jax.Device.device_kind names, or None."""
    for name in ("H100", "H200"):  # the driver adds memory and form: "NVIDIA H100 80GB HBM3"
        if name in device_kind:
            return CHIPS[name.lower()]
    return CHIPS[KINDS[device_kind]] if device_kind in KINDS else None
