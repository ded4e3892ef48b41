"""The safetensors files of a checkpoint directory: finding, opening and writing them.

Every fault of a file is an InputError that names it. Knows tensor names, not what they mean (names.py).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from o1jax.records import InputError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}  # numpy's name -> the file's


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The JSON object in a file; InputError where it is missing or is none."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: is its directory a Hugging Face checkpoint?") from error
    except ValueError as error:
        raise InputError(f"{path} is corrupt: {error}") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path} is corrupt: a JSON object is wanted, found {type(fields).__name__}")
    return fields


def open_tensors(directory: pathlib.Path) -> dict[str, Any]:
    """{tensor name: a lazy slice} over one file or over the shards that the index names.

    A slice has get_shape() and get_dtype(), and reads only what is indexed. InputError where there are both:
    other readers differ in which one they take.
    """
    if (directory / INDEX).exists():
        weight_map = read_json(directory / INDEX).get("weight_map", {})
        names = sorted(set(weight_map.values()))
        if (directory / SINGLE).exists() and names != [SINGLE]:
            raise InputError(
                f"{directory} has {SINGLE} and beside it an index of {len(names)} other files: "
                f"delete the one that is not the model ({INDEX}, or {SINGLE})"
            )
    else:
        names, weight_map = [SINGLE], {}
    tensors = {}
    for name in names:
        path = directory / name
        tensors.update({key: FileSlice(path, key) for key in open_file(path).keys()})
    if lost := sorted(set(weight_map) - set(tensors)):
        raise InputError(f"{directory / weight_map[lost[0]]} lacks {lost[0]}, which the index promises")
    return tensors


@dataclasses.dataclass(frozen=True)
class FileSlice:
    """A tensor of a safetensors file, which is opened for each look: of a file that stays mapped, the pages
    that were read would count as this process's memory beside what was made of them."""

    path: pathlib.Path
    name: str

    def get_shape(self) -> list[int]:
        return open_file(self.path).get_slice(self.name).get_shape()

    def get_dtype(self) -> str:
        return open_file(self.path).get_slice(self.name).get_dtype()

    def __getitem__(self, index: Any) -> np.ndarray:
        return open_file(self.path).get_slice(self.name)[index]


def open_file(path: pathlib.Path) -> Any:
    """An open safetensors file; InputError for a missing, truncated or foreign one."""
    try:
        return safe_open(path, framework="numpy")
    except FileNotFoundError as error:
        raise InputError(f"checkpoint file {path} is missing") from error
    except SafetensorError as error:
        raise InputError(f"checkpoint file {path} is corrupt or truncated: {error}") from error


class TensorSpec(NamedTuple):
    """What a file's header says of a tensor."""

    name: str
    dtype: str  # numpy's name
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def write_tensors(
    directory: pathlib.Path, specs: Sequence[TensorSpec], arrays: Iterable[np.ndarray], shard_bytes: int
) -> None:
    """Writes `arrays`, which are as `specs` say, as one file, or as shards of at most shard_bytes (but one
    tensor) with an index, in place of the checkpoint that was there.

    Headers are made from the specs, so that one array is held at a time.
    """
    for stale in (*directory.glob("model-*-of-*.safetensors"), directory / INDEX, directory / SINGLE):
        stale.unlink(missing_ok=True)
    shards, iterator = in_shards(specs, shard_bytes), iter(arrays)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards):
        name = SINGLE if len(shards) == 1 else f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        write_file(directory / name, shard, itertools.islice(iterator, len(shard)))
        weight_map |= {spec.name: name for spec in shard}
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(spec.nbytes for spec in specs)}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")


def in_shards(specs: Sequence[TensorSpec], shard_bytes: int) -> list[list[TensorSpec]]:
    """The specs, in order, cut where a file would grow beyond shard_bytes."""
    shards: list[list[TensorSpec]] = [[]]
    for spec in specs:
        if shards[-1] and sum(held.nbytes for held in shards[-1]) + spec.nbytes > shard_bytes:
            shards.append([])
        shards[-1].append(spec)
    return shards


def write_file(path: pathlib.Path, specs: Sequence[TensorSpec], arrays: Iterable[np.ndarray]) -> None:
    """One safetensors file: the header's length, the header in JSON, then the arrays' bytes in order."""
    # By hand: safetensors' own writer wants all arrays of a file in the host's memory at once.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for spec in specs:
        start, end = end, end + spec.nbytes
        header[spec.name] = {
            "dtype": DTYPES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the arrays begin at a multiple of 8 bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for spec, array in zip(specs, arrays, strict=True):
            assert (array.dtype.name, array.shape) == (spec.dtype, spec.shape), f"{spec.name} is not as said"
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
