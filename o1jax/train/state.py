"""What a train step changes: parameters, optimizer state and the step, a pytree on the mesh.

Holds no data position: that is the step itself (D4). Does not save itself; that is checkpoint.py.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from o1jax.parallel.mesh import replicated


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """`step` counts finished updates: the next batch is the one at `step`."""

    params: nnx.State
    opt_state: optax.OptState
    step: jax.Array


def abstract_state(
    abstract_params: nnx.State, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """ShapeDtypeStructs with shardings for the whole state: moments lie like their parameters.

    Without this, jit(optimizer.init) would replicate the moments on every device.
    """
    shapes = jax.eval_shape(optimizer.init, abstract_params)
    opt_state = optax.tree_utils.tree_map_params(
        optimizer,
        lambda moment, param: struct(moment, param.sharding),
        shapes,
        abstract_params,
        transform_non_params=lambda leaf: struct(leaf, replicated(mesh)),
    )
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh))
    return TrainState(abstract_params, opt_state, step)


def struct(leaf: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    """The shape and dtype of `leaf`, with this sharding."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def init_state(params: nnx.State, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Step 0 of training `params`. They are copied: the step donates its state, the caller's stay his."""
    structs = jax.tree.map(lambda leaf: struct(leaf, leaf.sharding), params)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(structs, optimizer, mesh))

    def init(params: nnx.State) -> TrainState:
        return TrainState(jax.tree.map(jnp.copy, params), optimizer.init(params), jnp.int32(0))

    return jax.jit(init, out_shardings=shardings)(params)
