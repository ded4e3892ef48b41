"""The rotary settings of a config.json, in either spelling, <-> our base and RopeScaling.

transformers 5 writes rope_parameters, with rope_theta inside; before, there were rope_theta and
rope_scaling beside it, the type under `type` or `rope_type`. Reads and writes dictionaries only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from o1jax.model.rope import ROPE_TYPES, RopeScaling
from o1jax.records import InputError

# Our field -> theirs, of the types that have any; yarn's are read with what mscale makes of them.
FIELDS: dict[str, dict[str, str]] = {
    "default": {},
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "original_context": "original_max_position_embeddings",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
    },
    "yarn": {
        "factor": "factor",
        "original_context": "original_max_position_embeddings",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "truncate": "truncate",
        "attention_factor": "attention_factor",
    },
}


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
    partial = settings.pop("partial_rotary_factor", None) or fields.get("partial_rotary_factor") or 1.0
    if partial != 1.0:
        raise InputError(f"config.json rotates {partial} of every head, which is not supported: only all is")
    given = {name: value for name, value in settings.items() if value is not None}
    if rope_type in ("llama3", "yarn"):
        given.setdefault("original_max_position_embeddings", fields["max_position_embeddings"])
    if rope_type == "yarn":
        given = yarn_settings(given, fields["max_position_embeddings"])
    ours = {theirs: name for name, theirs in FIELDS[rope_type].items()}
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
    values = {theirs: ours[name] for name, theirs in FIELDS[scaling.type].items()}
    old = {"type": scaling.type, "rope_type": scaling.type, **values}
    return {
        "rope_theta": theta,
        "rope_scaling": None if scaling.type == "default" else old,
        "rope_parameters": {"rope_type": scaling.type, "rope_theta": theta, **values},
    }
