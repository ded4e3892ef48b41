"""Run as a program on eight virtual CPU devices: log-probs and attention on meshes against one device, and
the collectives of the compiled programs; one JSON line."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from o1jax.losses import logprobs
from o1jax.losses.logprobs import token_log_probs
from o1jax.model.attention import chunked_attention, packed_attention, splash_attention
from o1jax.parallel.mesh import make_mesh, spec_of
from o1jax.parallel.traced import on_mesh

MESHES = {
    "tensor": dict(tensor=8),
    "all": dict(data=2, fsdp=2, tensor=2),
    "context": dict(context=2, fsdp=2, tensor=2),
}
B, T, D, V, N, K, H = 4, 24, 16, 2400, 8, 8, 8  # each of eight shares of V is three blocks of 128 words
N_TOKENS = 1700  # of a padded vocabulary: of eight shares of V two are padding, and one is in part
QUERIES, KEYS = ("batch", "length", "heads", None), ("batch", "length", "kv_heads", None)


def largest_difference(a, b) -> float:
    """Over all arrays, of the largest value of each."""
    pairs = [
        (np.asarray(x, np.float32), np.asarray(y, np.float32))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    ]
    return max(float(np.abs(x - y).max() / max(1.0, np.abs(y).max())) for x, y in pairs)


def compare(function, args, axes, mesh, reference=None) -> tuple[float, str]:
    """(the largest difference of values and gradients to one device's, or to those of another function on
    one device; the program's text)."""
    program, plain = (
        jax.value_and_grad(f, argnums=(0, 1), has_aux=True) for f in (function, reference or function)
    )
    shardings = tuple(NamedSharding(mesh, spec_of(a)) for a in axes)
    compiled = jax.jit(on_mesh(program, mesh), in_shardings=shardings).lower(*args).compile()
    found = compiled(*(jax.device_put(x, s) for x, s in zip(args, shardings, strict=True)))
    return largest_difference(found, jax.jit(plain)(*args)), compiled.as_text()


def log_prob_loss(hidden_BTD, head_DV, targets_BT, n_tokens=None):
    log_probs_BT = token_log_probs(
        hidden_BTD, head_DV, targets_BT, temperature=0.7, n_tokens=n_tokens, chunk=16
    )
    return (log_probs_BT * jnp.cos(jnp.arange(B * T).reshape(B, T))).sum(), log_probs_BT


def cut_log_prob_loss(hidden_BTD, head_DV, targets_BT):
    """Of the head without its padding, whose gradient is 0 then."""
    return log_prob_loss(hidden_BTD, head_DV[:, :N_TOKENS], targets_BT)


def attention_loss(kernel, q_BTNH, kv, segments_BT):
    out_BTNH = packed_attention(kernel, q_BTNH, *kv, segments_BT)
    return (out_BTNH * jnp.cos(jnp.arange(out_BTNH.size).reshape(out_BTNH.shape))).sum(), out_BTNH


def largest_gather(text: str) -> int:
    """The elements of the largest array that an all-gather makes."""
    shapes = re.findall(r"= \w+\[([\d,]+)\]\S* all-gather", text)
    return max((int(np.prod([int(n) for n in shape.split(",")])) for shape in shapes), default=0)


def main() -> dict:
    draw = np.random.default_rng(0)
    hidden_BTD = jnp.asarray(draw.standard_normal((B, T, D)), jnp.float32)
    head_DV = jnp.asarray(draw.standard_normal((D, V)), jnp.float32)
    targets_BT = jnp.asarray(draw.integers(0, V, (B, T)))
    few_BT = targets_BT % N_TOKENS
    segments_BT = jnp.asarray(np.tile(np.repeat([1, 2, 0], [10, 9, 5]), (B, 1)))
    q_BTNH, *kv = (jnp.asarray(draw.standard_normal((B, T, n, H)), jnp.float32) for n in (N, K, K))
    found: dict = {}
    for name, shape in MESHES.items():
        mesh = make_mesh(shape)
        axes = [("batch", "length", None), ("embed", "vocab"), ("batch", "length")]
        difference, text = compare(log_prob_loss, (hidden_BTD, head_DV, targets_BT), axes, mesh)
        found[name] = {"log_probs": difference, "gathered": largest_gather(text)}
        padded, args = functools.partial(log_prob_loss, n_tokens=N_TOKENS), (hidden_BTD, head_DV, few_BT)
        found[name]["padded"] = compare(padded, args, axes, mesh, reference=cut_log_prob_loss)[0]
        logprobs.BLOCK_AT_MOST, whole = 1, logprobs.BLOCK_AT_MOST  # bytes, of which the least block is more
        found[name]["blocks"] = compare(padded, args, axes, mesh, reference=cut_log_prob_loss)[0]
        logprobs.BLOCK_AT_MOST = whole
        loss = functools.partial(attention_loss, chunked_attention)
        args, axes = (q_BTNH, kv, segments_BT), [QUERIES, KEYS, ("batch", "length")]
        found[name]["attention"] = compare(loss, args, axes, mesh)[0]
    found["splash"] = splash_on_a_mesh(draw)
    return found


def splash_on_a_mesh(draw) -> float:
    """The largest difference of splash attention, interpreted on a mesh with context, to the chunked form."""
    q, k, v = (jnp.asarray(draw.standard_normal((1, 256, n, H)), jnp.float32) for n in (2, 1, 1))
    segments = jnp.asarray(np.repeat([1, 2, 0], [100, 106, 50])[None])
    interpreted = functools.partial(splash_attention, interpret=True)
    splash, chunked = (functools.partial(attention_loss, form) for form in (interpreted, chunked_attention))
    mesh = make_mesh(dict(context=2), jax.devices()[:2])
    axes = [QUERIES, KEYS, ("batch", "length")]
    return compare(splash, (q, (k, v), segments), axes, mesh, reference=chunked)[0]


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    print(json.dumps(main()))
