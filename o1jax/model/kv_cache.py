"""The key-value cache that decoding reads and writes: one pair of arrays a layer.

Knows nothing of prefixes or requests; engines move rows with `read` and `write`.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from o1jax.model.config import ModelConfig
from o1jax.parallel.mesh import spec_of


class Pages(NamedTuple):
    """Where B new chunks lie in a cache that has a chunk a row."""

    target_B: jax.Array  # the row that chunk b is written to
    table_BC: jax.Array  # the rows that its queries read, joined along their slots; of other new chunks too


class KVCache(NamedTuple):
    """One array for each of the L layers; a NamedTuple, so a pytree."""

    # A tuple of arrays, not one stacked array: a loop updates each in place, where a slice of a stacked
    # array is copied at every step. Laid out as both products of attention read them, without a transpose
    # (on a CPU 1.8 times the speed of BSKH).
    k_BKHS: tuple[jax.Array, ...]
    v_BKSH: tuple[jax.Array, ...]

    @property
    def slots(self) -> int:
        return self.v_BKSH[0].shape[2]


def init_cache(config: ModelConfig, rows: int, slots: int, sharding: NamedSharding | None = None) -> KVCache:
    """A cache of zeros for `rows` sequences of up to `slots` tokens, in the compute dtype."""
    layers, K, H = range(config.n_layers), config.n_kv_heads, config.head_dim
    zeros = functools.partial(jnp.zeros, dtype=config.compute_dtype, device=sharding)
    return KVCache(
        tuple(zeros((rows, K, H, slots)) for _ in layers), tuple(zeros((rows, K, slots, H)) for _ in layers)
    )


def cache_sharding(mesh: Mesh) -> NamedSharding:
    """That of every array of a cache: key heads are split as those of the kernels that make them."""
    return NamedSharding(mesh, spec_of((None, "kv_heads")))


def write_layer(k_BKHS, v_BKSH, k_BTKH, v_BTKH, positions_BT) -> tuple[jax.Array, jax.Array]:
    """One layer's arrays with new keys and values at slots positions_BT; those outside [0, S) are dropped."""
    B, _, S, _ = v_BKSH.shape
    rows_B1 = jnp.arange(B)[:, None]
    slots_BT = jnp.where(positions_BT < 0, S, positions_BT)  # a negative index would count from the end
    k_BKHS = k_BKHS.at[rows_B1, :, :, slots_BT].set(k_BTKH.astype(k_BKHS.dtype), mode="drop")
    v_BKSH = v_BKSH.at[rows_B1, :, slots_BT].set(v_BTKH.astype(v_BKSH.dtype), mode="drop")
    return k_BKHS, v_BKSH


def write_pages(k_BKHS, v_BKSH, k_BTKH, v_BTKH, pages: Pages) -> tuple[jax.Array, jax.Array]:
    """One layer's arrays with new chunks, which fill their rows, at pages.target_B."""
    # Whole rows and no positions: what padding writes behind a short chunk is past every query's position.
    k_BKHT, v_BKTH = jnp.einsum("BTKH->BKHT", k_BTKH), jnp.einsum("BTKH->BKTH", v_BTKH)
    k_BKHS = k_BKHS.at[pages.target_B].set(k_BKHT.astype(k_BKHS.dtype))
    return k_BKHS, v_BKSH.at[pages.target_B].set(v_BKTH.astype(v_BKSH.dtype))


def read_pages(k_BKHS, v_BKSH, pages: Pages) -> tuple[jax.Array, jax.Array]:
    """One layer's keys [B, K, H, C*S] and values [B, K, C*S, H] of the rows pages.table_BC."""
    k_BKHCS = jnp.moveaxis(k_BKHS[pages.table_BC], 1, 3)
    v_BKCSH = jnp.moveaxis(v_BKSH[pages.table_BC], 1, 2)
    return k_BKHCS.reshape(*k_BKHCS.shape[:3], -1), v_BKCSH.reshape(*v_BKCSH.shape[:2], -1, v_BKCSH.shape[4])


def read(cache: KVCache, row: jax.Array | int, start: jax.Array | int, size: int) -> KVCache:
    """A cache of one row with the `size` (static) slots from `start` of `row`."""
    keys = tuple(jax.lax.dynamic_slice(k, (row, 0, 0, start), (1, *k.shape[1:3], size)) for k in cache.k_BKHS)
    values = tuple(
        jax.lax.dynamic_slice(v, (row, 0, start, 0), (1, v.shape[1], size, v.shape[3])) for v in cache.v_BKSH
    )
    return KVCache(keys, values)


def write(cache: KVCache, part: KVCache, row: jax.Array | int, start: jax.Array | int) -> KVCache:
    """`cache` with `part` (rows and slots of any static number) at `row` and slot `start`."""
    keys = tuple(
        jax.lax.dynamic_update_slice(k, new, (row, 0, 0, start))
        for k, new in zip(cache.k_BKHS, part.k_BKHS, strict=True)
    )
    values = tuple(
        jax.lax.dynamic_update_slice(v, new, (row, 0, start, 0))
        for v, new in zip(cache.v_BKSH, part.v_BKSH, strict=True)
    )
    return KVCache(keys, values)
