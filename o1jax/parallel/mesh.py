"""The mesh, the one table from logical to mesh axes, and placing trees on the mesh by it.

Does not know any model: a parameter carries its logical axes as metadata (`axes`), and this file
turns them into shardings. Starting processes is processes.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from o1jax.records import InputError

MESH_AXES = ("data", "fsdp", "tensor", "context")

# Logical axis of a parameter or activation -> the mesh axis (or axes) that it is split over.
AXIS_RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "length": "context",
    "layers": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "ff": "tensor",
    "norm": None,
}


def make_mesh(shape: Mapping[str, int] | None = None, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the four axes of MESH_AXES, all Auto; axes left out are 1, None is all on data.

    Raises InputError for an unknown axis, or when the sizes' product is not the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = dict({"data": len(devices)} if shape is None else shape)
    if unknown := sorted(set(shape) - set(MESH_AXES)):
        raise InputError(f"mesh axes {unknown} are unknown: use {list(MESH_AXES)}")
    sizes = tuple(shape.get(axis, 1) for axis in MESH_AXES)
    if int(np.prod(sizes)) != len(devices):
        raise InputError(f"a mesh of {shape} needs {int(np.prod(sizes))} devices, there are {len(devices)}")
    return jax.make_mesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * len(sizes), devices=devices)


def spec_of(logical_axes: Sequence[str | None]) -> PartitionSpec:
    """The PartitionSpec of an array with these logical axes, by AXIS_RULES."""
    return PartitionSpec(*(None if axis is None else AXIS_RULES[axis] for axis in logical_axes))


def batch_spec() -> PartitionSpec:
    """The PartitionSpec of a batch's arrays, [B, T]."""
    return spec_of(("batch", "length"))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of a value that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def variable_sharding(variable: nnx.Variable, mesh: Mesh) -> NamedSharding:
    """One parameter's sharding from its `axes`; an axis more than it names is the stacked layers."""
    axes = tuple(variable.get_metadata("axes"))
    missing = len(variable.get_value().shape) - len(axes)
    return NamedSharding(mesh, spec_of(("layers",) * missing + axes))


def param_shardings(params: Any, mesh: Mesh) -> Any:
    """The tree of `params` (arrays or ShapeDtypeStructs) with a NamedSharding at every leaf."""

    def shard(variable: nnx.Variable) -> nnx.Variable:
        return variable.replace(variable_sharding(variable, mesh))

    return jax.tree.map(shard, params, is_leaf=lambda x: isinstance(x, nnx.Variable))


def place_params(params: Any, mesh: Mesh) -> Any:
    """`params` on the mesh, each split by its logical axes."""
    return jax.device_put(params, param_shardings(params, mesh))


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch, each [B, T], as arrays of the global batch on the mesh."""
    sharding = NamedSharding(mesh, batch_spec())
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}
