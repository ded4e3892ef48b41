"""Writes a model of ours as llama.cpp's converter would: its names, metadata and order of llama's rows."""

import gguf
import numpy as np

from o1jax.model.hf.gguf import NAMES
from o1jax.model.hf.names import hf_tensors
from tests.model.tiny_models import perturbed

THEIRS = {ours: theirs for theirs, ours in NAMES.items()}
KINDS = gguf.GGMLQuantizationType


def theirs_of(name: str) -> str:
    """A Hugging Face name as the file has it."""
    part, kind = name.removeprefix("model.layers.").rsplit(".", 1)
    layer, _, rest = part.partition(".")
    return f"blk.{layer}.{THEIRS[rest]}.{kind}" if layer.isdigit() else f"{THEIRS[part]}.{kind}"


def in_pairs(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows (i, i + H/2) of each head as rows (2i, 2i + 1)."""
    return rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(path, config, kind=KINDS.F32, metadata=(), more=()):
    """Writes the config's perturbed parameters, matrices as `kind`; {name: written array} in float32, by
    Hugging Face's names. `metadata` replaces entries (None: leaves them out), `more` are further tensors."""
    arch = config.family
    entries = {
        f"{arch}.block_count": config.n_layers,
        f"{arch}.context_length": config.max_context,
        f"{arch}.embedding_length": config.d_model,
        f"{arch}.feed_forward_length": config.d_ff,
        f"{arch}.attention.head_count": config.n_heads,
        f"{arch}.attention.head_count_kv": config.n_kv_heads,
        f"{arch}.attention.key_length": config.head_dim,
        f"{arch}.attention.layer_norm_rms_epsilon": config.rms_eps,
        f"{arch}.rope.freq_base": config.rope_theta,
        **dict(metadata),
    }
    writer = gguf.GGUFWriter(path, entries.pop("general.architecture", arch))
    for name, value in entries.items():
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif value is not None:
            writer.add_uint32(name, value)
    written = {}
    for name, array in hf_tensors(config, perturbed(config)[1]):
        values, stored = np.asarray(array, np.float32), kind if array.ndim == 2 else KINDS.F32
        quantized = gguf.quantize(values, stored)
        written[name] = gguf.dequantize(quantized, stored)
        heads = {"q_proj.weight": config.n_heads, "k_proj.weight": config.n_kv_heads}
        turned = next((n for end, n in heads.items() if name.endswith(end)), 0)
        if turned and arch == "llama":
            quantized = in_pairs(quantized, turned)
        writer.add_tensor(theirs_of(name), quantized, raw_dtype=stored)
    for name, array in dict(more).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written
