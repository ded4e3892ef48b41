"""The kernel over live keys, its operations run one by one: what cached_attention gives, row by row."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_engine as tiny

from o1jax.engine.jax_engine.decode_attention import KEYS, live_attention
from o1jax.model.attention import cached_attention
from o1jax.records import InputError

B, N, K, H = 5, 3, 1, 16


live = jax.jit(functools.partial(live_attention, interpret=True))


def inputs(S: int):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (B, 1, N, H), (B, K, H, S), (B, K, S, H)
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize("S", [KEYS, 4 * KEYS])
def test_live_keys_alone_give_what_the_whole_context_gives(S):
    q_BTNH, k_BKHS, v_BKSH = inputs(S)
    positions_B1 = jnp.asarray([0, 1, KEYS - 1, S // 2, S - 1])[:, None]
    # What is past a row's position is never read: it may be anything.
    past_BS = jnp.arange(S) > positions_B1
    k_seen = jnp.where(past_BS[:, None, None], jnp.nan, k_BKHS).at[:, :, :, :KEYS].set(k_BKHS[..., :KEYS])
    found = live(q_BTNH, k_BKHS, v_BKSH, positions_B1)
    np.testing.assert_allclose(found, cached_attention(q_BTNH, k_BKHS, v_BKSH, positions_B1), atol=2e-6)
    first = live(q_BTNH, k_seen, v_BKSH, positions_B1)
    assert np.array_equal(first[:3], found[:3])  # those whose live keys are in the first block


def test_neighbours_and_rest_change_no_bit():
    S = 4 * KEYS
    q_BTNH, k_BKHS, v_BKSH = inputs(S)
    positions_B1 = jnp.asarray([7, 70, 130, 200, 255])[:, None]
    found = live(q_BTNH, k_BKHS, v_BKSH, positions_B1)
    resting = live(q_BTNH, k_BKHS, v_BKSH, positions_B1.at[1:4].set(S))
    assert np.array_equal(resting[::4], found[::4]) and np.all(np.isfinite(resting))


def test_it_is_refused_where_it_cannot_run():
    with pytest.raises(InputError, match="takes one GPU"):
        tiny.engine(decode_attention="live")
