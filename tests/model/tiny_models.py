"""Small random models of every family, with every weight perturbed, and packed rows to feed them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.model.config import ModelConfig
from o1jax.model.init import abstract_params, merge
from o1jax.model.rope import RopeScaling
from o1jax.parallel.mesh import make_mesh

SHAPE = dict(
    vocab_size=64, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=48, max_context=64
)
CONFIGS = {
    "qwen2": ModelConfig(family="qwen2", **SHAPE, tie_embeddings=True, qkv_bias=True),
    "qwen3": ModelConfig(family="qwen3", **SHAPE, tie_embeddings=True, qk_norm=True, rope_theta=1e6),
    "llama": ModelConfig(family="llama", **SHAPE),
}
# With base 10, in 32 tokens a head of 8 turns 5.1, 2.9, 1.6 and .9 times: every regime is met.
SCALINGS = {
    "linear": RopeScaling("linear", 4.0),
    "llama3": RopeScaling("llama3", 8.0, original_context=32),
    "yarn": RopeScaling("yarn", 4.0, 32, beta_fast=4.0, attention_factor=1.1386294361119891),
    "yarn_exact": RopeScaling("yarn", 2.0, 32, beta_fast=4.0, truncate=False, attention_factor=0.7),
}
ALL_ROPES = CONFIGS | {
    f"{family}_{name}": dataclasses.replace(config, rope_theta=10.0, rope_scaling=scaling)
    for family, config in CONFIGS.items()
    for name, scaling in SCALINGS.items()
}


@functools.cache
def perturbed(config: ModelConfig, seed: int = 0):
    """(graphdef, params) of noise on every parameter, also on norms and biases."""
    graphdef, abstract = abstract_params(config, make_mesh(devices=jax.devices()[:1]))
    generator = np.random.default_rng(seed)

    def draw(path, leaf):
        centre = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(centre + 0.15 * generator.standard_normal(leaf.shape), leaf.dtype)

    return graphdef, jax.tree_util.tree_map_with_path(draw, abstract)


def model_of(config: ModelConfig, seed: int = 0):
    return merge(*perturbed(config, seed))


def packed(sequences, row_length):
    """(tokens, positions, segment ids), each [1, row_length], of all sequences on one row, then padding."""
    tokens, positions, segments = np.zeros((3, 1, row_length), int)
    start = 0
    for number, sequence in enumerate(sequences):
        part = slice(start, start + len(sequence))
        tokens[0, part], positions[0, part] = sequence, range(len(sequence))
        segments[0, part], start = number + 1, start + len(sequence)
    return jnp.array(tokens), jnp.array(positions), jnp.array(segments)


def random_tokens(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, SHAPE["vocab_size"], shape)
