"""Sums over the sequences packed into rows, and back: a value a sequence to a value a token.

Knows segment ids and nothing of what is summed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def part_sums(values_BT: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
    """sums_BS over the positions of every segment, S = T + 1; segment 0 is padding."""
    assert values_BT.shape == segment_ids_BT.shape
    segments = values_BT.shape[1] + 1
    return jax.vmap(lambda x_T, s_T: jax.ops.segment_sum(x_T, s_T, segments))(values_BT, segment_ids_BT)


def spread(values_BS: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
    """values_BT: at every position its segment's value."""
    return jnp.take_along_axis(values_BS, segment_ids_BT, axis=1)
