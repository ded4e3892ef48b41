"""Accelerators that are not there: their devices as the compiler sees them, and their published figures.

Needs libtpu (make install-plan), which jax loads by itself; compiles nothing. NVIDIA's are nvidia.py's.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence

import jax
from jax.experimental import topologies

from o1jax.parallel.chips import CHIPS, Chip
from o1jax.plan.nvidia import GPUS, nvidia_devices
from o1jax.records import InputError

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
            f"topology {name!r}: wanted <chip>:<shape>, such as v5p:2x2x2 or h100:8, of {', '.join(CHIPS)}"
        )
    return CHIPS[generation]


def slower_network(name: str, slices: int = 1) -> str:
    """What a bound by the links of chips does not know of a topology, in words."""
    hosts = math.prod(map(int, name.split(":")[1].split("x")[:-1]))
    if name.split(":")[0] in GPUS and hosts > 1:
        return f"{hosts} hosts as if NVLink joined them; the network between them is slower"
    if slices > 1:
        return f"the links inside a slice; what goes between the {slices} slices is not counted"
    return "all traffic"


def devices_of(name: str, slices: int = 1) -> Sequence[jax.Device]:
    """The devices of `slices` topologies of this name; InputError where the compiler is missing."""
    chip_of(name)
    chip, shape = name.split(":")
    if chip in GPUS:
        if slices > 1:
            raise InputError(f"topology {name!r} has no slices: write its hosts, as {chip}:{slices}x8")
        return nvidia_devices(chip, shape)
    for key, value in WITHOUT_TPU.items():
        os.environ.setdefault(key, value)
    settings = {"num_slices": slices} if slices > 1 else {}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **settings)
    except (RuntimeError, ValueError) as error:  # jax's word for no libtpu is a kind of RuntimeError
        raise InputError(
            f"topology {name!r} cannot be had ({' '.join(str(error).split())[:160]}); "
            "libtpu comes with make install-plan"
        ) from error
    return found.devices
