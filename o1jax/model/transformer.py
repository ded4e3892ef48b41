"""The decoder: one readable NNX module for the Qwen2, Qwen3 and Llama families.

RMSNorm before attention and feed-forward, rotary positions (rope.py), grouped queries, SwiGLU.
Parameters of all layers are stacked on a leading axis L and carry logical axis names (`axes`) that
parallel/mesh.py maps to the mesh. Does not choose an attention kernel, read weights or compute losses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Primitive

from o1jax.model.attention import CUDNN_FORWARD, FLASH, KERNELS, cached_attention, packed_attention
from o1jax.model.config import ModelConfig
from o1jax.model.kv_cache import KVCache, Pages, read_pages, write_layer, write_pages
from o1jax.model.quantized import dense
from o1jax.model.rope import Rotation, rotate, rotation
from o1jax.parallel.traced import constrain, exact, traced_mesh

Attend = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]  # cached_attention's arguments


def flash_kept(primitive: Primitive, *avals: Any, **params: Any) -> Any:
    """The policy that keeps what a flash kernel's backward pass reads, so that its forward pass runs once."""
    return primitive.name.startswith(CUDNN_FORWARD) or NAMED_FLASH(primitive, *avals, **params)


def kept(policy: Callable) -> Callable:
    """`policy`, and what flash_kept keeps."""
    return jax.checkpoint_policies.save_from_both_policies(policy, flash_kept)


# Rematerialisation by name: what a layer keeps for the backward pass beside its input; the rest is computed
# again. Only "full" runs a flash kernel's forward pass twice: what that leaves is as large as the input.
NAMED_FLASH = jax.checkpoint_policies.save_only_these_names(FLASH)
POLICIES = {
    "dots": kept(jax.checkpoint_policies.dots_with_no_batch_dims_saveable),  # products with parameters
    "attention": kept(jax.checkpoint_policies.save_only_these_names("attention")),  # attention's output
    "full": jax.checkpoint_policies.nothing_saveable,
}

INIT_STD = 0.02  # of Qwen2's own initialisation
HIDDEN = ("batch", "residual_length", None)  # logical axes of what goes from layer to layer,
INPUT = ("batch", "length", None)  # and of what a layer's products read
INNER = ("batch", "length", "ff")
UNROLLED_LAYERS = 8  # up to here the layer scan is unrolled: 1.2 times the speed of a loop on a CPU


def weight(config: ModelConfig, rngs: nnx.Rngs, shape, axes, std: float = INIT_STD) -> nnx.Param:
    """A normal parameter with logical axes."""
    value = std * jax.random.normal(rngs.params(), shape, jnp.float32)
    return nnx.Param(value.astype(config.param_dtype), axes=axes)


def constant(config: ModelConfig, value: float, shape, axes) -> nnx.Param:
    """A parameter that begins as one number."""
    return nnx.Param(jnp.full(shape, value, config.param_dtype), axes=axes)


def product(x: jax.Array, kernel: jax.Array, out_shape: tuple[int, ...]) -> jax.Array:
    """x [B, T, inputs...] times kernel [inputs..., outputs...]: [B, T, *out_shape], in x's dtype.

    As one matrix product over all tokens: with B and T apart, XLA's CPU backend transposes copies
    for the kernel's gradient (the feed-forward, forward and backward, then takes 1.4 times as long).
    """
    B, T = x.shape[:2]
    x_BTI = x.reshape(B, T, -1)
    kernel_IO = kernel.astype(x.dtype).reshape(x_BTI.shape[2], -1)
    if traced_mesh() is not None:  # B and T are split there, and merged they would be gathered
        return jnp.matmul(x_BTI, kernel_IO, precision=exact(x)).reshape(B, T, *out_shape)
    out_XO = jnp.matmul(x_BTI.reshape(B * T, -1), kernel_IO, precision=exact(x))
    return out_XO.reshape(B, T, *out_shape)


