"""The trainer's parameters made the engine's: checked, placed on its device, cast, copied.

Knows nothing of requests or caches.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from o1jax.model.init import layers_apart
from o1jax.records import InputError


def placed(params: nnx.State, abstract: nnx.State, *, apart: bool = False) -> nnx.State:
    """A copy of `params` with the dtypes and shardings of `abstract`, cast where they are, and with `apart`
    taken apart by layers as it is. Shapes must be the same (check_shapes)."""
    copies = cast(params, tuple(leaf.dtype for leaf in jax.tree.leaves(abstract)), apart)
    return jax.device_put(copies, jax.tree.map(lambda leaf: leaf.sharding, abstract))


def check_shapes(params: nnx.State, abstract: nnx.State) -> None:
    """InputError for the first parameter that has another shape than in `abstract`, or is in one alone."""
    wanted, seen = shapes(abstract), shapes(params)
    for name in sorted(wanted.keys() | seen.keys()):
        if wanted.get(name) != seen.get(name):
            raise InputError(
                f"parameter {name} has shape {seen.get(name)}, the model config wants {wanted.get(name)}"
            )


def shapes(params: nnx.State) -> dict[str, tuple[int, ...]]:
    """Shapes by the parameters' paths."""
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(params)}


@functools.partial(jax.jit, static_argnames=("dtypes", "apart"))
def cast(params: nnx.State, dtypes: tuple[jnp.dtype, ...], apart: bool = False) -> nnx.State:
    """New arrays of these dtypes: the trainer may donate its own to its next step."""
    leaves, structure = jax.tree.flatten(layers_apart(params) if apart else params)
    copies = [jnp.array(leaf, dtype, copy=True) for leaf, dtype in zip(leaves, dtypes, strict=True)]
    return jax.tree.unflatten(structure, copies)
