"""A model with tied embeddings as an untied one with the same outputs: the head is a copy of its own.

vLLM on a CPU keeps a packed copy of the head, which new weights of a tied model do not reach.
"""

from __future__ import annotations

import dataclasses

from flax import nnx

from o1jax.model.config import ModelConfig


def untied(config: ModelConfig, params: nnx.State) -> tuple[ModelConfig, nnx.State]:
    """(config, params) that compute the same and have untied_head_DV; as they are where they have it."""
    if not config.tie_embeddings:
        return config, params
    flat = dict(nnx.to_flat_state(params))
    embed = flat[("embed_VD",)]
    flat[("untied_head_DV",)] = embed.replace(embed[...].T)
    return dataclasses.replace(config, tie_embeddings=False), nnx.from_flat_state(flat)
