"""How much memory this process's devices have, and refusing a model that is larger before it is read."""

from __future__ import annotations

import os
import pathlib
import resource
import sys
from collections.abc import Mapping
from typing import Any

import jax
from tqdm import tqdm

from o1jax.parallel.processes import this_process
from o1jax.records import InputError

WORTH_SAYING = 1 << 30  # bytes
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


def report_held(parts: Mapping[str, Any]) -> None:
    """One line on stderr of process 0: the GB of JAX's arrays that this process holds, of which the named
    pytrees', and of the rest (an engine's weights and cache); of less than a GiB nothing."""
    seen: set[int] = set()
    sizes = {name: held_bytes(part, seen) for name, part in parts.items()}
    sizes["engine and the rest"] = held_bytes(jax.live_arrays(), seen)
    if sum(sizes.values()) >= WORTH_SAYING and this_process().index == 0:
        named = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in sizes.items() if size)
        tqdm.write(f"holding {sum(sizes.values()) / 1e9:.1f} GB: {named}", file=sys.stderr)


def held_bytes(tree: Any, seen: set[int]) -> int:
    """Bytes of this process's buffers of arrays, but of those whose places are in `seen`, to which they are
    added."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        for shard in [] if leaf.is_deleted() else leaf.addressable_shards:
            place = shard.data.unsafe_buffer_pointer()
            total += 0 if place in seen else shard.data.nbytes
            seen.add(place)
    return total


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
