"""A GGUF file (llama.cpp's format) read as if it were a Hugging Face checkpoint.

The format and its quantizations are the package gguf's; here its names become Hugging Face's, which names.py
knows, its metadata a config.json, and its rows are dequantized as they are asked for. The tokenizer that is
in the metadata is made in prompts/gguf_tokenizer.py. Writes no GGUF.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np

from o1jax.model.rope import RopeScaling, frequencies
from o1jax.records import InputError

SUFFIX = ".gguf"
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
# A tensor's name in the file -> in a Hugging Face checkpoint; `blk.7.` stands for `model.layers.7.`.
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
NAME = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")
ROPE_FACTORS = "rope_freqs.weight"  # of Llama 3.1: what each frequency is divided by
# The stretches that Meta published, of which a file holds the factors and not the settings.
LLAMA3_ROPE = [
    RopeScaling("llama3", factor, original_context=8192, low_freq_factor=1.0, high_freq_factor=4.0)
    for factor in (8.0, 32.0)
]
BLOCK_BYTES = 32 << 20  # of values that are dequantized at once


@dataclasses.dataclass(frozen=True)
class Gguf:
    """What a file holds. Nothing of the weights is read before a tensor is indexed."""

    fields: dict[str, Any]  # as a config.json's
    tensors: dict[str, GgufTensor]  # by Hugging Face's names; unknown ones keep theirs
    metadata: Mapping[str, Any]  # name -> number, text, or list of them


@dataclasses.dataclass(frozen=True)
class GgufTensor:
    """A matrix or vector of the file; reads and dequantizes what is indexed. Has what a slice of safetensors
    has (files.open_tensors)."""

    path: pathlib.Path
    kind: gguf.GGMLQuantizationType
    shape: tuple[int, ...]  # rows first, as in a checkpoint
    row_bytes: int
    offset: int  # of its first byte
    heads: int = 0  # of llama's q and k: their rows are put back in order; 0: they are in order

    def get_shape(self) -> list[int]:
        return list(self.shape)

    def get_dtype(self) -> str:
        return "F32"  # what it is dequantized to, whatever it is stored as

    def __getitem__(self, index: slice | tuple[slice, ...]) -> np.ndarray:
        """Rows, or rows and columns, in float32."""
        rows, *columns = index if isinstance(index, tuple) else (index,)
        if len(self.shape) == 1:
            return self._dequantized(0, 1)[0][rows]
        start, stop, _ = rows.indices(self.shape[0])
        values = self._dequantized(start, stop)
        if self.heads:
            values = in_half_order(values, self.shape[0] // self.heads)
        return values[:, *columns]

    def _dequantized(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop; a vector is one row."""
        values = np.empty((stop - start, self.shape[-1]), np.float32)
        # In blocks: the package makes a list of parts beside its result, twice the largest tensor. Read, not
        # mapped: the pages of a mapped file would count as this process's memory until it is closed.
        step = max(1, BLOCK_BYTES // values[:1].nbytes)
        with self.path.open("rb") as file:
            file.seek(self.offset + start * self.row_bytes)
            for row in range(0, len(values), step):
                part = values[row : row + step]
                stored = np.fromfile(file, np.uint8, len(part) * self.row_bytes)
                part[:] = gguf.dequantize(stored.reshape(len(part), -1), self.kind)
        return values


def in_half_order(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """llama.cpp turns the pairs (2i, 2i + 1) of a head of llama's, and its files have their rows in that
    order; ours are (i, i + H/2), as Hugging Face's. Takes whole heads."""
    assert len(rows) % head_dim == 0, "only whole heads can be put in order"
    pairs = rows.reshape(-1, head_dim // 2, 2, rows.shape[1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def open_gguf(path: str | os.PathLike) -> Gguf:
    """The file's config, tensors and metadata.

    Raises InputError, one line, for a missing, truncated or foreign file, and an architecture, quantization
    or rotary setting that is not supported.
    """
    path = pathlib.Path(path)
    reader = open_reader(path)
    metadata = {
        name: field.contents()
        for name, field in reader.fields.items()
        # Plain values: an array of arrays has no reader in the package.
        if field.types.count(gguf.GGUFValueType.ARRAY) <= 1
    }
    if metadata.get("split.count", 0) > 1:
        parts = metadata["split.count"]
        raise InputError(f"{path} is one of {parts} parts of a model; llama-gguf-split --merge joins them")
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise InputError(f"{path} is of architecture {architecture!r}, wanted one of {known}")
    found = {tensor.name: tensor for tensor in reader.tensors}
    factors = found.pop(ROPE_FACTORS, None)
    shapes = {name: tuple(map(int, reversed(tensor.shape))) for name, tensor in found.items()}
    try:
        fields = fields_of(metadata, architecture, shapes)
        if factors is not None:
            fields["rope_scaling"] = llama3_scaling(factors.data, fields)
    except KeyError as error:
        raise InputError(f"{path} has no {error.args[0]}, which a {architecture} model needs") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    heads = {"attn_q": fields["num_attention_heads"], "attn_k": fields["num_key_value_heads"]}
    tensors = {}
    for name, tensor in found.items():
        check_kind(path, name, tensor.tensor_type)
        ours, part = hf_name(name)
        is_turned = architecture == "llama" and part in heads and len(shapes[name]) == 2
        tensors[ours] = GgufTensor(
            path,
            tensor.tensor_type,
            shapes[name],
            row_bytes=int(tensor.n_bytes) // math.prod(shapes[name][:-1]),
            offset=int(tensor.data_offset),
            heads=heads[part] if is_turned else 0,
        )
    return Gguf(fields, tensors, metadata)


def open_reader(path: pathlib.Path) -> gguf.GGUFReader:
    """The package's reader; InputError where it cannot read the file."""
    if not path.is_file():
        raise InputError(f"{path}: no such file, wanted a policy in GGUF")
    try:
        reader = gguf.GGUFReader(path)
    # What it meets where a file is cut off or is something else.
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is no whole GGUF file ({reason:.100}); download it again") from error
    if reader.byte_order != "I":
        raise InputError(f"{path} is a GGUF file of the other byte order, which is not supported")
    return reader


def check_kind(path: pathlib.Path, name: str, kind: gguf.GGMLQuantizationType) -> None:
    """InputError for a quantization that the package cannot undo."""
    # Asked with one empty block: the package has no list of what it can undo.
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    try:
        gguf.dequantize(np.zeros((1, block_bytes), np.uint8), kind)
    except NotImplementedError as error:
        raise InputError(f"{path}: tensor {name} is {kind.name}, which gguf cannot dequantize") from error


def hf_name(name: str) -> tuple[str, str]:
    """(the name in a Hugging Face checkpoint, the part that NAMES knows); an unknown one stays as it is."""
    found = NAME.fullmatch(name)
    if found is None or found[2] not in NAMES:
        return name, ""
    layer, part, kind = found.groups()
    return ("" if layer is None else f"model.layers.{layer}.") + f"{NAMES[part]}.{kind}", part


def fields_of(
    metadata: Mapping[str, Any], architecture: str, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """The config.json that the metadata says; KeyError for what is missing, InputError for what is not
    supported."""
    own = {name.removeprefix(f"{architecture}."): value for name, value in metadata.items()}

    def wanted(name: str) -> Any:
        if name not in own:
            raise KeyError(f"{architecture}.{name}")
        return own[name]

    if own.get("expert_count"):
        raise InputError(f"a model of {own['expert_count']} experts is not supported: only dense ones are")
    if "token_embd.weight" not in shapes:
        raise KeyError("tensor token_embd.weight")
    width, heads = wanted("embedding_length"), wanted("attention.head_count")
    head_dim = own.get("attention.key_length", width // heads)
    if (rotated := own.get("rope.dimension_count", head_dim)) != head_dim:
        raise InputError(f"{rotated} of {head_dim} dimensions of a head are rotated; only all are supported")
    return {
        "architectures": [ARCHITECTURES[architecture]],
        "model_type": architecture,
        "vocab_size": shapes["token_embd.weight"][0],
        "hidden_size": width,
        "intermediate_size": wanted("feed_forward_length"),
        "num_hidden_layers": wanted("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": own.get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": wanted("context_length"),
        "rms_norm_eps": wanted("attention.layer_norm_rms_epsilon"),
        "rope_theta": own.get("rope.freq_base", 10_000.0),
        "rope_scaling": scaling_of(own),
        "tie_word_embeddings": "output.weight" not in shapes,
        "hidden_act": "silu",
    }


def scaling_of(own: Mapping[str, Any]) -> dict[str, Any] | None:
    """rope_scaling of a config.json; types that config.py does not know are refused there."""
    kind = own.get("rope.scaling.type", "none")
    if kind == "none":
        return None
    names = {"factor": "factor", "original_max_position_embeddings": "original_context_length"}
    given = {ours: own.get(f"rope.scaling.{theirs}") for ours, theirs in names.items()}
    if kind == "linear":
        del given["original_max_position_embeddings"]
    return {"rope_type": kind, **given}


def llama3_scaling(factors_R: np.ndarray, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The rope_scaling whose frequencies are the plain ones divided by these factors; InputError if none of
    LLAMA3_ROPE is it."""
    theta, head_dim = fields["rope_theta"], fields["head_dim"]
    plain_R = frequencies(theta, head_dim, RopeScaling())
    for scaling in LLAMA3_ROPE:
        ours_R = plain_R / frequencies(theta, head_dim, scaling)
        if ours_R.shape == factors_R.shape and np.allclose(ours_R, factors_R, rtol=1e-4):
            return {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_context,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
            }
    raise InputError(f"{ROPE_FACTORS} are not those of Llama 3.1 or 3.2, and others are not supported")
