"""config.json of a Hugging Face checkpoint <-> ModelConfig. What is not supported is refused by name.

Reads and writes the dictionary only; files are hf.py's, rotary settings hf_rope.py's.
"""

from __future__ import annotations

from typing import Any

from o1jax.model.config import Family, ModelConfig
from o1jax.model.hf_rope import rope_from_hf, rope_to_hf
from o1jax.records import InputError

ARCHITECTURES: dict[str, Family] = {
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "LlamaForCausalLM": "llama",
}
COMPUTE_DTYPES = ("o1jax_compute_dtype", "dtype", "torch_dtype")  # the first that is there counts


def config_from_hf(fields: dict[str, Any], param_dtype: str) -> ModelConfig:
    """The ModelConfig of a config.json; products run in the dtype that our export notes, else in its own.

    Raises InputError for an architecture, rope type, activation, bias or attention that is not supported.
    """
    family = family_of(fields)
    refuse_unsupported(fields)
    try:
        theta, scaling = rope_from_hf(fields)
        return ModelConfig(
            family=family,
            vocab_size=fields["vocab_size"],
            d_model=fields["hidden_size"],
            n_layers=fields["num_hidden_layers"],
            n_heads=fields["num_attention_heads"],
            n_kv_heads=fields.get("num_key_value_heads") or fields["num_attention_heads"],
            head_dim=fields.get("head_dim") or fields["hidden_size"] // fields["num_attention_heads"],
            d_ff=fields["intermediate_size"],
            max_context=fields["max_position_embeddings"],
            rope_theta=theta,
            rope_scaling=scaling,
            rms_eps=fields["rms_norm_eps"],
            tie_embeddings=fields.get("tie_word_embeddings", False),
            qkv_bias=family == "qwen2",
            qk_norm=family == "qwen3",
            param_dtype=param_dtype,
            compute_dtype=next(filter(None, map(fields.get, COMPUTE_DTYPES)), "float32"),
        )
    except KeyError as error:
        raise InputError(f"config.json has no {error}: it is not a {family} checkpoint's") from error


def family_of(fields: dict[str, Any]) -> Family:
    """The family of `architectures`; InputError for one that is not known."""
    names = fields.get("architectures") or []
    if len(names) != 1 or names[0] not in ARCHITECTURES:
        raise InputError(f"architecture {names} is not supported: use one of {sorted(ARCHITECTURES)}")
    return ARCHITECTURES[names[0]]


def refuse_unsupported(fields: dict[str, Any]) -> None:
    """InputError for the first setting that would change the arithmetic and is not implemented."""
    sliding_layers = "sliding_attention" in (fields.get("layer_types") or [])
    if fields.get("use_sliding_window") or sliding_layers:
        raise InputError("the checkpoint uses sliding-window attention, which is not supported")
    if fields.get("hidden_act", "silu") != "silu":
        raise InputError(f"activation {fields['hidden_act']!r} is not supported: only 'silu' is")
    for name in ("attention_bias", "mlp_bias", "quantization_config"):
        if fields.get(name):
            raise InputError(f"config.json sets {name}, which is not supported")


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """config.json as transformers 4 and 5 read it: rope and dtype are there in both spellings.

    Raises InputError for a bias or norm that the family's architecture does not have.
    """
    if config.qkv_bias != (config.family == "qwen2") or config.qk_norm != (config.family == "qwen3"):
        raise InputError(
            f"a {config.family} checkpoint cannot hold qkv_bias={config.qkv_bias}, qk_norm={config.qk_norm}"
        )
    return {
        "architectures": [name for name, family in ARCHITECTURES.items() if family == config.family],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_context,
        "rms_norm_eps": config.rms_eps,
        **rope_to_hf(config.rope_theta, config.rope_scaling),
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "use_sliding_window": False,
        "dtype": config.param_dtype,
        "torch_dtype": config.param_dtype,
        "o1jax_compute_dtype": config.compute_dtype,
    }
