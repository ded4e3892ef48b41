"""The engine's device programs: prefill chunks, copy chunks into slots, edit slots, decode a block.

Each has one shape a run, so nothing recompiles and a row's bits do not depend on its neighbours (D2).
A pool is a KVCache of `chunk` tokens a row (its last row is scratch); a slot cache has one row a
slot. Both lie as `sharding` says (kv_cache.cache_sharding), on all devices that the model is split over.
Which request is where is the scheduler's business.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental.layout import Format, Layout
from jax.lax import with_sharding_constraint
from jax.sharding import NamedSharding

from o1jax.engine.jax_engine.sampling import sample, uniform
from o1jax.model.attention import cached_attention
from o1jax.model.config import ModelConfig
from o1jax.model.init import merge
from o1jax.model.kv_cache import KVCache, Pages, init_cache, read, write
from o1jax.model.transformer import Attend, Transformer
from o1jax.parallel.mesh import replicated, spec_of

STOP_IDS = 8  # stop tokens a slot that the device itself can see: every step compares with each
# Axes of keys BKHS and values BKSH from major to minor. Unasked, a TPU's compiler decodes with all heads of a
# token side by side, and converts the whole cache before and after every block.
HEADS_TOGETHER = (0, 3, 1, 2), (0, 2, 1, 3)
AS_NAMED = (0, 1, 2, 3), (0, 1, 2, 3)
LAYOUTS = {"cpu": AS_NAMED, "gpu": AS_NAMED, "tpu": HEADS_TOGETHER}
COPIES = 64  # chunks that one call copies, at most


class Slots(NamedTuple):
    """What decoding knows of every slot; int32 where nothing is said."""

    live_B: jax.Array  # bool
    token_B: jax.Array  # the last token, whose keys and values are not yet in the cache
    position_B: jax.Array  # of that token
    generated_B: jax.Array  # tokens sampled so far
    limit_B: jax.Array  # tokens to sample, at most
    seed_B: jax.Array  # uint32
    temperature_B: jax.Array  # float32
    top_p_B: jax.Array  # float32
    top_k_B: jax.Array
    stop_ids_BE: jax.Array  # -1: none


def empty_slots(B: int) -> Slots:
    """No live slot: arrays on the host, to be written in place."""
    integers, floats = (lambda: np.zeros(B, np.int32)), (lambda: np.ones(B, np.float32))
    return Slots(
        live_B=np.zeros(B, bool),
        token_B=integers(),
        position_B=integers(),
        generated_B=integers(),
        limit_B=integers(),
        seed_B=np.zeros(B, np.uint32),
        temperature_B=floats(),
        top_p_B=floats(),
        top_k_B=integers(),
        stop_ids_BE=np.full((B, STOP_IDS), -1, np.int32),
    )


class Decoded(NamedTuple):
    """The tokens of one decoded block: entry [t, b] counts where t < count_B[b]."""

    tokens_TB: jax.Array  # int32
    log_probs_TB: jax.Array  # float32
    count_B: jax.Array  # tokens of each slot
    steps: jax.Array  # how many were decoded, at most the block


class Programs(NamedTuple):
    """Compiled functions of arrays alone: `leaves` are those of the parameters, in jax.tree's order."""

    prefill: Callable[..., KVCache]  # (leaves, pool, tokens_RT, length_R, start_R, table_RC, target_R)
    copy_chunks: Callable[..., KVCache]  # (cache, pool, source_M, slot_M, start_M)
    edit: Callable[..., Slots]  # (slots, edits, changed_B)
    decode: Callable[..., tuple[KVCache, Slots, Decoded]]  # (leaves, cache, slots, patience)


@functools.cache  # by what is compiled in: engines of one shape share their programs
def compiled(
    graphdef: nnx.GraphDef,
    structure: jax.tree_util.PyTreeDef,
    sharding: NamedSharding,
    block: int,
    n_tokens: int | None = None,
    attend: Attend = cached_attention,
) -> Programs:
    """The programs of a model, whose parameters have this structure, with caches that lie as `sharding` says.

    `n_tokens`, `attend`: see decode. Each compiles at its first call with a shape.
    """

    # Closed over the model: as a static argument its graph would be hashed at every call, and the parameters'
    # tree flattened by Python code, together 3 ms at 28 layers.
    def model(leaves: Sequence[jax.Array]) -> Transformer:
        return merge(graphdef, jax.tree.unflatten(structure, leaves))

    def prefill_leaves(leaves, pool, tokens_RT, length_R, start_R, table_RC, target_R):
        return prefill(model(leaves), sharding, pool, tokens_RT, length_R, start_R, table_RC, target_R)

    def decode_leaves(leaves, cache, slots, patience):
        return decode(model(leaves), sharding, cache, slots, patience, block, n_tokens, attend)

    platform, formats = sharding.mesh.devices.flat[0].platform, slot_formats(sharding)
    # Donated: caches and slots are updated where they lie, and never exist twice.
    return Programs(
        prefill=jax.jit(prefill_leaves, donate_argnames="pool"),
        copy_chunks=jax.jit(
            functools.partial(COPY[platform], sharding),
            donate_argnums=0,
            in_shardings=(formats, None, None, None, None),
            out_shardings=formats,
        ),
        edit=jax.jit(edit, donate_argnames="slots"),
        decode=jax.jit(
            decode_leaves,
            donate_argnums=(1, 2),
            in_shardings=(None, formats, None, None),
            out_shardings=(formats, None, None),
        ),
    )


