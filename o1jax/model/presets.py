"""Sizes of known models, by name.

Padded vocabularies are the checkpoints' own (Qwen2.5: 151,936 or 152,064 rows for a tokenizer of
151,665). A small model's vocab_size comes from its tokenizer: dataclasses.replace.
"""

from __future__ import annotations

from o1jax.model.config import ModelConfig
from o1jax.records import InputError


def qwen2_5(d_model: int, n_layers: int, n_heads: int, n_kv_heads: int, d_ff: int, tied: bool) -> ModelConfig:
    """A Qwen2.5 (the Coder models have the same shapes), float32 parameters, bfloat16 compute."""
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
        rms_eps=1e-6,
        tie_embeddings=tied,
        qkv_bias=True,
        compute_dtype="bfloat16",
        remat="full",
    )


QWEN2_5 = {
    "0.5b": qwen2_5(896, 24, 14, 2, 4864, tied=True),
    "1.5b": qwen2_5(1536, 28, 12, 2, 8960, tied=True),
    "3b": qwen2_5(2048, 36, 16, 2, 11008, tied=True),
    "7b": qwen2_5(3584, 28, 28, 4, 18944, tied=False),
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
    "deepseek-coder-1.3b": ModelConfig(  # shapes only: its linear rope scaling is refused by hf.py
        family="llama",
        vocab_size=32_256,
        d_model=2048,
        n_layers=24,
        n_heads=16,
        n_kv_heads=16,
        head_dim=128,
        d_ff=5504,
        max_context=16_384,
        rope_theta=1e5,
        compute_dtype="bfloat16",
        remat="full",
    ),
    **{f"qwen2.5-{size}": config for size, config in QWEN2_5.items()},
    **{f"qwen2.5-coder-{size}": config for size, config in QWEN2_5.items()},
}


def preset(name: str) -> ModelConfig:
    """The preset of this name; InputError with the known names for another."""
    if name not in PRESETS:
        raise InputError(f"model preset {name!r} is unknown: use one of {sorted(PRESETS)}")
    return PRESETS[name]
