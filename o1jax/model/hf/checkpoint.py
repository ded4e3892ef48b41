"""Published checkpoints: load into sharded arrays, and export what transformers loads.

load(export(x)) == x bit for bit. The names and layouts are names.py's, the settings config.py's, the files
files.py's and, of a GGUF file, gguf.py's. What lies in a bucket is fetched to the disk first; nothing is
downloaded from a hub.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from o1jax.buckets import on_disk
from o1jax.model.config import ModelConfig
from o1jax.model.hf import gguf
from o1jax.model.hf.config import config_from_hf, config_to_hf
from o1jax.model.hf.files import DTYPES, TensorSpec, open_tensors, read_json, write_tensors
from o1jax.model.hf.names import Entry, entries, hf_entries, hf_tensors
from o1jax.model.init import abstract_params
from o1jax.parallel.memory import check_fits
from o1jax.parallel.processes import report_slow
from o1jax.records import InputError

SHARD_BYTES = 5 << 30  # of a file, as transformers writes them
LARGE = 100 << 20  # bytes, from which on it is said how long they took to read
HEAD = "lm_head.weight"
# Tensors that some checkpoints hold and no model needs: rotary tables, and a head tied to the embedding.
IGNORED = ("rotary_emb.inv_freq", HEAD)


@dataclasses.dataclass(frozen=True)
class Published:
    """A checkpoint that is opened and not yet read: a directory of safetensors, or a GGUF file."""

    path: pathlib.Path
    fields: dict[str, Any]  # of its config.json
    tensors: dict[str, Any]  # name -> a lazy slice (files.open_tensors)
    metadata: Mapping[str, Any]  # a GGUF file's, its tokenizer among it; of a directory empty


def is_published(path: pathlib.Path) -> bool:
    """Whether it is what open_published opens, as far as its name says."""
    return path.suffix == gguf.SUFFIX or (path / "config.json").exists()


def open_published(path: str | os.PathLike) -> Published:
    """Opens it; InputError for what files.py and gguf.py refuse."""
    path = _on_disk(os.fspath(path))
    if path.suffix == gguf.SUFFIX:
        opened = gguf.open_gguf(path)
        return Published(path, opened.fields, opened.tensors, opened.metadata)
    return Published(path, read_json(path / "config.json"), open_tensors(path), {})


@functools.cache
def _on_disk(path: str) -> pathlib.Path:
    """The path, or where what it holds was fetched to from a bucket, once a process."""
    return pathlib.Path(on_disk(path, lambda file: not file.is_dir()))


def load(path: str | os.PathLike, mesh: Mesh, dtype: str = "") -> tuple[ModelConfig, nnx.State]:
    """(config, params) of what open_published opens, as load_published."""
    return load_published(open_published(path), mesh, dtype)


def load_published(published: Published, mesh: Mesh, dtype: str = "") -> tuple[ModelConfig, nnx.State]:
    """(config, params), in `dtype` (ModelConfig.kept_in; "" is float32), each device reading only its slices.

    Raises InputError for a missing or corrupt file, what config.py refuses, a tensor that is missing,
    unknown, quantized or of another shape than the config promises, and a model that is larger than the
    memory. Beside what the devices hold, the host holds one tensor of the files at a time.
    """
    began = time.monotonic()
    config = with_stored_head(published, config_from_hf(published.fields, "float32").kept_in(dtype))
    n_bytes = check_tensors(published.path, config, published.tensors)
    _, abstract = abstract_params(config, mesh)
    check_fits(published.path, abstract)
    flat = dict(nnx.to_flat_state(abstract))
    for entry in entries(config):
        read = read_stacked if entry.stacked else read_single
        flat[entry.path] = flat[entry.path].replace(
            read(published.tensors, entry, flat[entry.path].get_value())
        )
    if n_bytes >= LARGE:
        report_slow(f"reading weights: {n_bytes / 1e9:.1f} GB", time.monotonic() - began)
    return config, nnx.from_flat_state(flat)


def with_stored_head(published: Published, config: ModelConfig) -> ModelConfig:
    """The config, whose head is its own where one is stored that is not the embedding, whatever it says."""
    tensors = published.tensors
    if not config.tie_embeddings or HEAD not in tensors:
        return config
    # Some tools store the head of a tied model again, others a fine-tuned one without changing the config:
    # only the numbers tell.
    embedding, head = tensors["model.embed_tokens.weight"], tensors[HEAD]
    rows, step = head.get_shape()[0], 1 << 14
    same = embedding.get_shape() == head.get_shape() and all(
        np.array_equal(embedding[part], head[part])
        for part in (slice(start, min(start + step, rows)) for start in range(0, rows, step))
    )
    if same:
        return config
    logging.warning("%s: config ties the head to the embedding, yet %s differs: used", published.path, HEAD)
    return dataclasses.replace(config, tie_embeddings=False)


def check_tensors(directory: pathlib.Path, config: ModelConfig, tensors: dict[str, Any]) -> int:
    """The tensors' bytes; InputError for the first that is missing, of another shape, or unknown."""
    known, n_bytes = set(), 0
    itemsizes = {theirs: np.dtype(ours).itemsize for ours, theirs in DTYPES.items()}
    for entry, layer in hf_entries(config):
        name = entry.hf_name(layer)
        known.add(name)
        if name not in tensors:
            untied = ", and the config does not tie the head to the embedding" if name == HEAD else ""
            raise InputError(f"{directory}: tensor {name} is missing{untied}")
        if (seen := tuple(tensors[name].get_shape())) != entry.hf_shape:
            raise InputError(f"{directory}: tensor {name} is {seen}, config.json wants {entry.hf_shape}")
        if (kind := tensors[name].get_dtype()) not in itemsizes:
            raise InputError(f"{directory}: tensor {name} is {kind}; wanted one of {[*itemsizes]}")
        n_bytes += itemsizes[kind] * math.prod(seen)
    if unknown := sorted(name for name in set(tensors) - known if not name.endswith(IGNORED)):
        raise InputError(f"{directory}: tensor {unknown[0]} has no place in a {config.family} model")
    return n_bytes


