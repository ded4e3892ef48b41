"""What a traced program asks of the mesh it will run on: constraints, code for each device, precision.

A program is traced under `on_mesh`. Without it, or on one device, every function here returns its argument
unchanged, so that model and losses need no second form. The rules from axes to the mesh are mesh.py's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from o1jax.parallel.mesh import spec_of
from o1jax.records import InputError

Axes = Sequence[str | None]  # an array's logical axes


def on_mesh(function: Callable, mesh: Mesh) -> Callable:
    """`function`, to be given to jit, traced for this mesh."""

    # Set while tracing only: a mesh that is set around the call is part of jit's key, so that a caller
    # without it would get another program.
    @functools.wraps(function)
    def traced(*args: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args)

    return traced


def traced_mesh() -> AbstractMesh | None:
    """The mesh that is traced for; None if there is none or it has one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 else mesh


def constrain(x: jax.Array, axes: Axes) -> jax.Array:
    """`x`, split over the mesh by its logical axes; InputError where the mesh does not divide one."""
    mesh = traced_mesh()
    if mesh is None:
        return x
    spec = spec_of(axes)
    # Asked beforehand: with_sharding_constraint takes an axis that does not divide, and pads it in silence.
    try:
        NamedSharding(mesh, spec).shard_shape(x.shape)
    except ValueError as error:
        raise InputError(
            f"an array of {x.shape}, axes {list(axes)}, does not divide over the mesh {dict(mesh.shape)}: "
            "choose rows a batch, row_length or a mesh so that it does"
        ) from error
    return jax.lax.with_sharding_constraint(x, spec)


def per_device(
    function: Callable, mesh: AbstractMesh | None, in_axes: Sequence[Axes], out_axes: Any
) -> Callable:
    """`function` of each device's shards of its arguments, by their logical axes; inside, collectives may
    name the mesh's axes. `out_axes`: the result's, or a list with those of each result. Without a mesh,
    `function` itself.
    """
    if mesh is None:
        return function
    several = isinstance(out_axes, list)
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=tuple(spec_of(axes) for axes in in_axes),
        out_specs=tuple(spec_of(axes) for axes in out_axes) if several else spec_of(out_axes),
        check_vma=False,  # Pallas' kernels (splash) do not say how their results vary over the mesh
    )


def axis_size(mesh: AbstractMesh | None, axis: str) -> int:
    """The size of a mesh axis, 1 without a mesh."""
    return 1 if mesh is None else mesh.shape[axis]


def gathered(x: jax.Array, mesh: AbstractMesh | None, mesh_axis: str, dimension: int) -> jax.Array:
    """Inside per_device: the shards of all devices along a mesh axis, joined along `dimension`."""
    if axis_size(mesh, mesh_axis) == 1:
        return x
    return jax.lax.all_gather(x, mesh_axis, axis=dimension, tiled=True)


def summed(x: jax.Array, mesh: AbstractMesh | None, *mesh_axes: str) -> jax.Array:
    """Inside per_device: the sum over the devices along some mesh axes."""
    # Axes of size 1 are left out: a psum over none is no collective in the program (plan/ counts them).
    axes = tuple(axis for axis in mesh_axes if axis_size(mesh, axis) > 1)
    return jax.lax.psum(x, axes) if axes else x


def exact(x: jax.Array) -> jax.lax.Precision | None:
    """The `precision` of a product with `x`, in forward and backward passes: float32 stays float32."""
    # JAX's default rounds the factors of a float32 product, to TF32 on a GPU and to bfloat16 on a TPU. Then
    # sampler and trainer, whose programs differ, would not agree (promise 2). bfloat16 products stay theirs.
    return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None


def narrowed(kernel: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """A kernel in the dtype that computes, cast where it is used.

    XLA moves a bare cast out of the loop over layers, or over blocks of the head, through a barrier too, and
    keeps all casts beside the kernels. A product with a number that it does not know stays inside.
    """
    if kernel.dtype == dtype:
        return kernel
    return (kernel * jax.lax.optimization_barrier(jnp.ones((), kernel.dtype))).astype(dtype)
