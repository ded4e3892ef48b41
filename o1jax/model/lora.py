"""LoRA (arXiv 2106.09685) and QLoRA: small trained adapters beside the frozen kernels of the layers.

The model is the base's own, with an Adapter at each target (transformer.py), so that the frozen parameters
are also the reference model: with `switched_off` adapters. Trained adapters are merged into their kernels, or
written beside them. Trains nothing.

qwix makes the 4 and 8 bit kernels; its adapters are not used, because it finds weights by following arrays
from a module's `__call__` and refuses a layer with other einsums, another method (decoding) or kernels that
are reshaped before their product.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import json
import math
from collections.abc import Iterator
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import qwix
from etils import epath
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from safetensors.numpy import save

from o1jax.model.config import ModelConfig
from o1jax.model.hf.names import Entry, entries
from o1jax.model.init import abstract_params
from o1jax.model.quantized import dense, quantize, quantized_like
from o1jax.model.transformer import Adapter, Transformer
from o1jax.parallel.mesh import spec_of
from o1jax.parallel.traced import exact
from o1jax.records import InputError
from o1jax.writing import write_whole

Base = Literal["as_is", "bfloat16", "int8", "nf4"]
DOWN, UP = "down_IR", "up_RO"  # an Adapter's parameters


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """Which kernels get adapters, and what the others are kept in."""

    rank: int = 0  # of the adapters; 0: there are none, all parameters are trained
    alpha: float = 16.0  # what an adapter adds is scaled by alpha / rank
    # Patterns (fnmatch) of kernels: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj.
    targets: tuple[str, ...] = ("*",)
    base: Base = "as_is"  # what the seven kernels, targets or not, are kept in

    def __post_init__(self):
        if self.rank < 0:
            raise InputError(f"lora.rank: saw {self.rank}, wanted 0 (train all parameters) or more")
        if self.base not in get_args(Base):
            raise InputError(f"lora.base: saw {self.base!r}, wanted one of {', '.join(get_args(Base))}")
        if self.base != "as_is" and not self.rank:
            raise InputError(f"lora.base: saw {self.base!r} with rank 0, wanted as_is: all is trained")


def target_name(entry: Entry) -> str:
    """The name by which `targets` know a kernel: Hugging Face's, q_proj and so on."""
    return entry.name.split(".")[-2]


def kernels(config: ModelConfig) -> list[Entry]:
    """The seven kernels of the layers."""
    return [entry for entry in entries(config) if entry.stacked and entry.inputs]


def targets(config: ModelConfig, settings: LoraSettings) -> list[Entry]:
    """The kernels that get an adapter; InputError for a pattern that meets none."""
    names = {target_name(entry): entry for entry in kernels(config)}
    for pattern in settings.targets:
        if not fnmatch.filter(names, pattern):
            raise InputError(f"lora.targets: {pattern!r} meets none of {', '.join(names)}")
    met = {name for pattern in settings.targets for name in fnmatch.filter(names, pattern)}
    return [entry for name, entry in names.items() if name in met]


def abstract_adapted(
    config: ModelConfig, settings: LoraSettings, mesh: Mesh
) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """(graphdef, adapters, frozen) with ShapeDtypeStructs that carry shardings: nothing is allocated."""
    graphdef, params = abstract_params(config, mesh)
    model = nnx.merge(graphdef, params)
    for entry in targets(config, settings):
        attach(model, entry, config.n_layers, settings, mesh)
    graphdef, adapters, frozen = nnx.split(model, nnx.LoRAParam, ...)
    flat = dict(nnx.to_flat_state(frozen))
    for entry in kernels(config):
        kernel = flat[entry.path].get_value()
        flat[entry.path] = flat[entry.path].replace(converted_like(kernel, settings.base, entry.inputs))
    return graphdef, adapters, nnx.from_flat_state(flat)


def attach(model: Transformer, entry: Entry, n_layers: int, settings: LoraSettings, mesh: Mesh) -> None:
    """Gives the stacked kernel of `entry` an adapter of shapes."""
    _, room, name = entry.path
    module = {"attention": model.blocks.attention, "ff": model.blocks.ff}[room]
    kernel_axes = tuple(nnx.state(module)[name].get_metadata("axes"))

    def parameter(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> nnx.LoRAParam:
        sharding = NamedSharding(mesh, spec_of(("layers", *axes)))
        struct = jax.ShapeDtypeStruct((n_layers, *shape), jnp.float32, sharding=sharding)
        return nnx.LoRAParam(struct, axes=axes)

    inputs, rank = entry.inputs, settings.rank
    module.adapters[name] = Adapter(
        parameter((*entry.shape[:inputs], rank), (*kernel_axes[:inputs], None)),
        parameter((rank, *entry.shape[inputs:]), (None, *kernel_axes[inputs:])),
        settings.alpha / rank,
    )


def converted_like(kernel: jax.ShapeDtypeStruct, base: str, axis: int) -> jax.ShapeDtypeStruct | qwix.QArray:
    """The shape that `converted` gives a kernel."""
    if base in ("int8", "nf4"):
        return quantized_like(kernel, base, axis)
    dtype = jnp.bfloat16 if base == "bfloat16" else kernel.dtype
    return jax.ShapeDtypeStruct(kernel.shape, dtype, sharding=kernel.sharding)


def converted(kernel: jax.Array, base: str, axis: int) -> jax.Array | qwix.QArray:
    """A stacked kernel as the frozen base keeps it; `axis` is its last input's."""
    if base in ("int8", "nf4"):
        return quantize(kernel, base, axis)
    return kernel.astype(jnp.bfloat16) if base == "bfloat16" else kernel


def adapted(
    config: ModelConfig, params: nnx.State, settings: LoraSettings, seed: int, mesh: Mesh
) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """(graphdef, adapters, frozen): the model of `params` with adapters that add nothing yet.

    frozen holds the arrays of `params` themselves, but for kernels that `base` converts, one at a time.
    """
    graphdef, like, frozen_like = abstract_adapted(config, settings, mesh)
    flat, flat_like = dict(nnx.to_flat_state(params)), dict(nnx.to_flat_state(frozen_like))
    for entry in kernels(config) if settings.base != "as_is" else ():
        convert = functools.partial(converted, base=settings.base, axis=entry.inputs)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, flat_like[entry.path].get_value())
        kernel = jax.jit(convert, out_shardings=shardings)(flat[entry.path].get_value())
        flat[entry.path] = flat[entry.path].replace(kernel)
    return graphdef, init_adapters(like, seed), nnx.from_flat_state(flat)