def read_single(tensors: dict[str, Any], entry: Entry, struct: jax.ShapeDtypeStruct, layer=0) -> jax.Array:
    """One layer's array, or one that is not stacked, onto the struct's sharding."""
    theirs = tensors[entry.hf_name(layer)]

    def read(index: tuple[slice, ...]) -> np.ndarray:
        return read_layer(theirs, entry, index).astype(struct.dtype)

    return jax.make_array_from_callback(struct.shape, struct.sharding, read)


def read_stacked(tensors: dict[str, Any], entry: Entry, struct: jax.ShapeDtypeStruct) -> jax.Array:
    """The layers' arrays put into one on the devices, so that the host never holds more than a layer's."""
    of_layer = NamedSharding(struct.sharding.mesh, PartitionSpec(*struct.sharding.spec[1:]))
    like = jax.ShapeDtypeStruct(struct.shape[1:], struct.dtype, sharding=of_layer)
    zeros = jax.jit(jnp.zeros, static_argnums=(0, 1), out_shardings=struct.sharding)
    stacked = zeros(struct.shape, struct.dtype)
    # Donated, in place: two copies of the largest kernel may not fit beside the rest.
    put = jax.jit(put_layer, donate_argnums=0, out_shardings=struct.sharding)
    for layer in range(struct.shape[0]):
        stacked = put(stacked, read_single(tensors, entry, like, layer), layer)
        stacked.block_until_ready()  # else the host reads ahead, and holds what it has read
    return stacked


def put_layer(stacked: jax.Array, part: jax.Array, layer: jax.Array) -> jax.Array:
    """`stacked` with `part` as its layer `layer`."""
    return jax.lax.dynamic_update_index_in_dim(stacked, part, layer, axis=0)


def read_layer(theirs: Any, entry: Entry, index: tuple[slice, ...]) -> np.ndarray:
    """The part `index` of one layer of ours, reading only that part of the file."""
    sizes = [len(range(*part.indices(size))) for part, size in zip(index, entry.shape, strict=True)]
    if not entry.inputs and len(entry.shape) == len(entry.hf_shape):
        return theirs[index]
    if not entry.inputs:
        return theirs[merged(entry.shape, index)].reshape(sizes)
    rows = merged(entry.shape[entry.inputs :], index[entry.inputs :])
    columns = merged(entry.shape[: entry.inputs], index[: entry.inputs])
    return theirs[rows, columns].T.reshape(sizes)


def merged(shape: tuple[int, ...], index: tuple[slice, ...]) -> slice:
    """The slice of the flattened axes: only the first of them may be split."""
    # As heads are, and never head sizes (AXIS_RULES): then a device's part is one run of the file's rows.
    start, stop, _ = index[0].indices(shape[0])
    rest = int(np.prod(shape[1:]))
    assert all(part.indices(size) == (0, size, 1) for part, size in zip(index[1:], shape[1:], strict=True))
    return slice(start * rest, stop * rest)


def export(
    path: str | os.PathLike,
    config: ModelConfig,
    params: nnx.State,
    token_ids: Mapping[str, int | None] = {},
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes safetensors and config.json, for transformers and vLLM to load.

    `token_ids` is what config.json says of the tokenizer. Several files with an index above shard_bytes.
    config.json comes last: a directory without it is half-written. The host holds one tensor at a time.
    """
    directory = pathlib.Path(path)
    fields = config_to_hf(config)  # first: it refuses what no checkpoint can hold
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").unlink(missing_ok=True)
    specs = [
        TensorSpec(entry.hf_name(layer), config.param_dtype, entry.hf_shape)
        for entry, layer in hf_entries(config)
    ]
    arrays = (np.asarray(array) for _, array in hf_tensors(config, params))
    write_tensors(directory, specs, arrays, shard_bytes)
    (directory / "config.json").write_text(json.dumps({**fields, **token_ids}, indent=1), encoding="utf-8")
