"""Accelerators that are not there: their devices as the compiler sees them, and their published figures.

Needs libtpu (make install-plan), which jax loads by itself; compiles nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from o1jax.records import InputError


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
WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def chip_of(name: str) -> Chip:
    """The chip of a topology's name, "v5p:2x2x2"; InputError for one that is not known."""
    generation = name.split(":")[0]
    if generation not in CHIPS or not re.fullmatch(r"\w+:\d+(x\d+)*", name):
        raise InputError(
            f"topology {name!r}: wanted <chip>:<shape>, such as v5p:2x2x2; chips: {', '.join(CHIPS)}"
        )
    return CHIPS[generation]


def chip_of_kind(device_kind: str) -> Chip | None:
    """The chip that jax.Device.device_kind names, or None."""
    for name in ("H100", "H200"):
        if name in device_kind:
            return CHIPS[name.lower()]
    return CHIPS[KINDS[device_kind]] if device_kind in KINDS else None


def devices_of(name: str, slices: int = 1) -> Sequence[jax.Device]:
    """The devices of `slices` topologies of this name; InputError where the compiler is missing."""
    if name.split(":")[0] in ("h100", "h200"):
        raise InputError(
            f"topology {name!r}: only TPUs are compiled for here; for NVIDIA the cuDNN plugin "
            "(jax-cuda12-pjrt, jax-cuda12-plugin) and a target description are missing"
        )
    chip_of(name)
    for key, value in WITHOUT_TPU.items():
        os.environ.setdefault(key, value)
    settings = {"num_slices": slices} if slices > 1 else {}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **settings)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"topology {name!r} cannot be had ({' '.join(str(error).split())[:160]}); "
            "libtpu comes with make install-plan"
        ) from error
    return found.devices