def init_adapters(like: nnx.State, seed: int) -> nnx.State:
    """Adapters whose way down is uniform within 1 / sqrt(inputs), and whose way up is 0."""

    def draw(key: jax.Array) -> nnx.State:
        flat = dict(nnx.to_flat_state(like))
        for number, (path, variable) in enumerate(flat.items()):
            shape = variable.get_value().shape  # L, inputs..., R on the way down
            # PEFT's draw, Kaiming's with a = sqrt(5); with a way up of 0 the first step begins at the base.
            bound = 0.0 if path[-1] == UP else math.prod(shape[1:-1]) ** -0.5
            value = jax.random.uniform(jax.random.fold_in(key, number), shape, jnp.float32, -bound, bound)
            flat[path] = variable.replace(value)
        return nnx.from_flat_state(flat)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, like)
    return jax.jit(draw, out_shardings=shardings)(jax.random.key(seed))


def switched_off(adapters: nnx.State) -> nnx.State:
    """Adapters that add nothing: with them the model is its base."""
    return jax.tree.map(jnp.zeros_like, adapters)


def merged(
    config: ModelConfig, adapters: nnx.State, frozen: nnx.State, settings: LoraSettings, mesh: Mesh
) -> nnx.State:
    """The parameters of a plain model that computes the same, in the config's dtype, kernel by kernel.

    A base of 4 or 8 bits stays rounded as it was trained upon: the merged model is the one that was trained.
    """
    _, like = abstract_params(config, mesh)
    flat, flat_like = dict(nnx.to_flat_state(frozen)), dict(nnx.to_flat_state(like))
    small, adapted = dict(nnx.to_flat_state(adapters)), targets(config, settings)
    for entry in kernels(config):
        ways = [small[path].get_value() for path in adapter_paths(entry)] if entry in adapted else []
        struct = flat_like[entry.path].get_value()
        merge = functools.partial(merged_kernel, settings.alpha / settings.rank, struct.dtype)
        merge = jax.jit(merge, out_shardings=struct.sharding)
        flat[entry.path] = flat[entry.path].replace(merge(flat[entry.path].get_value(), *ways))
    return nnx.from_flat_state(flat)


def adapter_paths(entry: Entry) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The paths of the ways down and up of a kernel's adapter in the tree."""
    adapter = (*entry.path[:-1], "adapters", entry.path[-1])
    return (*adapter, DOWN), (*adapter, UP)


def merged_kernel(scale: float, dtype, kernel, *ways: jax.Array) -> jax.Array:
    """A stacked kernel plus every layer's scale * down @ up, where it has an adapter, summed in float32."""
    value = dense(kernel, jnp.float32)
    if ways:
        down_LIR, up_LRO = ways
        L, R = down_LIR.shape[0], down_LIR.shape[-1]
        down_LIR, up_LRO = down_LIR.reshape(L, -1, R), up_LRO.reshape(L, R, -1)
        value += scale * jnp.matmul(down_LIR, up_LRO, precision=exact(down_LIR)).reshape(value.shape)
    return value.astype(dtype)


def save_adapters(
    directory: epath.Path, config: ModelConfig, adapters: nnx.State, settings: LoraSettings
) -> None:
    """Writes adapters alone, as PEFT reads them: adapter_model.safetensors and adapter_config.json."""
    tensors = {name: np.ascontiguousarray(array) for name, array in peft_tensors(config, adapters, settings)}
    write_whole(directory / "adapter_model.safetensors", save(tensors, {"format": "pt"}))
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "target_modules": [target_name(entry) for entry in targets(config, settings)],
        "base_model_name_or_path": None,
        "bias": "none",
    }
    write_whole(directory / "adapter_config.json", json.dumps(fields, indent=1))


def peft_tensors(
    config: ModelConfig, adapters: nnx.State, settings: LoraSettings
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of every adapter of every layer: lora_A is [R, inputs], lora_B [outputs, R]."""
    flat = dict(nnx.to_flat_state(adapters))
    for entry in targets(config, settings):
        down_LIR, up_LRO = (np.asarray(flat[path].get_value()) for path in adapter_paths(entry))
        for layer in range(config.n_layers):
            name = f"base_model.model.{entry.hf_name(layer).removesuffix('.weight')}"
            yield f"{name}.lora_A.weight", down_LIR[layer].reshape(-1, settings.rank).T
            yield f"{name}.lora_B.weight", up_LRO[layer].reshape(settings.rank, -1).T
