"""What becomes of adapters: switched off, merged into their kernels, or written beside them.

Trains nothing; what adapters are is lora.py.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import Mesh
from safetensors.numpy import save

from o1jax.model.config import ModelConfig
from o1jax.model.hf_names import Entry
from o1jax.model.init import abstract_params
from o1jax.model.lora import DOWN, UP, LoraSettings, kernels, target_name, targets
from o1jax.model.quantized import dense
from o1jax.parallel.precision import exact


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
        ways = [small[path].get_value() for path in places(entry)] if entry in adapted else []
        struct = flat_like[entry.path].get_value()
        merge = functools.partial(merged_kernel, settings.alpha / settings.rank, struct.dtype)
        merge = jax.jit(merge, out_shardings=struct.sharding)
        flat[entry.path] = flat[entry.path].replace(merge(flat[entry.path].get_value(), *ways))
    return nnx.from_flat_state(flat)


def places(entry: Entry) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Where the ways down and up of a kernel's adapter are."""
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
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.ascontiguousarray(array) for name, array in peft_tensors(config, adapters, settings)}
    (directory / "adapter_model.safetensors").write_bytes(save(tensors, {"format": "pt"}))
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "target_modules": [target_name(entry) for entry in targets(config, settings)],
        "base_model_name_or_path": None,
        "bias": "none",
    }
    (directory / "adapter_config.json").write_text(json.dumps(fields, indent=1))


def peft_tensors(
    config: ModelConfig, adapters: nnx.State, settings: LoraSettings
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of every adapter of every layer: lora_A is [R, inputs], lora_B [outputs, R]."""
    flat = dict(nnx.to_flat_state(adapters))
    for entry in targets(config, settings):
        down_LIR, up_LRO = (np.asarray(flat[path].get_value()) for path in places(entry))
        for layer in range(config.n_layers):
            name = f"base_model.model.{entry.hf_name(layer).removesuffix('.weight')}"
            yield f"{name}.lora_A.weight", down_LIR[layer].reshape(-1, settings.rank).T
            yield f"{name}.lora_B.weight", up_LRO[layer].reshape(settings.rank, -1).T
