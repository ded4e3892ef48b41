"""A model's parameters: their shapes, drawing them straight into their shards, copying them for an engine.

Does not load weights; that is hf/.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, Sharding

from o1jax.model.attention import choose
from o1jax.model.config import ModelConfig
from o1jax.model.transformer import Transformer
from o1jax.parallel.mesh import param_shardings, replicated
from o1jax.records import InputError

NO_PARAMS = nnx.State({})
# LLVM's level 3 takes a second for each draw of random numbers that level 2 compiles in a sixth.
QUICK_COMPILE = {"xla_backend_optimization_level": 2}


def abstract_params(
    config: ModelConfig, mesh: Mesh, *, apart: bool = False
) -> tuple[nnx.GraphDef, nnx.State]:
    """(graphdef, params) with ShapeDtypeStructs that carry shardings: nothing is allocated.

    The graphdef's model has the attention kernel that its config's setting means on this mesh. `apart`: the
    layers' parameters are not stacked, ("blocks", layer, ...).
    """
    config = dataclasses.replace(config, attention=kernel_of(config, mesh))
    abstract = nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0), apart=apart))
    graphdef, params, _ = nnx.split(abstract, nnx.Param, ...)
    return graphdef, shapes_on(params, mesh)


def shapes_on(params: nnx.State, mesh: Mesh) -> nnx.State:
    """The shapes and dtypes of `params`, arrays or not, with the shardings that they have on the mesh."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        params,
        param_shardings(params, mesh),
    )


def kernel_of(config: ModelConfig, mesh: Mesh) -> str:
    """The name of the attention kernel that the model has on this mesh."""
    device = mesh.devices.flat[0]
    return choose(
        config.attention, device.platform, device.device_kind, config.compute_dtype, config.head_dim
    )


def init_params(config: ModelConfig, seed: int, mesh: Mesh) -> tuple[nnx.GraphDef, nnx.State]:
    """(graphdef, params) drawn from `seed` under jit: no array is ever whole on one device.

    params is an nnx.State of nnx.Param, a pytree; the same seed gives the same values on any mesh.
    """
    graphdef, draw = compiled_draw(config, mesh)
    return graphdef, draw(jax.random.key(seed))


@functools.cache
def compiled_draw(config: ModelConfig, mesh: Mesh):
    """(graphdef, a jitted function from a key to params on the mesh), compiled once a process."""
    graphdef, abstract = abstract_params(config, mesh)

    def draw(key: jax.Array) -> nnx.State:
        return nnx.state(Transformer(config, rngs=nnx.Rngs(params=key)), nnx.Param)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    options = QUICK_COMPILE if mesh.devices.flat[0].platform == "cpu" else None
    return graphdef, jax.jit(draw, out_shardings=shardings, compiler_options=options)


def merge(graphdef: nnx.GraphDef, params: nnx.State, frozen: nnx.State = NO_PARAMS) -> Transformer:
    """The module with these parameters, of which only `params` are trained; use it inside jit."""
    return nnx.merge(graphdef, params, frozen)


def placed(params: nnx.State, abstracts: Sequence[nnx.State], *, owned: bool = False) -> list[nnx.State]:
    """For each of `abstracts`, which are alike but for their devices, a copy of `params` with its dtypes and
    shardings, layers apart where it has them apart; on devices of this process.

    No more than one layer of a parameter is whole beside the copies, on each device that holds the params.
    With `owned` each parameter is deleted once it is copied. Params that several processes hold are copied by
    all of them at once. Shapes must be the same (check_shapes).
    """
    wanted, copies = [dict(nnx.to_flat_state(abstract)) for abstract in abstracts], [{} for _ in abstracts]
    for path, variable in nnx.to_flat_state(params):
        array = variable[...]
        layers = [None] if path in wanted[0] else range(array.shape[0])
        for layer in layers:
            ours = path if layer is None else ("blocks", layer, *path[1:])
            part = whole_part(array, layer, wanted[0][ours].get_value().dtype)
            for flat, copy in zip(wanted, copies, strict=True):
                copy[ours] = variable.replace(onto(part, flat[ours].get_value().sharding))
            # Else the copies of all layers are under way at once.
            jax.block_until_ready([copy[ours].get_value() for copy in copies])
        if owned:
            array.delete()
    return [nnx.from_flat_state(copy) for copy in copies]


def copied(params: nnx.State, abstract: nnx.State) -> nnx.State:
    """`placed`, for one."""
    (copy,) = placed(params, [abstract])
    return copy


def whole_part(array: jax.Array, layer: int | None, dtype: jnp.dtype) -> jax.Array:
    """A copy in `dtype` of a layer of a stacked parameter, or (None) of a whole one, whole on each of its
    devices; of several processes all call it."""
    # Cast first and sent then: half the bytes travel where the copies are in bfloat16.
    split = isinstance(array.sharding, NamedSharding)
    sharding = replicated(array.sharding.mesh) if split else array.sharding
    if layer is None:
        return _part(sharding)(array, dtype=dtype)
    return _layer(sharding)(array, np.int32(layer), dtype=dtype)


@functools.cache
def _part(sharding: Sharding) -> Callable[..., jax.Array]:
    # A copy also where nothing changes: the trainer donates its own.
    def part(array: jax.Array, dtype: jnp.dtype) -> jax.Array:
        return jnp.array(array, dtype, copy=True)

    return jax.jit(part, static_argnames="dtype", out_shardings=sharding)


@functools.cache
def _layer(sharding: Sharding) -> Callable[..., jax.Array]:
    def part(stacked: jax.Array, layer: jax.Array, dtype: jnp.dtype) -> jax.Array:
        return jax.lax.dynamic_index_in_dim(stacked, layer, keepdims=False).astype(dtype)

    return jax.jit(part, static_argnames="dtype", out_shardings=sharding)


def onto(part: jax.Array, sharding: NamedSharding) -> jax.Array:
    """An array that each of its devices holds whole, on a sharding of this process's devices."""
    # From a device's own copy where it has one: left to device_put, a split copy goes by way of the host.
    held = {shard.device: shard.data for shard in part.addressable_shards}
    any_held = next(iter(held.values()))
    devices = sharding.mesh.devices.flat
    here = [held[device] if device in held else jax.device_put(any_held, device) for device in devices]
    whole = jax.make_array_from_single_device_arrays(part.shape, replicated(sharding.mesh), here)
    return jax.device_put(whole, sharding)


def check_shapes(params: nnx.State, abstract: nnx.State) -> None:
    """InputError for the first parameter that has another shape than in `abstract`, or is in one alone."""
    wanted, seen = (
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (abstract, params)
    )
    for name in sorted(wanted.keys() | seen.keys()):
        if wanted.get(name) != seen.get(name):
            raise InputError(
                f"parameter {name} has shape {seen.get(name)}, the model config wants {wanted.get(name)}"
            )


def parameter_count(params: nnx.State) -> int:
    """The number of parameters, also of an abstract tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
