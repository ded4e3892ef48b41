"""The mesh, the one table from logical to mesh axes, and putting batches on the mesh by it.

Does not know any model: a parameter carries its logical axes as metadata (`axes`), and this file
turns them into shardings. What a traced program asks of the mesh it runs on is traced.py; starting
processes is processes.py.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from o1jax.records import InputError

MESH_AXES = ("data", "fsdp", "tensor", "context")

# Logical axis of a parameter or activation -> the mesh axis (or axes) that it is split over.
AXIS_RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "length": "context",
    "residual_length": ("context", "tensor"),  # between layers: norms and what remat keeps
    "layers": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "ff": "tensor",
    "norm": None,
}


def make_mesh(
    shape: Mapping[str, int] | None = None, devices: Sequence[jax.Device] | None = None, slices: int = 1
) -> Mesh:
    """A mesh with the four axes of MESH_AXES, all Auto; axes left out are 1. Without a shape, all is on data,
    or, for all devices, as the environment says: O1JAX_MESH (see sizes_of) and O1JAX_SLICES.

    With `slices`, parts of a TPU pod that a slower network joins, `data` is split over them first, so that
    the other axes stay inside a slice. Raises InputError for an unknown axis, when the sizes' product is
    not the number of devices, or when `data` is not a multiple of the slices.
    """
    if shape is None and devices is None and (text := os.environ.get("O1JAX_MESH")):
        shape = sizes_of(text.split(","), len(jax.devices()))
        slices = int(os.environ.get("O1JAX_SLICES", "1"))
    devices = list(jax.devices() if devices is None else devices)
    shape = dict({"data": len(devices)} if shape is None else shape)
    if unknown := sorted(set(shape) - set(MESH_AXES)):
        raise InputError(f"mesh axes {unknown} are unknown: use {list(MESH_AXES)}")
    sizes = tuple(shape.get(axis, 1) for axis in MESH_AXES)
    if int(np.prod(sizes)) != len(devices):
        raise InputError(f"a mesh of {shape} needs {int(np.prod(sizes))} devices, there are {len(devices)}")
    if sizes[0] % slices:
        raise InputError(f"a mesh of {shape} on {slices} slices: make data a multiple of {slices}")
    # A torus of 4 x 4 x 4 has no axis of 2: one of its own is split then.
    if slices == 1:
        grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    else:
        # Only `data` goes across: the slow network then carries gradients, once a step, and no activations.
        inside, across = (sizes[0] // slices, *sizes[1:]), (slices, 1, 1, 1)
        grid = mesh_utils.create_hybrid_device_mesh(inside, across, devices, allow_split_physical_axes=True)
    # Auto: under Explicit axes, which jax.make_mesh takes by default, plain einsums raise DuplicateSpecError.
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(sizes))


def sizes_of(words: Sequence[str], n_devices: int) -> dict[str, int]:
    """Sizes by axis of words such as "fsdp=4" and "tensor=2"; "fsdp=*" takes the devices that are left.

    InputError for a word of another form, or where what is left is no whole number.
    """
    pairs = [word.partition("=")[::2] for word in words]
    open_axes = [axis for axis, size in pairs if size == "*"]
    if len(open_axes) > 1 or not all(size == "*" or size.isdigit() and int(size) for _, size in pairs):
        raise InputError(f"mesh {','.join(words)!r}: wanted <axis>=<size>, and at most one <axis>=*")
    sizes = {axis: int(size) for axis, size in pairs if size != "*"}
    left, rest = divmod(n_devices, math.prod(sizes.values()))
    if open_axes and (rest or not left):
        raise InputError(f"mesh {','.join(words)!r} does not divide {n_devices} devices")
    return sizes | {axis: left for axis in open_axes}


def spec_of(logical_axes: Sequence[str | None]) -> PartitionSpec:
    """The PartitionSpec of an array with these logical axes, by AXIS_RULES."""
    return PartitionSpec(*(None if axis is None else AXIS_RULES[axis] for axis in logical_axes))


def batch_spec() -> PartitionSpec:
    """The PartitionSpec of a batch's arrays, [B, T]."""
    return spec_of(("batch", "length"))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of a value that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def param_shardings(params: Any, mesh: Mesh) -> Any:
    """The tree of `params` (arrays or ShapeDtypeStructs) with a NamedSharding at every leaf, from its `axes`:
    an axis more than they name is the stacked layers. InputError where the mesh does not divide an axis."""

    def shard(variable: nnx.Variable) -> nnx.Variable:
        axes, shape = tuple(variable.get_metadata("axes")), variable.get_value().shape
        axes = ("layers",) * (len(shape) - len(axes)) + axes
        sharding = NamedSharding(mesh, spec_of(axes))
        for axis, size, split in zip(axes, shape, sharding.spec, strict=True):
            if split is not None and size % mesh.shape[split]:
                raise InputError(
                    f"a parameter's axis {axis!r} of {size} does not divide over the mesh axis {split!r} of "
                    f"{mesh.shape[split]}; choose a mesh that divides it"
                )
        return variable.replace(sharding)

    return jax.tree.map(shard, params, is_leaf=lambda x: isinstance(x, nnx.Variable))


