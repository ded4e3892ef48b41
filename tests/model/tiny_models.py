"""Small random models of every family, with every weight perturbed, and packed rows to feed them."""

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.model.config import ModelConfig
from o1jax.model.init import init_params, merge
from o1jax.parallel.mesh import make_mesh

SHAPE = dict(
    vocab_size=64, d_model=32, n_layers=3, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=48, max_context=64
)
CONFIGS = {
    "qwen2": ModelConfig(family="qwen2", **SHAPE, tie_embeddings=True, qkv_bias=True),
    "qwen3": ModelConfig(family="qwen3", **SHAPE, tie_embeddings=True, qk_norm=True, rope_theta=1e6),
    "llama": ModelConfig(family="llama", **SHAPE),
}


def perturbed(config: ModelConfig, seed: int = 0):
    """(graphdef, params) with noise on every parameter, also on norms and biases."""
    graphdef, params = init_params(config, seed, make_mesh(devices=jax.devices()[:1]))
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noisy = [
        (x + 0.1 * jax.random.normal(key, x.shape)).astype(x.dtype) for x, key in zip(leaves, keys, strict=True)
    ]
    return graphdef, jax.tree.unflatten(treedef, noisy)


def model_of(config: ModelConfig, seed: int = 0):
    return merge(*perturbed(config, seed))


def alone(sequence):
    """(tokens, positions, segment ids), each [1, T], of one sequence on a row of its own."""
    T = len(sequence)
    return jnp.array([sequence]), jnp.arange(T)[None], jnp.ones((1, T), int)


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
