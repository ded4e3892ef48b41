"""Whether a server serves the policy's model, as far as its config says. Weights are not looked at."""

from __future__ import annotations

import dataclasses

from etils import epath

from o1jax.model.config import ModelConfig
from o1jax.model.hf_config import config_from_hf
from o1jax.model.hf_files import read_json
from o1jax.records import InputError

SAME = ("family", "vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_ff")


def check_served(url: str, root: epath.Path, context: int, config: ModelConfig, wanted: int) -> None:
    """InputError unless the server at `url`, whose model is in the directory `root` and whose context holds
    `context` tokens, can take weights of `config` and serve `wanted` tokens."""
    if not (root / "config.json").exists():
        raise InputError(f"{url} serves {root}, which is not seen from here: weights go by that path")
    theirs = dataclasses.asdict(config_from_hf(read_json(root / "config.json"), config.param_dtype))
    ours = dataclasses.asdict(config)
    for name in SAME:
        if theirs[name] != ours[name]:
            raise InputError(
                f"{url} serves a model with {name} {theirs[name]}, the policy has {ours[name]}: serve that"
            )
    if theirs["tie_embeddings"]:
        raise InputError(
            f"{url} serves a model with tied embeddings, which new weights would not wholly reach: "
            "serve the untied copy that launch/serve.py writes"
        )
    if context < wanted:
        raise InputError(f"{url} holds {context} tokens, engine.context is {wanted}: serve more")