def slot_formats(sharding: NamedSharding) -> KVCache:
    """How the arrays of a slot cache lie in memory: of keys, of values."""
    platform = sharding.mesh.devices.flat[0].platform
    return KVCache(*(Format(Layout(order), sharding) for order in LAYOUTS[platform]))


def empty_slot_cache(config: ModelConfig, sharding: NamedSharding, rows: int, size: int) -> KVCache:
    """init_cache of what decoding writes."""
    make = jax.jit(lambda: init_cache(config, rows, size), out_shardings=slot_formats(sharding))
    return make()


def prefill(
    model: Transformer,
    sharding: NamedSharding,
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
    # Padding gets the position past the last: what it writes is dropped, and no token of the chunk sees it.
    positions_RT = jnp.where(offset_T < length_R[:, None], start_R[:, None] + offset_T, S)
    _, pool = model.cached(tokens_RT, positions_RT, pool, Pages(target_R, table_RC))
    return with_sharding_constraint(pool, sharding)


def copy_in_turn(
    sharding: NamedSharding,
    cache: KVCache,
    pool: KVCache,
    source_M: jax.Array,
    slot_M: jax.Array,
    start_M: jax.Array,
) -> KVCache:
    """Copies pool chunk source_M[m] to position start_M[m] of slot slot_M[m]; past the last slot: no more."""

    def one(m: jax.Array, cache: KVCache) -> KVCache:
        return write(cache, read(pool, source_M[m], 0, pool.slots), slot_M[m], start_M[m])

    n = jnp.sum(slot_M < cache.v_BKSH[0].shape[0])
    return with_sharding_constraint(jax.lax.fori_loop(0, n, one, cache), sharding)


def copy_at_once(
    sharding: NamedSharding,
    cache: KVCache,
    pool: KVCache,
    source_M: jax.Array,
    slot_M: jax.Array,
    start_M: jax.Array,
) -> KVCache:
    """copy_in_turn as one gather and one scatter an array: on a GPU the host checks every turn of a loop."""
    T, chunk_M = pool.slots, start_M // pool.slots

    def keys(cache_BKHS: jax.Array, pool_PKHT: jax.Array) -> jax.Array:
        cache_BKHCT = cache_BKHS.reshape(*cache_BKHS.shape[:3], -1, T)
        cache_BKHCT = cache_BKHCT.at[slot_M, :, :, chunk_M].set(pool_PKHT[source_M], mode="drop")
        return cache_BKHCT.reshape(cache_BKHS.shape)

    def values(cache_BKSH: jax.Array, pool_PKTH: jax.Array) -> jax.Array:
        B, K, S, H = cache_BKSH.shape
        cache_BKCTH = cache_BKSH.reshape(B, K, S // T, T, H)
        cache_BKCTH = cache_BKCTH.at[slot_M, :, chunk_M].set(pool_PKTH[source_M], mode="drop")
        return cache_BKCTH.reshape(cache_BKSH.shape)

    cache = KVCache(
        tuple(map(keys, cache.k_BKHS, pool.k_BKHS)), tuple(map(values, cache.v_BKSH, pool.v_BKSH))
    )
    return with_sharding_constraint(cache, sharding)


# A TPU would convert the whole cache for a scatter, and on a CPU the loop takes half its time.
COPY = {"cpu": copy_in_turn, "gpu": copy_at_once, "tpu": copy_in_turn}


def edit(slots: Slots, edits: Slots, changed_B: jax.Array) -> Slots:
    """`slots` with the rows of `edits` where changed."""

    def one(old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(changed_B.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    return jax.tree.map(one, slots, edits)


def decode(
    model: Transformer,
    sharding: NamedSharding,
    cache: KVCache,
    slots: Slots,
    patience: jax.Array,
    block: int,
    n_tokens: int | None = None,
    attend: Attend = cached_attention,
) -> tuple[KVCache, Slots, Decoded]:
    """Decodes up to `block` tokens a live slot; ends early when `patience` slots have finished.

    A slot finishes at one of its stop ids or at its limit, and then neither writes nor counts. Ids from
    `n_tokens` on (None: there are none), the rows of a padded vocabulary, are never sampled and have no
    share of the distribution. `attend` is its attention to the cache.
    """
    B, S = slots.token_B.shape[0], cache.slots
    mesh = sharding.mesh
    of_shards = NamedSharding(mesh, spec_of((None, "vocab")))
    n_live = jnp.sum(slots.live_B)

    def unfinished(carry) -> jax.Array:
        _, slots, out = carry
        still_live = jnp.sum(slots.live_B)
        return (out.steps < block) & (still_live > 0) & (n_live - still_live < patience)

    def step(carry):
        cache, slots, out = carry
        positions_B = jnp.where(slots.live_B, slots.position_B, S)  # S: a slot that rests writes nothing
        hidden_BTD, cache = model.cached(slots.token_B[:, None], positions_B[:, None], cache, attend=attend)
        # By the sample's own count, not the step: where in a block a token falls must not change it (D2).
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
    cache, slots, out = jax.lax.while_loop(unfinished, step, (cache, slots, empty))
    return cache, with_sharding_constraint(slots, replicated(mesh)), out


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
