"""NVIDIA GPUs that are not there: what XLA's compiler must know of one, and their devices.

Needs jax's plugin for CUDA (make install-plan), without any of NVIDIA's libraries; compiles nothing. cuDNN is
not asked either, so that its own workspace is in no plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax._src.lib import cuda_versions  # the plugin's own
from jax.experimental import topologies

from o1jax.records import InputError


class Gpu(NamedTuple):
    """What tells GPUs of the Hopper generation apart."""

    name: str  # as the driver says it
    memory_bytes: int  # as the driver says it
    memory_bytes_s: int


GPUS = {
    "h100": Gpu("NVIDIA H100 80GB HBM3", 84_942_979_072, 3_352_320_000_000),
    "h200": Gpu("NVIDIA H200 141GB HBM3e", 151_397_597_184, 4_800_000_000_000),
}
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


def nvidia_devices(chip: str, shape: str) -> Sequence[jax.Device]:
    """The devices of `chip`, a key of GPUS, in a shape "8" or, of two hosts, "2x8"; InputError for another
    shape, and without the plugin."""
    if shape.count("x") > 1:
        raise InputError(f"topology '{chip}:{shape}': wanted {chip}:<GPUs> or {chip}:<hosts>x<GPUs of each>")
    hosts, _, gpus = shape.rpartition("x")
    try:
        found = topologies.get_topology_desc(
            platform="cuda",
            target_config=HOPPER.format(gpu=GPUS[chip]),
            topology=f"1x{hosts or 1}x{gpus}",
        )
    except NotImplementedError as error:  # jax's word for no plugin
        raise InputError(
            f"topology '{chip}:{shape}' needs jax's plugin for CUDA (jax-cuda13-pjrt and jax-cuda13-plugin), "
            "which comes with make install-plan"
        ) from error
    without_cudnn()
    return found.devices


def without_cudnn() -> None:
    """Lets attention be traced where cuDNN is not: jax asks the library for its version, and is told the one
    that the plugin was built with."""
    cuda_versions.cudnn_get_version = cuda_versions.cudnn_build_version
