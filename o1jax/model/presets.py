"""Sizes of known models, by name.

Shapes and rotary settings are those of the published config.json files, of the instruct models where
there are several. Padded vocabularies are the checkpoints' own (Qwen2.5: 151,936 or 152,064 rows for a
tokenizer of 151,665). A small model's vocab_size comes from its tokenizer: dataclasses.replace.
"""

from __future__ import annotations

from o1jax.model.config import ModelConfig
from o1jax.model.rope import RopeScaling
from o1jax.records import InputError

REAL = {"compute_dtype": "bfloat16", "remat": "full"}  # parameters stay float32


def qwen2_5(d_model: int, n_layers: int, n_heads: int, n_kv_heads: int, d_ff: int, tied: bool) -> ModelConfig:
    """A Qwen2.5; the Coder models have the same shapes."""
    return ModelConfig(
        family="qwen2",
        vocab_size=151_936 if d_model < 3584 else 152_064,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=d_model // n_heads,
        d_ff=d_ff,
        max_context=32_768,
        rope_theta=1e6,
        tie_embeddings=tied,
        qkv_bias=True,
        **REAL,
    )


def qwen3(d_model: int, n_layers: int, n_heads: int, d_ff: int, tied: bool) -> ModelConfig:
    """A dense Qwen3."""
    return ModelConfig(
        family="qwen3",
        vocab_size=151_936,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=8,
        head_dim=128,
        d_ff=d_ff,
        max_context=40_960,
        rope_theta=1e6,
        tie_embeddings=tied,
        qk_norm=True,
        **REAL,
    )


def llama3(d_model: int, n_layers: int, n_heads: int, d_ff: int, factor: float, tied: bool) -> ModelConfig:
    """A Llama 3.1 or 3.2."""
    return ModelConfig(
        family="llama",
        vocab_size=128_256,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=8,
        head_dim=d_model // n_heads,
        d_ff=d_ff,
        max_context=131_072,
        rope_theta=5e5,
        rope_scaling=RopeScaling("llama3", factor, original_context=8192),
        rms_eps=1e-5,
        tie_embeddings=tied,
        **REAL,
    )


def deepseek_coder(d_model: int, n_layers: int, n_heads: int, d_ff: int) -> ModelConfig:
    """A deepseek-coder of the first series: a Llama whose context was stretched linearly."""
    return ModelConfig(
        family="llama",
        vocab_size=32_256,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=128,
        d_ff=d_ff,
        max_context=16_384,
        rope_theta=1e5,
        rope_scaling=RopeScaling("linear", 4.0),
        **REAL,
    )


QWEN2_5 = {
    "0.5b": qwen2_5(896, 24, 14, 2, 4864, tied=True),
    "1.5b": qwen2_5(1536, 28, 12, 2, 8960, tied=True),
    "3b": qwen2_5(2048, 36, 16, 2, 11_008, tied=True),
    "7b": qwen2_5(3584, 28, 28, 4, 18_944, tied=False),
    "14b": qwen2_5(5120, 48, 40, 8, 13_824, tied=False),
    "32b": qwen2_5(5120, 64, 40, 8, 27_648, tied=False),
}

PRESETS: dict[str, ModelConfig] = {
    "nano": ModelConfig(
        family="qwen2",
        vocab_size=1024,
        d_model=128,
        n_layers=4,
        n_heads=4,
        n_kv_heads=2,
        head_dim=32,
        d_ff=384,
        max_context=8192,
        tie_embeddings=True,
        qkv_bias=True,
    ),
    "stories260k": ModelConfig(
        family="llama",
        vocab_size=512,
        d_model=64,
        n_layers=5,
        n_heads=8,
        n_kv_heads=4,
        head_dim=8,
        d_ff=172,
        max_context=512,
        rms_eps=1e-5,
        tie_embeddings=True,
    ),
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