class Adapter(nnx.Module):
    """What LoRA adds to the product with a kernel: scale * x A B, of low rank. Made by lora.py."""

    def __init__(self, down_IR: nnx.Param, up_RO: nnx.Param, scale: float):
        self.down_IR, self.up_RO, self.scale = down_IR, up_RO, scale

    def __call__(self, x: jax.Array, out_shape: tuple[int, ...]) -> jax.Array:
        down_IR, up_RO = self.down_IR[...], self.up_RO[...]
        return product(product(x, down_IR, up_RO.shape[:1]), up_RO, out_shape) * self.scale


def project(
    x: jax.Array, kernel: nnx.Param, out_shape: tuple[int, ...], adapter: Adapter | None
) -> jax.Array:
    """`product` with a parameter, which may be quantized, and what its adapter adds, if it has one."""
    out = product(x, dense(kernel.get_value(), x.dtype), out_shape)
    return out if adapter is None else out + adapter(x, out_shape)


class RMSNorm(nnx.Module):
    """x / rms(x) * scale over the last axis."""

    def __init__(self, config: ModelConfig, size: int):
        self.eps = config.rms_eps
        self.scale = constant(config, 1.0, (size,), ("norm",))

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)  # as transformers: a mean of squares in bfloat16 has three digits
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return (x32 * self.scale[...].astype(jnp.float32)).astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions; QKV bias (Qwen2) and q/k norm (Qwen3) optional."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        D, N, K, H = config.d_model, config.n_heads, config.n_kv_heads, config.head_dim
        self.config = config
        self.q_DNH = weight(config, rngs, (D, N, H), ("embed", "heads", "head_dim"))
        self.k_DKH = weight(config, rngs, (D, K, H), ("embed", "kv_heads", "head_dim"))
        self.v_DKH = weight(config, rngs, (D, K, H), ("embed", "kv_heads", "head_dim"))
        # GPT-2's: what 2 L branches add to the residual keeps the embedding's size, however many layers.
        out_std = INIT_STD / (2 * config.n_layers) ** 0.5
        self.o_NHD = weight(config, rngs, (N, H, D), ("heads", "head_dim", "embed"), out_std)
        self.adapters = nnx.Dict()  # of kernels, by their names here; lora.py fills it
        if config.qkv_bias:
            self.q_NH = constant(config, 0.0, (N, H), ("heads", "head_dim"))
            self.k_KH = constant(config, 0.0, (K, H), ("kv_heads", "head_dim"))
            self.v_KH = constant(config, 0.0, (K, H), ("kv_heads", "head_dim"))
        if config.qk_norm:
            self.q_norm = RMSNorm(config, H)
            self.k_norm = RMSNorm(config, H)

    def project(self, x_BTD: jax.Array, angles: Rotation) -> tuple[jax.Array, jax.Array, jax.Array]:
        """q_BTNH, k_BTKH and v_BTKH, with positions rotated into q and k."""
        dtype, N, K, H = x_BTD.dtype, self.config.n_heads, self.config.n_kv_heads, self.config.head_dim
        q_BTNH = project(x_BTD, self.q_DNH, (N, H), self.adapters.get("q_DNH"))
        k_BTKH = project(x_BTD, self.k_DKH, (K, H), self.adapters.get("k_DKH"))
        v_BTKH = project(x_BTD, self.v_DKH, (K, H), self.adapters.get("v_DKH"))
        if self.config.qkv_bias:
            q_BTNH += self.q_NH[...].astype(dtype)
            k_BTKH += self.k_KH[...].astype(dtype)
            v_BTKH += self.v_KH[...].astype(dtype)
        if self.config.qk_norm:
            q_BTNH, k_BTKH = self.q_norm(q_BTNH), self.k_norm(k_BTKH)
        return rotate(q_BTNH, angles), rotate(k_BTKH, angles), v_BTKH

    def output(self, out_BTNH: jax.Array) -> jax.Array:
        return project(out_BTNH, self.o_NHD, (self.config.d_model,), self.adapters.get("o_NHD"))


