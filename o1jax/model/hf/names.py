"""The one map between our parameters and Hugging Face's names and layouts.

Load, export and the weight push to a server all go through it. Ours are stacked over layers, with
the inputs of a product first ([L, D, N, H]); theirs are one matrix a layer, outputs first
([N*H, D]). Both ways are reshapes and transposes: no bit changes. Reads no files.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import jax
from flax import nnx

from o1jax.model.config import ModelConfig
from o1jax.model.init import whole_part

LAYER = "model.layers.{layer}."


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter of ours."""

    path: tuple[str, ...]  # in the tree of parameters
    name: str  # theirs, with {layer} where the parameter is stacked
    shape: tuple[int, ...]  # of one layer
    inputs: int = (
        0  # so many first axes are summed over; 0 (norms, biases, the embedding): laid out as theirs
    )

    @property
    def stacked(self) -> bool:
        return "{layer}" in self.name

    @property
    def hf_shape(self) -> tuple[int, ...]:
        """One layer's shape in the checkpoint."""
        if self.inputs:
            return math.prod(self.shape[self.inputs :]), math.prod(self.shape[: self.inputs])
        # The embedding is a table, of which a token reads a row: [V, D] on both sides, never transposed.
        return self.shape if self.name.endswith("embed_tokens.weight") else (math.prod(self.shape),)

    def to_hf(self, ours: jax.Array) -> jax.Array:
        """One layer's array in the checkpoint's layout."""
        if self.inputs:
            return ours.reshape(self.hf_shape[::-1]).T
        return ours.reshape(self.hf_shape)

    def hf_name(self, layer: int) -> str:
        return self.name.format(layer=layer)


def entries(config: ModelConfig) -> list[Entry]:
    """Every parameter of this config, in a fixed order."""
    D, F, V = config.d_model, config.d_ff, config.vocab_size
    N, K, H = config.n_heads, config.n_kv_heads, config.head_dim
    attention, ff = ("blocks", "attention"), ("blocks", "ff")
    listed = [
        Entry(("embed_VD",), "model.embed_tokens.weight", (V, D)),
        Entry(("blocks", "attention_norm", "scale"), LAYER + "input_layernorm.weight", (D,)),
        Entry((*attention, "q_DNH"), LAYER + "self_attn.q_proj.weight", (D, N, H), 1),
        Entry((*attention, "k_DKH"), LAYER + "self_attn.k_proj.weight", (D, K, H), 1),
        Entry((*attention, "v_DKH"), LAYER + "self_attn.v_proj.weight", (D, K, H), 1),
        Entry((*attention, "o_NHD"), LAYER + "self_attn.o_proj.weight", (N, H, D), 2),
        Entry(("blocks", "ff_norm", "scale"), LAYER + "post_attention_layernorm.weight", (D,)),
        Entry((*ff, "gate_DF"), LAYER + "mlp.gate_proj.weight", (D, F), 1),
        Entry((*ff, "up_DF"), LAYER + "mlp.up_proj.weight", (D, F), 1),
        Entry((*ff, "down_FD"), LAYER + "mlp.down_proj.weight", (F, D), 1),
        Entry(("norm", "scale"), "model.norm.weight", (D,)),
    ]
    if config.qkv_bias:
        listed += [
            Entry((*attention, "q_NH"), LAYER + "self_attn.q_proj.bias", (N, H)),
            Entry((*attention, "k_KH"), LAYER + "self_attn.k_proj.bias", (K, H)),
            Entry((*attention, "v_KH"), LAYER + "self_attn.v_proj.bias", (K, H)),
        ]
    if config.qk_norm:
        listed += [
            Entry((*attention, "q_norm", "scale"), LAYER + "self_attn.q_norm.weight", (H,)),
            Entry((*attention, "k_norm", "scale"), LAYER + "self_attn.k_norm.weight", (H,)),
        ]
    if not config.tie_embeddings:
        listed.append(Entry(("untied_head_DV",), "lm_head.weight", (D, V), 1))
    return listed


def hf_entries(config: ModelConfig) -> Iterator[tuple[Entry, int]]:
    """(entry, layer) of every tensor of the checkpoint, in the order of exported files: a parameter's layers
    one after the other. The layer is 0 where there is none."""
    for entry in entries(config):
        for layer in range(config.n_layers if entry.stacked else 1):
            yield entry, layer


def hf_tensors(config: ModelConfig, params: nnx.State) -> Iterator[tuple[str, jax.Array]]:
    """(name, array) of every tensor of the checkpoint, one layer at a time. Of params that several processes
    hold, arrays of this process; all of them call it at once."""
    flat = dict(nnx.to_flat_state(params))
    for entry, layer in hf_entries(config):
        ours = flat[entry.path][...]
        if not ours.is_fully_addressable:
            whole = whole_part(ours, layer if entry.stacked else None, ours.dtype)
            # Waited for on all devices, read or not: a process that runs ahead of the others holds as many
            # whole tensors, and on CPUs can hang them all (XLA starts 32 programs of a device at a time).
            jax.block_until_ready(whole)
            yield entry.hf_name(layer), entry.to_hf(whole.addressable_data(0))
        else:
            yield entry.hf_name(layer), entry.to_hf(ours[layer] if entry.stacked else ours)


def untied(config: ModelConfig, params: nnx.State) -> tuple[ModelConfig, nnx.State]:
    """(config, params) as vLLM serves them: with untied_head_DV, and no row of the vocabulary that is no
    token. They compute the same; the params are those given where they are so already."""
    V, flat = config.token_rows, dict(nnx.to_flat_state(params))
    served = dataclasses.replace(config, tie_embeddings=False, vocab_size=V, n_tokens=0)
    # On a CPU vLLM keeps a packed copy of the head, which new weights of a tied model do not reach. And it
    # samples from every row that there is, so that padding would be sampled, and have its share.
    embed = flat[("embed_VD",)]
    if V < config.vocab_size:
        embed = flat[("embed_VD",)] = embed.replace(embed[...][:V])
    if config.tie_embeddings:
        flat[("untied_head_DV",)] = embed.replace(embed[...].T, axes=embed.get_metadata()["axes"][::-1])
    elif V < config.vocab_size:
        head = flat[("untied_head_DV",)]
        flat[("untied_head_DV",)] = head.replace(head[...][:, :V])
    return served, nnx.from_flat_state(flat)
