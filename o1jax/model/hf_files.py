"""The safetensors files of a checkpoint directory: finding, opening and writing them.

Every fault of a file is an InputError that names it. Knows tensor names, not what they mean (hf_names.py).
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from o1jax.records import InputError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The JSON object in a file; InputError where it is missing or is none."""
    try:
        fields = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: is its directory a Hugging Face checkpoint?") from error
    except ValueError as error:
        raise InputError(f"{path} is corrupt: {error}") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path} is corrupt: a JSON object is wanted, found {type(fields).__name__}")
    return fields


def open_tensors(directory: pathlib.Path) -> dict[str, Any]:
    """{tensor name: a lazy slice} over one file or over the shards that the index names.

    A slice has get_shape() and reads only what is indexed.
    """
    if (directory / INDEX).exists():
        weight_map = read_json(directory / INDEX).get("weight_map", {})
        names = sorted(set(weight_map.values()))
    else:
        names, weight_map = [SINGLE], {}
    tensors = {}
    for name in names:
        file = open_file(directory / name)
        tensors.update({key: file.get_slice(key) for key in file.keys()})
    if lost := sorted(set(weight_map) - set(tensors)):
        raise InputError(f"{directory / weight_map[lost[0]]} lacks {lost[0]}, which the index promises")
    return tensors


def open_file(path: pathlib.Path) -> Any:
    """An open safetensors file; InputError for a missing, truncated or foreign one."""
    try:
        return safe_open(path, framework="numpy")
    except FileNotFoundError as error:
        raise InputError(f"checkpoint file {path} is missing") from error
    except SafetensorError as error:
        raise InputError(f"checkpoint file {path} is corrupt or truncated: {error}") from error


def write_tensors(
    directory: pathlib.Path, tensors: Iterable[tuple[str, np.ndarray]], shard_bytes: int
) -> None:
    """Writes tensors as one file, or as shards of at most shard_bytes (but one tensor) with an index.

    Holds one shard in memory at a time.
    """
    shards: list[list[str]] = []
    held: dict[str, np.ndarray] = {}

    def flush() -> None:
        save_file(held, directory / part_name(len(shards)), metadata={"format": "pt"})
        shards.append(list(held))
        held.clear()

    total = 0
    for name, array in tensors:
        if held and sum(a.nbytes for a in held.values()) + array.nbytes > shard_bytes:
            flush()
        held[name] = np.ascontiguousarray(array)
        total += array.nbytes
    flush()
    name_shards(directory, shards, total)


def part_name(number: int) -> str:
    """A shard's name until the number of shards is known."""
    return f"model-part-{number}.safetensors"


def name_shards(directory: pathlib.Path, shards: list[list[str]], total: int) -> None:
    """Gives the written parts their final names, and writes the index where there are several."""
    for stale in (INDEX, SINGLE):  # of an earlier export: transformers would prefer it
        (directory / stale).unlink(missing_ok=True)
    if len(shards) == 1:
        (directory / part_name(0)).replace(directory / SINGLE)
        return
    weight_map = {}
    for number, names in enumerate(shards):
        final = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (directory / part_name(number)).replace(directory / final)
        weight_map.update(dict.fromkeys(names, final))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / INDEX).write_text(json.dumps(index, indent=1))