class FeedForward(nnx.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        D, F = self.D, self.F = config.d_model, config.d_ff
        self.gate_DF = weight(config, rngs, (D, F), ("embed", "ff"))
        self.up_DF = weight(config, rngs, (D, F), ("embed", "ff"))
        self.down_FD = weight(config, rngs, (F, D), ("ff", "embed"), INIT_STD / (2 * config.n_layers) ** 0.5)
        self.adapters = nnx.Dict()

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        gate_BTF = project(x_BTD, self.gate_DF, (self.F,), self.adapters.get("gate_DF"))
        up_BTF = project(x_BTD, self.up_DF, (self.F,), self.adapters.get("up_DF"))
        inner_BTF = jax.nn.silu(constrain(gate_BTF, INNER)) * constrain(up_BTF, INNER)
        return project(inner_BTF, self.down_FD, (self.D,), self.adapters.get("down_FD"))


class Block(nnx.Module):
    """One layer, in two forms: over packed sequences, and against a key-value cache."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config, config.d_model)
        self.attention = Attention(config, rngs=rngs)
        self.ff_norm = RMSNorm(config, config.d_model)
        self.ff = FeedForward(config, rngs=rngs)

    def __call__(self, x_BTD: jax.Array, angles: Rotation, segment_ids_BT: jax.Array) -> jax.Array:
        input_BTD = constrain(self.attention_norm(x_BTD), INPUT)
        q_BTNH, k_BTKH, v_BTKH = self.attention.project(input_BTD, angles)
        kernel = KERNELS[self.attention.config.attention]
        out_BTNH = checkpoint_name(
            packed_attention(kernel, q_BTNH, k_BTKH, v_BTKH, segment_ids_BT), "attention"
        )
        x_BTD = constrain(x_BTD + self.attention.output(out_BTNH), HIDDEN)
        return constrain(x_BTD + self.ff(constrain(self.ff_norm(x_BTD), INPUT)), HIDDEN)

    def cached(
        self, x_BTD: jax.Array, angles: Rotation, positions_BT: jax.Array, k_BKHS, v_BKSH, pages, attend
    ):
        q_BTNH, k_BTKH, v_BTKH = self.attention.project(self.attention_norm(x_BTD), angles)
        if pages is None:
            k_BKHS, v_BKSH = seen = write_layer(k_BKHS, v_BKSH, k_BTKH, v_BTKH, positions_BT)
        else:
            k_BKHS, v_BKSH = write_pages(k_BKHS, v_BKSH, k_BTKH, v_BTKH, pages)
            seen = read_pages(k_BKHS, v_BKSH, pages)
        x_BTD = x_BTD + self.attention.output(attend(q_BTNH, *seen, positions_BT))
        return x_BTD + self.ff(self.ff_norm(x_BTD)), k_BKHS, v_BKSH


class Transformer(nnx.Module):
    """Tokens to hidden states; `head_DV` turns hidden states into logits.

    With `apart` every layer has parameters of its own, and the model only decodes: a loop over tokens that
    took them from stacked ones would copy them at every token on a GPU.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, apart: bool = False):
        self.config = config
        V, D = config.vocab_size, config.d_model
        self.embed_VD = weight(config, rngs, (V, D), ("vocab", "embed"))

        @nnx.split_rngs(splits=config.n_layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stacked_blocks(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs=rngs)

        layers = range(config.n_layers)
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in layers]) if apart else stacked_blocks(rngs)
        self.norm = RMSNorm(config, D)
        if not config.tie_embeddings:
            self.untied_head_DV = weight(config, rngs, (D, V), ("embed", "vocab"))

    def __call__(self, tokens_BT: jax.Array, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
        """Hidden states of packed rows, final norm applied.

        positions_BT count from 0 in each segment; segment 0 is padding. Returns hidden_BTD.
        """
        assert tokens_BT.shape == positions_BT.shape == segment_ids_BT.shape and tokens_BT.ndim == 2
        graphdef, blocks = nnx.split(self.blocks)
        angles = self.rotation(positions_BT)

        def layer(x_BTD, block):
            return nnx.merge(graphdef, block)(x_BTD, angles, segment_ids_BT), None

        if self.config.remat != "none":
            layer = jax.checkpoint(layer, policy=POLICIES[self.config.remat])
        # A scan over stacked layers: one layer is compiled, whatever their number, or `unroll` of them.
        L = self.config.n_layers
        unroll = min(self.config.unroll or (L if L <= UNROLLED_LAYERS else 1), L)
        embedded_BTD = constrain(self.embed(tokens_BT), HIDDEN)
        hidden_BTD, _ = jax.lax.scan(layer, embedded_BTD, blocks, unroll=unroll)
        return constrain(self.norm(hidden_BTD), INPUT)

    def cached(
        self,
        tokens_BT: jax.Array,
        positions_BT: jax.Array,
        cache: KVCache,
        pages: Pages | None = None,
        attend: Attend = cached_attention,
    ) -> tuple[jax.Array, KVCache]:
        """Hidden states of T new tokens a row (a prefill chunk, or T = 1 to decode), and the new cache.

        Writes the tokens' keys and values at slots positions_BT; a position outside [0, S) writes
        nothing. A query at position p sees slots <= p of its own row. With `pages`, a row is a whole
        chunk of T = S tokens, and its slots are those of the chunks that it reads. `attend` takes the place
        of cached_attention.
        """
        assert tokens_BT.shape == positions_BT.shape and tokens_BT.ndim == 2
        angles = self.rotation(positions_BT)
        x_BTD, keys, values = self.embed(tokens_BT), [], []
        # Unrolled over per-layer cache arrays, so that a loop around this (decoding) updates them in place: a
        # scan would take slices of stacked ones, which are copied at every token.
        for block, k_BKHS, v_BKSH in zip(self.layers(), cache.k_BKHS, cache.v_BKSH, strict=True):
            x_BTD, k_BKHS, v_BKSH = block.cached(x_BTD, angles, positions_BT, k_BKHS, v_BKSH, pages, attend)
            keys.append(k_BKHS)
            values.append(v_BKSH)
        return self.norm(x_BTD), KVCache(tuple(keys), tuple(values))

    def layers(self) -> list[Block]:
        """Every layer as a block of its own."""
        if isinstance(self.blocks, nnx.List):
            return list(self.blocks)
        graphdef, stacked = nnx.split(self.blocks)
        parts = [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(self.config.n_layers)]
        return [nnx.merge(graphdef, part) for part in parts]

    def rotation(self, positions_BT: jax.Array) -> Rotation:
        """The rotary angles of these positions."""
        config = self.config
        return rotation(config.rope_theta, config.head_dim, config.rope_scaling, positions_BT)

    def embed(self, tokens_BT: jax.Array) -> jax.Array:
        """The embedded tokens, in the compute dtype."""
        # Cast after they are looked up: the gradients of a frequent token, which may be in a batch
        # thousands of times, are then added up in the parameters' dtype.
        return self.embed_VD[...][tokens_BT].astype(self.config.compute_dtype)

    def head_DV(self) -> jax.Array:
        """The output head of the tokens: the embedding transposed where it is tied."""
        return self.padded_head_DV()[:, : self.config.token_rows]

    def padded_head_DV(self) -> jax.Array:
        """The head with the vocabulary's padding, for who masks that (`token_log_probs`)."""
        # Without its padding a large head would be copied, and might not divide over the mesh.
        return self.embed_VD[...].T if self.config.tie_embeddings else self.untied_head_DV[...]

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Float32 logits [..., V] of hidden states [..., D], those of padding too; for few tokens (decoding),
        not training."""
        head_DV = self.padded_head_DV().astype(hidden.dtype)
        return jnp.einsum(
            "...D,DV->...V", hidden, head_DV, precision=exact(hidden), preferred_element_type=jnp.float32
        )
