"""A model's parameters: their shapes, drawing them straight into their shards, copying them for an engine.

Does not load weights; that is hf/.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from o1jax.model.attention import choose
from o1jax.model.config import ModelConfig
from o1jax.model.transformer import Transformer
from o1jax.parallel.mesh import param_shardings
from o1jax.records import InputError

NO_PARAMS = nnx.State({})
# LLVM's level 3 takes a second for each draw of random numbers that level 2 compiles in a sixth.
QUICK_COMPILE = {"xla_backend_optimization_level": 2}


def abstract_params(
    config: ModelConfig, mesh: Mesh, *, apart: bool = False
) -> tuple[nnx.GraphDef, nnx.State]:
    """(graphdef, params) with ShapeDtypeStructs that carry shardings: nothing is allocated.

    The graphdef's model has the attention kernel that its config's setting means on this mesh. `apart`: as
    layers_apart makes them.
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


def copied(params: nnx.State, abstract: nnx.State, *, apart: bool = False) -> nnx.State:
    """A copy of `params` with the dtypes and shardings of `abstract`; with `apart` layers are taken
    apart. Shapes must be the same (check_shapes)."""
    # Cast where they are, then sent: one jit cannot have its arguments on the trainer's mesh and its
    # results on the engine's, and half the bytes travel where the engine computes in bfloat16.
    copies = cast(params, tuple(leaf.dtype for leaf in jax.tree.leaves(abstract)), apart)
    return jax.device_put(copies, jax.tree.map(lambda leaf: leaf.sharding, abstract))


def taken(params: nnx.State, abstract: nnx.State) -> nnx.State:
    """`params` with the dtypes and shardings of `abstract`, layers taken apart, in their place: each is
    deleted once it is copied, so that no more than one of them is there twice."""
    wanted, ours = dict(nnx.to_flat_state(abstract)), {}
    for path, variable in nnx.to_flat_state(params):
        array, layers = variable[...], range(variable.shape[0] if path[0] == "blocks" else 0)
        paths = [("blocks", layer, *path[1:]) for layer in layers] or [path]
        like = wanted[paths[0]].get_value()
        parts = layers_of(array, like.dtype) if layers else [array.astype(like.dtype)]
        parts = jax.device_put(parts, like.sharding)
        jax.block_until_ready(parts)  # else the copies of all of them are under way at once
        ours |= {path: variable.replace(part) for path, part in zip(paths, parts, strict=True)}
        if layers or parts[0].dtype != array.dtype:  # one that needs no change is no copy
            array.delete()
    return nnx.from_flat_state(ours)


@functools.partial(jax.jit, static_argnames=("dtype",))
def layers_of(stacked: jax.Array, dtype: jnp.dtype) -> list[jax.Array]:
    """Each layer's part of a stacked parameter, in `dtype`."""
    return [stacked[layer].astype(dtype) for layer in range(stacked.shape[0])]


@functools.partial(jax.jit, static_argnames=("dtypes", "apart"))
def cast(params: nnx.State, dtypes: tuple[jnp.dtype, ...], apart: bool) -> nnx.State:
    """New arrays of these dtypes, copies also where the dtype is the same: the trainer donates its own."""
    leaves, structure = jax.tree.flatten(layers_apart(params) if apart else params)
    copies = [jnp.array(leaf, dtype, copy=True) for leaf, dtype in zip(leaves, dtypes, strict=True)]
    return jax.tree.unflatten(structure, copies)


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


def layers_apart(params: nnx.State) -> nnx.State:
    """Stacked parameters as those of a Transformer whose layers are apart; use it inside jit."""
    apart = {}
    for path, variable in nnx.to_flat_state(params):
        if path[0] != "blocks":
            apart[path] = variable
            continue
        for index in range(variable.shape[0]):
            apart[("blocks", index, *path[1:])] = variable.replace(variable[...][index])
    return nnx.from_flat_state(apart)


def parameter_count(params: nnx.State) -> int:
    """The number of parameters, also of an abstract tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
