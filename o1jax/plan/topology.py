"""Accelerators that are not there: their devices as the compilers see them.

TPUs need libtpu, which jax loads by itself, NVIDIA's GPUs jax's plugin for CUDA without any of NVIDIA's
libraries (make install-plan has both). cuDNN is not asked: its own workspace is in no plan. Compiles nothing.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax._src.cudnn import fused_attention_stablehlo
from jax._src.lib import cuda_versions  # the plugin's own
from jax.experimental import topologies

from o1jax.parallel.chips import CHIPS, Chip
from o1jax.records import InputError

# Read by libtpu: it is to ask no metadata server, and to share the machine with another process's copy of it.
WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


class Gpu(NamedTuple):
    """What tells GPUs of the Hopper generation apart."""

    name: str  # as the driver says it
    memory_bytes: int  # as the driver says it
    memory_bytes_s: int


GPUS = {
    "h100": Gpu("NVIDIA H100 80GB HBM3", 84_942_979_072, 3_352_320_000_000),
    "h200": Gpu("NVIDIA H200 141GB HBM3e", 151_397_597_184, 4_800_000_000_000),
}
HOPPERS = 9.0  # compute capability
# Fields of xla/stream_executor/device_description.proto; figures of NVIDIA's Hopper tuning guide and driver.
HOPPER = """
gpu_device_info {{
  cuda_compute_capability {{ major: 9 }}
  core_count: 132  fpus_per_core: 128  threads_per_warp: 32  clock_rate_ghz: 1.98
  threads_per_block_limit: 1024  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024  thread_dim_limit_y: 1024  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448  shared_memory_per_core: 233472
  l2_cache_size: 52428800
  device_memory_size: {gpu.memory_bytes}  memory_bandwidth: {gpu.memory_bytes_s}
  device_interconnect_info {{ active_links: 18 }}
}}
platform_name: "CUDA"
runtime_version {{ major: 13 }}
dnn_version_info {{ major: 9  minor: 12 }}
device_description_str: "{gpu.name}"
"""


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
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **settings).devices
    except (RuntimeError, ValueError) as error:  # jax's word for no libtpu is a kind of RuntimeError
        raise InputError(
            f"topology {name!r} cannot be had ({' '.join(str(error).split())[:160]}); "
            "libtpu comes with make install-plan"
        ) from error


def nvidia_devices(chip: str, shape: str) -> Sequence[jax.Device]:
    """The devices of `chip`, a key of GPUS, in a shape "8" or, of two hosts, "2x8"; InputError for another
    shape, and without the plugin."""
    if shape.count("x") > 1:
        raise InputError(f"topology '{chip}:{shape}': wanted {chip}:<GPUs> or {chip}:<hosts>x<GPUs of each>")
    hosts, _, gpus = shape.rpartition("x")
    config, grid = HOPPER.format(gpu=GPUS[chip]), f"1x{hosts or 1}x{gpus}"
    try:
        described = topologies.get_topology_desc(platform="cuda", target_config=config, topology=grid)
    except NotImplementedError as error:  # jax's word for no plugin
        raise InputError(
            f"topology '{chip}:{shape}' needs jax's plugin for CUDA (jax-cuda13-pjrt and jax-cuda13-plugin), "
            "which comes with make install-plan"
        ) from error
    # Tracing attention asks cuDNN for its version; it is not here: the one that the plugin was built with.
    cuda_versions.cudnn_get_version = cuda_versions.cudnn_build_version
    # So does the layout of packed rows for the GPU's generation: it is not here either.
    fused_attention_stablehlo.check_compute_capability = lambda asked: float(asked) <= HOPPERS
    return described.devices
