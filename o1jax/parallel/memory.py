"""How much memory this process's devices have, and refusing a model that is larger before it is read."""

from __future__ import annotations

import os
import pathlib
import resource
from typing import Any

import jax

from o1jax.records import InputError

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_fits(what: os.PathLike, abstract: Any) -> None:
    """InputError where arrays of these ShapeDtypeStructs, with shardings, are more than a device's memory,
    with both sizes; `what` begins the message. Devices that do not say their size are believed to be large
    enough."""
    leaves = jax.tree.leaves(abstract)
    here = [d for d in leaves[0].sharding.mesh.devices.flat if d.process_index == jax.process_index()]
    # On one device, since all hold the same; CPU devices share the host's memory.
    wanted = sum(map(shard_bytes, leaves))
    if here[0].platform == "cpu":
        wanted *= len(here)
    room = device_bytes(here[0])
    if room is not None and wanted > room:
        raise InputError(
            f"{what}: its weights take {wanted / 1e9:.1f} GB as {leaves[0].dtype.name}, and the memory is "
            f"{room / 1e9:.1f} GB; take a smaller model, more devices, or, to sample, engine.dtype 'bfloat16'"
        )


def shard_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    """Bytes of one device's part."""
    size = leaf.dtype.itemsize
    for length in leaf.sharding.shard_shape(leaf.shape):
        size *= length
    return size


def device_bytes(device: jax.Device) -> int | None:
    """Memory of a device, of the CPU the host's as far as this process may use it; None if unknown."""
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(pathlib.Path, CGROUP_LIMITS):
        if path.is_file() and (text := path.read_text(encoding="utf-8").strip()).isdigit():
            limits.append(int(text))
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    return min(limits)
