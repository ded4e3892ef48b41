"""The engine's three device programs: prefill chunks, copy chunks into slots, decode a block.

Each has one shape a run, so nothing recompiles and a row's bits do not depend on its neighbours.
A pool is a KVCache of `chunk` tokens a row (its last row is scratch); a slot cache has one row a
slot. Both lie as `sharding` says (kv_cache.cache_sharding), on all devices that the model is split over.
Which request is where is the scheduler's business.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.lax import with_sharding_constraint
from jax.sharding import NamedSharding

from o1jax.engine.sampling import sample, uniform
from o1jax.model.init import merge
from o1jax.model.kv_cache import KVCache, Pages, read, write
from o1jax.parallel.mesh import replicated, spec_of


class Slots(NamedTuple):
    """What decoding knows of every slot. `token_B` is the last token, not yet in the cache, at
    `position_B`; `generated_B` of at most `limit_B` tokens are sampled; a stop id of -1 is none."""

    live_B: jax.Array  # bool
    token_B: jax.Array
    position_B: jax.Array
    generated_B: jax.Array
    limit_B: jax.Array
    seed_B: jax.Array  # uint32
    temperature_B: jax.Array  # float32
    top_p_B: jax.Array  # float32
    top_k_B: jax.Array
    stop_ids_BE: jax.Array


class Decoded(NamedTuple):
    """The tokens of one decoded block: entry [t, b] counts where t < count_B[b]."""

    tokens_TB: jax.Array
    log_probs_TB: jax.Array  # float32
    count_B: jax.Array
    steps: jax.Array


@functools.partial(jax.jit, static_argnames=("graphdef", "sharding"), donate_argnames=("pool",))
def prefill(
    graphdef: nnx.GraphDef,
    sharding: NamedSharding,
    params: nnx.State,
    pool: KVCache,
    tokens_RT: jax.Array,
    length_R: jax.Array,
    start_R: jax.Array,
    table_RC: jax.Array,
    target_R: jax.Array,
) -> KVCache:
    """Computes the keys and values of one chunk a row and writes them to pool chunk target_R.

    Row r holds length_R[r] tokens from position start_R[r] on; the pool chunks table_RC[r] are its
    prompt's, of which those before it are there or are other rows. Later ones are not seen.
    """
    R, T = tokens_RT.shape
    assert T == pool.slots and start_R.shape == length_R.shape == target_R.shape == (R,)
    S = table_RC.shape[1] * T
    offset_T = jnp.arange(T)
    positions_RT = jnp.where(offset_T < length_R[:, None], start_R[:, None] + offset_T, S)
    _, pool = merge(graphdef, params).cached(tokens_RT, positions_RT, pool, Pages(target_R, table_RC))
    return with_sharding_constraint(pool, sharding)


@functools.partial(jax.jit, static_argnames=("sharding",), donate_argnames=("cache",))
def copy_chunks(
    sharding: NamedSharding,
    cache: KVCache,
    pool: KVCache,
    n: jax.Array,
    source_M: jax.Array,
    slot_M: jax.Array,
    start_M: jax.Array,
) -> KVCache:
    """Copies pool chunk source_M[m] to position start_M[m] of slot slot_M[m], for m < n."""

    def one(m: jax.Array, cache: KVCache) -> KVCache:
        return write(cache, read(pool, source_M[m], 0, pool.slots), slot_M[m], start_M[m])

    return with_sharding_constraint(jax.lax.fori_loop(0, n, one, cache), sharding)


@functools.partial(
    jax.jit, static_argnames=("graphdef", "sharding", "block", "n_tokens"), donate_argnames=("cache",)
)
def decode(
    graphdef: nnx.GraphDef,
    sharding: NamedSharding,
    params: nnx.State,
    cache: KVCache,
    slots: Slots,
    patience: jax.Array,
    block: int,
    n_tokens: int | None = None,
) -> tuple[KVCache, Decoded]:
    """Decodes up to `block` tokens a live slot; ends early when `patience` slots have finished.

    A slot finishes at one of its stop ids or at its limit, and then neither writes nor counts. Ids from
    `n_tokens` on (None: there are none), the rows of a padded vocabulary, are never sampled and have no
    share of the distribution.
    """
    B, S = slots.token_B.shape[0], cache.slots
    model, mesh = merge(graphdef, params), sharding.mesh
    of_shards = NamedSharding(mesh, spec_of((None, "vocab")))
    n_live = jnp.sum(slots.live_B)

    def unfinished(carry) -> jax.Array:
        _, slots, out = carry
        still_live = jnp.sum(slots.live_B)
        return (out.steps < block) & (still_live > 0) & (n_live - still_live < patience)

    def step(carry):
        cache, slots, out = carry
        positions_B = jnp.where(slots.live_B, slots.position_B, S)
        hidden_BTD, cache = model.cached(slots.token_B[:, None], positions_B[:, None], cache)
        draw_B = uniform(slots.seed_B, slots.generated_B.astype(jnp.uint32))
        # Made in shards, or the head would be gathered; sampled from whole, with the bits of one device.
        logits_BV = with_sharding_constraint(model.logits(hidden_BTD[:, 0]), of_shards)
        logits_BV = with_sharding_constraint(logits_BV, replicated(mesh))[:, :n_tokens]
        token_B, log_prob_B = sample(logits_BV, draw_B, slots.temperature_B, slots.top_p_B, slots.top_k_B)
        out = Decoded(
            out.tokens_TB.at[out.steps].set(token_B),
            out.log_probs_TB.at[out.steps].set(log_prob_B),
            out.count_B + slots.live_B,
            out.steps + 1,
        )
        return with_sharding_constraint(cache, sharding), advance(slots, token_B), out

    empty = Decoded(
        jnp.zeros((block, B), jnp.int32),
        jnp.zeros((block, B), jnp.float32),
        jnp.zeros(B, jnp.int32),
        jnp.int32(0),
    )
    cache, _, out = jax.lax.while_loop(unfinished, step, (cache, slots, empty))
    return cache, out


def advance(slots: Slots, token_B: jax.Array) -> Slots:
    """The slots after sampling token_B: live ones move on by one position, or finish."""
    generated_B = slots.generated_B + slots.live_B
    stopped_B = jnp.any(token_B[:, None] == slots.stop_ids_BE, axis=-1) | (generated_B >= slots.limit_B)
    return slots._replace(
        live_B=slots.live_B & ~stopped_B,
        token_B=jnp.where(slots.live_B, token_B, slots.token_B),
        position_B=slots.position_B + slots.live_B,
        generated_B=generated_B,
    )