def own_devices(tensor: int = 1, replica: int = 0) -> Mesh:
    """The mesh of this process's first device, or of the first `tensor`, by that axis; of `replica` 1 those
    that come next, and so on. InputError where there are fewer."""
    devices = jax.local_devices()
    if not 1 <= tensor <= len(devices):
        raise InputError(f"tensor: saw {tensor}, wanted 1 to {len(devices)}, this process's devices")
    if not 0 <= replica < len(devices) // tensor:
        wanted = f"{len(devices)} devices of this process, {tensor} each"
        raise InputError(f"replica: saw number {replica}, wanted one that fits into the {wanted}")
    grid = np.array(devices[replica * tensor : (replica + 1) * tensor]).reshape(1, 1, tensor, 1)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * grid.ndim)


def from_all(value: np.ndarray) -> np.ndarray:
    """The values of all processes, [processes, ...], in each of them; all call it, with values of one
    shape."""
    if jax.process_count() == 1:
        return value[None]
    return multihost_utils.process_allgather(value)


class OwnRows(NamedTuple):
    """The rows of a global batch that this process's devices hold."""

    indices: tuple[int, ...]  # rising, with gaps where the mesh follows a torus
    total: int  # rows of the whole batch


def own_rows(total: int, mesh: Mesh) -> OwnRows:
    """Those of a batch of `total` rows; InputError where they do not divide over the mesh."""
    sharding = NamedSharding(mesh, PartitionSpec(batch_spec()[0]))
    try:
        held = sharding.addressable_devices_indices_map((total,)).values()
    except ValueError as error:
        raise InputError(f"{total} rows a batch do not divide over the mesh {dict(mesh.shape)}") from error
    return OwnRows(tuple(sorted({row for (part,) in held for row in range(total)[part]})), total)


def place_batch(
    batch: Mapping[str, np.ndarray], mesh: Mesh, own: OwnRows | None = None
) -> dict[str, jax.Array]:
    """The arrays of a global batch, each [B, T], on the mesh. `batch` has all columns of this process's rows,
    `own`; or, without that, all rows, in every process."""
    sharding = NamedSharding(mesh, batch_spec())

    # A callback for each shard: on a torus, a process's rows are no single slice of the batch.
    def put(rows_BT: np.ndarray) -> jax.Array:
        total = len(rows_BT) if own is None else own.total

        def shard(index: tuple[slice, slice]) -> np.ndarray:
            start, stop, _ = index[0].indices(total)
            first = start if own is None else own.indices.index(start)
            return rows_BT[first : first + stop - start, index[1]]

        return jax.make_array_from_callback((total, rows_BT.shape[1]), sharding, shard)

    return {name: put(rows_BT) for name, rows_BT in batch.items()}
