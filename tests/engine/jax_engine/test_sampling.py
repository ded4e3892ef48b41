"""The sampler: uniform bits, the right distribution, exact filters, rows that do not see each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.engine.jax_engine.sampling import (
    CANDIDATES,
    filter_threshold,
    inverse_cdf,
    sample,
    uniform,
    wide_threshold,
)


def draws(seeds, counters):
    return np.asarray(jax.jit(uniform)(jnp.asarray(seeds, jnp.uint32), jnp.asarray(counters, jnp.uint32)))


def chi_square_z(counts) -> float:
    """How many standard deviations the counts are from uniform."""
    freedom = counts.size - 1
    return (((counts - counts.mean()) ** 2 / counts.mean()).sum() - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize("first_seed", [0, 12345, 2**32 - 500])
def test_draws_are_uniform_over_neighbouring_seeds_and_counters(first_seed):
    seeds = (first_seed + np.arange(500)) % 2**32
    u = draws(seeds[:, None], np.arange(400)[None])
    assert u.min() >= 0 and u.max() < 1
    assert abs(chi_square_z(np.histogram(u, 500, (0, 1))[0])) < 4
    neighbours = (u[:, ::2], u[:, 1::2]), (u[::2], u[1::2])
    for a, b in neighbours:
        assert abs(chi_square_z(np.histogram2d(a.ravel(), b.ravel(), 16)[0])) < 4


def test_two_seeds_streams_are_not_shifts_of_one_another():
    u = draws(np.arange(200)[:, None], np.arange(200)[None])
    assert len(np.unique(u)) > 0.99 * u.size


@pytest.mark.parametrize("V", [7, 32, 100])
def test_samples_follow_the_softmax_with_temperature(V):
    logits_V = jax.random.normal(jax.random.key(V), (V,)) * 2
    n = 40_000

    @jax.jit
    def drawn(logits_V):
        u_B = uniform(jnp.zeros(n, jnp.uint32), jnp.arange(n, dtype=jnp.uint32))
        logits_BV = jnp.tile(logits_V, (n, 1))
        return sample(logits_BV, u_B, jnp.full(n, 0.7), jnp.ones(n), jnp.zeros(n, jnp.int32))

    tokens_B, log_probs_B = drawn(logits_V)
    probs_V = np.asarray(jax.nn.softmax(logits_V / 0.7))
    seen_V = np.bincount(tokens_B, minlength=V) / n
    np.testing.assert_allclose(seen_V, probs_V, atol=5 * np.sqrt(probs_V.max() / n))
    np.testing.assert_allclose(np.exp(log_probs_B), probs_V[tokens_B], rtol=1e-5)


def test_inverse_cdf_hits_every_boundary_and_never_a_zero():
    weights_V = np.zeros(70, np.float32)
    weights_V[[3, 40, 65]] = 1, 2, 1
    u = jnp.asarray([0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-24], jnp.float32)
    tokens = jax.jit(inverse_cdf)(jnp.tile(jnp.asarray(weights_V), (6, 1)), u)
    assert tokens.tolist() == [3, 3, 40, 40, 65, 65]


def test_filters_keep_exactly_the_top_tokens():
    logits_BV = jax.random.normal(jax.random.key(0), (6, 50))
    top_k_B = jnp.asarray([0, 1, 5, 50, 99, 10])
    top_p_B = jnp.asarray([0.5, 1.0, 1.0, 0.9, 1.0, 0.3])
    thresholds_B = np.asarray(jax.jit(filter_threshold)(logits_BV, top_p_B, top_k_B))
    kept_BV = np.asarray(logits_BV) >= thresholds_B[:, None]
    for logits_V, k, p, kept_V in zip(np.asarray(logits_BV), top_k_B, top_p_B, kept_BV, strict=True):
        order = np.argsort(-logits_V)[: int(k) or 50]
        top = np.exp(logits_V[order]) / np.exp(logits_V[order]).sum()
        wanted = order[(np.cumsum(top) - top < p) | (p >= 1)]
        assert set(np.flatnonzero(kept_V)) == set(wanted)


@pytest.mark.parametrize("V", [50, 2500, 9001])
@pytest.mark.parametrize("spread", [0.2, 1.0, 6.0])  # from rows that no candidates fill to peaked ones
def test_one_pass_keeps_the_tokens_that_sixty_four_keep(V, spread):
    settings = [(k, p) for k in (0, 1, 2, 40, CANDIDATES, CANDIDATES + 1, V) for p in (0.1, 0.9, 0.95, 1.0)]
    top_k_B, top_p_B = (np.asarray(column * 4) for column in map(list, zip(*settings, strict=True)))
    logits_BV = np.asarray(jax.random.normal(jax.random.key(V), (len(top_k_B), V)) * spread).copy()
    logits_BV[: len(settings)] = logits_BV[: len(settings)].round(1)  # ties
    logits_BV[-len(settings) :, V // 3 :] = -np.inf
    exp_BV = jnp.exp(logits_BV - logits_BV.max(axis=-1, keepdims=True))
    found_B = jax.jit(filter_threshold)(logits_BV, top_p_B, top_k_B)
    k_B = np.where(top_k_B > 0, np.minimum(top_k_B, V), V)
    wanted_B = jax.jit(wide_threshold)(logits_BV, exp_BV, top_p_B, k_B)
    assert np.array_equal(logits_BV >= found_B[:, None], logits_BV >= wanted_B[:, None])


def test_a_wide_neighbour_does_not_change_a_bit():
    logits_BV = jax.random.normal(jax.random.key(1), (4, 5000))
    u_B, ones_B, k_B = jnp.linspace(0.1, 0.9, 4), jnp.ones(4), jnp.asarray([40, 0, 3, 7])
    p_B = jnp.asarray([0.95, 0.01, 1.0, 0.5])  # of the second: few tokens
    run = jax.jit(sample)
    narrow = run(logits_BV, u_B, ones_B, p_B, k_B)
    for wide in ((0, 0.99), (500, 0.99)):
        mixed = run(logits_BV, u_B, ones_B, p_B.at[3].set(wide[1]), k_B.at[3].set(wide[0]))
        for a, b in zip(narrow, mixed, strict=True):
            assert np.array_equal(a[:3], b[:3])


def test_a_filtered_neighbour_does_not_change_a_bit():
    logits_BV = jax.random.normal(jax.random.key(1), (4, 300))
    u_B, ones_B = jnp.linspace(0.1, 0.9, 4), jnp.ones(4)
    run = jax.jit(sample)
    plain = run(logits_BV, u_B, ones_B, ones_B, jnp.zeros(4, jnp.int32))
    mixed = run(logits_BV, u_B, ones_B, ones_B.at[3].set(0.2), jnp.asarray([0, 0, 0, 2]))
    for a, b in zip(plain, mixed, strict=True):
        assert np.array_equal(a[:3], b[:3])
