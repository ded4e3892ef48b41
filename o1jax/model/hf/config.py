"""config.json of a Hugging Face checkpoint <-> ModelConfig. What is not supported is refused by name.

transformers 5 writes rope_parameters, with rope_theta inside, and dtype; before, there were rope_theta and
rope_scaling beside it, the type under `type` or `rope_type`, and torch_dtype. Both are read, and both
written. Reads and writes the dictionary only; files are files.py's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from o1jax.model.config import Family, ModelConfig
from o1jax.model.rope import ROPE_TYPES, RopeScaling
from o1jax.records import InputError

ARCHITECTURES: dict[str, Family] = {
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "LlamaForCausalLM": "llama",
}
COMPUTE_DTYPES = ("o1jax_compute_dtype", "dtype", "torch_dtype")  # the first that is there counts
# What a rope type's settings are called, here and there; yarn's are read with what mscale makes of them.
ROPE_SETTINGS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "original_context", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "original_context", "beta_fast", "beta_slow", "truncate", "attention_factor"),
}
THEIR_NAMES = {"original_context": "original_max_position_embeddings"}  # where it is another


def rope_from_hf(fields: Mapping[str, Any]) -> tuple[float, RopeScaling]:
    """(theta, scaling) of a config.json; without a base it is 10,000.

    Raises InputError that names the type, or the setting, which is not supported or missing.
    """
    settings = dict(fields.get("rope_scaling") or fields.get("rope_parameters") or {})
    theta = settings.pop("rope_theta", None) or fields.get("rope_theta") or 10_000.0
    old, new = settings.pop("type", None), settings.pop("rope_type", None)
    rope_type = new or old or "default"
    if rope_type not in ROPE_TYPES:
        raise InputError(f"rope type {rope_type!r} is not supported: only {', '.join(ROPE_TYPES)} are")
    # Whatever is not known is refused: a setting that is passed over gives a model that is a little wrong.
    partial = settings.pop("partial_rotary_factor", None) or fields.get("partial_rotary_factor") or 1.0
    if partial != 1.0:
        raise InputError(f"config.json rotates {partial} of every head, which is not supported: only all is")
    given = {name: value for name, value in settings.items() if value is not None}
    if rope_type in ("llama3", "yarn"):
        given.setdefault("original_max_position_embeddings", fields["max_position_embeddings"])
    if rope_type == "yarn":
        given = yarn_settings(given, fields["max_position_embeddings"])
    ours = {THEIR_NAMES.get(name, name): name for name in ROPE_SETTINGS[rope_type]}
    if unknown := sorted(set(given) - set(ours)):
        raise InputError(f"rope type {rope_type!r} with {unknown[0]} is not supported; it has {list(ours)}")
    if "factor" in ours and "factor" not in given:
        raise InputError(f"config.json gives rope type {rope_type!r} no factor")
    return float(theta), RopeScaling(rope_type, **{ours[name]: value for name, value in given.items()})


def yarn_settings(given: Mapping[str, Any], max_context: int) -> dict[str, Any]:
    """yarn's settings with those that are only implied: `factor` by the contexts, `attention_factor` by
    mscale and mscale_all_dim or the paper's .1 ln(factor) + 1."""
    settings = {"factor": max_context / given["original_max_position_embeddings"], **given}
    factor = settings["factor"]
    mscale, all_dim = settings.pop("mscale", None), settings.pop("mscale_all_dim", None)
    implied = stretch(factor, mscale) / stretch(factor, all_dim) if mscale and all_dim else stretch(factor, 1)
    return {"attention_factor": implied, **settings}


def stretch(factor: float, scale: float) -> float:
    """yarn's scale of cos and sin for contexts longer by `factor`."""
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def rope_to_hf(theta: float, scaling: RopeScaling) -> dict[str, Any]:
    """The entries of config.json, in both spellings."""
    ours = dataclasses.asdict(scaling)
    values = {THEIR_NAMES.get(name, name): ours[name] for name in ROPE_SETTINGS[scaling.type]}
    old = {"type": scaling.type, "rope_type": scaling.type, **values}
    return {
        "rope_theta": theta,
        "rope_scaling": None if scaling.type == "default" else old,
        "rope_parameters": {"rope_type": scaling.type, "rope_theta": theta, **values},
    }


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
    # Qwen2 checkpoints carry a sliding_window that is switched off: the number alone says nothing.
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
