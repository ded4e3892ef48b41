"""Sizes of known models, by name.

Shapes and rotary settings are those of the published config.json files, of the instruct models where
there are several. Padded vocabularies are the checkpoints' own, beside their tokenizers' sizes (Qwen2.5:
151,936 or 152,064 rows for 151,665 tokens). A small model's vocab_size comes from its tokenizer:
dataclasses.replace.
"""

from __future__ import annotations

import dataclasses

from o1jax.model.config import Family, ModelConfig
from o1jax.model.rope import RopeScaling
from o1jax.records import InputError

DEFAULT = RopeScaling()


def real(
    family: Family,
    sizes: tuple[int, int, int, int, int],
    vocab_size: int,
    max_context: int,
    rope_theta: float,
    tied: bool,
    scaling: RopeScaling = DEFAULT,
    head_dim: int = 0,
    rms_eps: float = 1e-6,
    n_tokens: int = 0,
) -> ModelConfig:
    """A published model; `sizes`: D, L, N, K and F; head_dim 0: D / N. Parameters stay float32."""
    d_model, n_layers, n_heads, n_kv_heads, d_ff = sizes
    return ModelConfig(
        family=family,
        vocab_size=vocab_size,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim or d_model // n_heads,
        d_ff=d_ff,
        max_context=max_context,
        rope_theta=rope_theta,
        rope_scaling=scaling,
        rms_eps=rms_eps,
        n_tokens=n_tokens,
        tie_embeddings=tied,
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        compute_dtype="bfloat16",
        remat="full",
    )


def small(config: ModelConfig) -> ModelConfig:
    """A model that is small enough to compute in float32 and to keep all that its backward pass needs."""
    return dataclasses.replace(config, compute_dtype="float32", remat="none")


def qwen2_5(*sizes: int, tied: bool) -> ModelConfig:
    """A Qwen2.5; the Coder models have the same shapes."""
    rows = 151_936 if sizes[0] < 3584 else 152_064
    return real("qwen2", sizes, rows, 32_768, 1e6, tied, n_tokens=151_665)


def qwen3(d_model: int, n_layers: int, n_heads: int, d_ff: int, tied: bool) -> ModelConfig:
    """A dense Qwen3."""
    sizes = (d_model, n_layers, n_heads, 8, d_ff)
    return real("qwen3", sizes, 151_936, 40_960, 1e6, tied, head_dim=128, n_tokens=151_669)


def llama3(d_model: int, n_layers: int, n_heads: int, d_ff: int, factor: float, tied: bool) -> ModelConfig:
    """A Llama 3.1 or 3.2."""
    scaling = RopeScaling("llama3", factor, original_context=8192)
    sizes = (d_model, n_layers, n_heads, 8, d_ff)
    return real("llama", sizes, 128_256, 131_072, 5e5, tied, scaling, rms_eps=1e-5)


def deepseek_coder(d_model: int, n_layers: int, n_heads: int, d_ff: int) -> ModelConfig:
    """A deepseek-coder of the first series: a Llama whose context was stretched linearly."""
    sizes = (d_model, n_layers, n_heads, n_heads, d_ff)
    scaling = RopeScaling("linear", 4.0)
    return real("llama", sizes, 32_256, 16_384, 1e5, tied=False, scaling=scaling, n_tokens=32_022)


QWEN2_5 = {
    "0.5b": qwen2_5(896, 24, 14, 2, 4864, tied=True),
    "1.5b": qwen2_5(1536, 28, 12, 2, 8960, tied=True),
    "3b": qwen2_5(2048, 36, 16, 2, 11_008, tied=True),
    "7b": qwen2_5(3584, 28, 28, 4, 18_944, tied=False),
    "14b": qwen2_5(5120, 48, 40, 8, 13_824, tied=False),
    "32b": qwen2_5(5120, 64, 40, 8, 27_648, tied=False),
}

PRESETS: dict[str, ModelConfig] = {
    # Heads of 32, the smallest that vLLM serves.
    "nano": small(real("qwen2", (128, 4, 4, 2, 384), 1024, 8192, 1e4, tied=True)),
    "stories260k": small(real("llama", (64, 5, 8, 4, 172), 512, 512, 1e4, tied=True, rms_eps=1e-5)),
    **{f"qwen2.5-{size}": config for size, config in QWEN2_5.items()},
    **{f"qwen2.5-coder-{size}": config for size, config in QWEN2_5.items()},
    "qwen3-0.6b": qwen3(1024, 28, 16, 3072, tied=True),
    "qwen3-1.7b": qwen3(2048, 28, 16, 6144, tied=True),
    "qwen3-4b": qwen3(2560, 36, 32, 9728, tied=True),
    "qwen3-8b": qwen3(4096, 36, 32, 12_288, tied=False),
    "qwen3-14b": qwen3(5120, 40, 40, 17_408, tied=False),
    "qwen3-32b": qwen3(5120, 64, 64, 25_600, tied=False),
    "llama-3.2-1b": llama3(2048, 16, 32, 8192, 32.0, tied=True),
    "llama-3.2-3b": llama3(3072, 28, 24, 8192, 32.0, tied=True),
    "llama-3.1-8b": llama3(4096, 32, 32, 14_336, 8.0, tied=False),
    "deepseek-coder-1.3b": deepseek_coder(2048, 24, 16, 5504),
    "deepseek-coder-6.7b": deepseek_coder(4096, 32, 32, 11_008),
}


def preset(name: str) -> ModelConfig:
    """The preset of this name; InputError with the known names for another."""
    if name not in PRESETS:
        raise InputError(f"model preset {name!r} is unknown: use one of {sorted(PRESETS)}")
    return PRESETS[name]
