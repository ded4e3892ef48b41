import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.losses import policy_gradient
from o1jax.losses.likelihood import part_sums, spread

LOW, HIGH = 0.2, 0.28
SEGMENTS_BT = jnp.array([[1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 1, 1, 0, 0, 0]])
MASK_BT = jnp.array([[0, 1, 1, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0, 0, 0]])
ALGORITHMS = {
    "reinforce": lambda lp, old, adv, mask: policy_gradient.reinforce(lp, adv, mask),
    "clipped": functools.partial(policy_gradient.clipped, low=LOW, high=HIGH),
    "cispo": functools.partial(policy_gradient.cispo, low=LOW, high=HIGH),
    "sequence": lambda lp, old, adv, mask: policy_gradient.sequence_clipped(
        lp, old, adv, mask, SEGMENTS_BT, LOW, HIGH
    ),
}


def row(*values) -> jax.Array:
    return jnp.array([values], jnp.float32)


def drawn(std: float = 0.3):
    """(log_probs, old, advantages), [2, 8]."""
    random = np.random.default_rng(0)
    log_probs_BT = -random.random((2, 8)) * 3
    old_BT = log_probs_BT + std * random.standard_normal((2, 8))
    return log_probs_BT, old_BT, random.standard_normal((2, 8))


def naive_segments(of_segment) -> tuple[np.ndarray, np.ndarray]:
    """(terms, gradients), where of_segment gives both for the indices of one segment's action tokens."""
    terms_BT, gradients_BT = np.zeros((2, 8)), np.zeros((2, 8))
    segments, mask = np.asarray(SEGMENTS_BT), np.asarray(MASK_BT)
    for b in range(2):
        for segment in set(segments[b]) - {0}:
            at = b, np.flatnonzero((segments[b] == segment) & (mask[b] == 1))
            terms_BT[at], gradients_BT[at] = of_segment(at)
    return terms_BT, gradients_BT


def test_reinforce_by_hand():
    terms_BT, clipped_BT = policy_gradient.reinforce(row(-2, -3, -5), row(0.5, -1, 9), row(1, 1, 0))
    assert terms_BT.tolist() == [[1, -3, 0]] and not clipped_BT.any()


@pytest.mark.parametrize(
    "ratio, advantage, term, gradient",
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.2, 2.0, -2.4, -2.4),
        (1.5, 2.0, -2.56, 0.0),  # held at 1.28
        (0.5, 2.0, -1.0, -1.0),  # too improbable already: nothing holds it back
        (0.5, -2.0, 1.6, 0.0),  # held at .8
        (1.5, -2.0, 3.0, 3.0),
        (1.28, 2.0, -2.56, -2.56),
    ],
)
def test_the_clipped_ratio_by_hand(ratio, advantage, term, gradient):
    old, advantages, mask = row(-1.5), row(advantage), row(1)

    def total(log_probs):
        return policy_gradient.clipped(log_probs, old, advantages, mask, LOW, HIGH + 1e-6).terms_BT.sum()

    found = jax.value_and_grad(total)(old + np.log(ratio))
    np.testing.assert_allclose([found[0], found[1][0, 0]], [term, gradient], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "ratio, push, gradient",
    [(1.0, 2.0, 2.0), (1.5, 2.0, 3.0), (5.0, 2.0, 4.0), (0.81, 1.0, 0.81), (0.79, 2.0, 0.0), (1.0, 0.0, 0.0)],
)
def test_a_push_by_hand_ends_at_its_bound_and_grows_no_further_than_the_cap(ratio, push, gradient):
    old = row(-1.5)

    def total(log_probs):
        return policy_gradient.pushed_down(log_probs, old, row(push), LOW, 2.0).terms_BT.sum()

    log_probs = old + np.log(ratio)
    np.testing.assert_allclose(jax.grad(total)(log_probs), [[gradient]], rtol=1e-5, atol=1e-6)
    clipped_BT = policy_gradient.pushed_down(log_probs, old, row(push), LOW, 2.0).clipped_BT
    assert bool(clipped_BT[0, 0]) == (ratio < 0.8)
    if push and ratio < 2:  # it is PPO's gradient with the advantage -push

        def clipped(log_probs):
            return policy_gradient.clipped(log_probs, old, row(-push), row(1), LOW, HIGH).terms_BT.sum()

        np.testing.assert_allclose(jax.grad(clipped)(log_probs), [[gradient]], rtol=1e-5, atol=1e-6)


def test_a_token_without_a_push_adds_nothing_whatever_stands_there():
    log_probs, old = row(-1.0, float("nan"), -jnp.inf), row(-1.0, float("nan"), 3.0)

    def total(log_probs):
        return policy_gradient.pushed_down(log_probs, old, row(1.0, 0.0, 0.0), LOW, 2.0).terms_BT.sum()

    value, gradient = jax.value_and_grad(total)(log_probs)
    assert value == -1.0 and gradient.tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    "ratio, weight",
    [(1.0, 1.0), (1.2, 1.2), (3.0, 1.28), (0.3, 0.8)],
    ids=["one", "inside", "above", "below"],
)
@pytest.mark.parametrize("advantage", [2.0, -1.0])
def test_cispo_by_hand_no_token_loses_its_gradient(ratio, weight, advantage):
    log_probs = row(-1.5)
    arguments = log_probs - np.log(ratio), row(advantage), row(1), LOW, HIGH
    terms_BT, clipped_BT = policy_gradient.cispo(log_probs, *arguments)
    gradient = jax.grad(lambda x: policy_gradient.cispo(x, *arguments).terms_BT.sum())(log_probs)
    np.testing.assert_allclose(terms_BT, [[weight * advantage * 1.5]], rtol=1e-5)
    np.testing.assert_allclose(gradient, [[-weight * advantage]], rtol=1e-5)
    assert bool(clipped_BT[0, 0]) == (ratio not in (1.0, 1.2))


def test_the_sequences_ratio_by_hand():
    # two action tokens of the first segment: log-ratios .1 and .3, e^.2 = 1.221403; one of the second: .3
    old, mask, segments = row(-1, -2, -3, -4, -5), row(1, 0, 1, 1, 0), jnp.array([[1, 1, 1, 2, 2]])
    log_probs = old + row(0.1, 7, 0.3, 0.3, 7)
    arguments = old, row(1, 1, -2, 1, 1), mask, segments, LOW, HIGH

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def total(log_probs):
        terms = policy_gradient.sequence_clipped(log_probs, *arguments)
        return terms.terms_BT.sum(), terms

    gradient, (terms_BT, clipped_BT) = total(log_probs)
    np.testing.assert_allclose(terms_BT, row(-1.221403, 0, 2.442806, -1.28, 0), rtol=1e-5)
    assert clipped_BT.tolist() == [[False, False, False, True, False]]
    np.testing.assert_allclose(gradient, row(-1.221403, 0, 2.442806, 0, 0), rtol=1e-5)


def test_one_advantage_a_sequence_gives_the_gradient_of_the_sequence_level_objective():
    log_probs_BT, old_BT, _ = drawn(0.1)
    advantages_BT = np.asarray(spread(jnp.array([[0, 1.5, -0.5] + [0] * 6] * 2), SEGMENTS_BT))

    def whole_sequences(log_probs_BT):
        total = 0.0
        for b, t in [(0, [1, 2]), (0, [4, 5, 6]), (1, [2, 3, 4])]:
            ratio = jnp.exp(jnp.mean(log_probs_BT[b, t] - old_BT[b, t]))
            gain = advantages_BT[b, t[0]]
            total -= jnp.minimum(ratio * gain, jnp.clip(ratio, 1 - LOW, 1 + HIGH) * gain) * len(t)
        return total

    def by_tokens(log_probs_BT):
        return ALGORITHMS["sequence"](log_probs_BT, old_BT, advantages_BT, MASK_BT).terms_BT.sum()

    wanted, found = (jax.jit(jax.value_and_grad(f))(log_probs_BT) for f in (whole_sequences, by_tokens))
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], wanted[1], atol=1e-6)


def naive(case: str, log_probs_BT, old_BT, advantages_BT):
    """(terms, gradients) of float64 loops."""

    def of_segment(at):
        lp, old, gain = log_probs_BT[at], old_BT[at], advantages_BT[at]
        ratio = np.full(len(lp), np.exp(np.mean(lp - old))) if case == "sequence" else np.exp(lp - old)
        bounded = np.clip(ratio, 1 - LOW, 1 + HIGH)
        if case == "reinforce":
            return -gain * lp, -gain
        if case == "cispo":
            return -bounded * gain * lp, -bounded * gain
        free = ratio * gain <= bounded * gain
        return -np.where(free, ratio * gain, bounded * gain), np.where(free, -ratio * gain, 0.0)

    return naive_segments(of_segment)


@pytest.mark.parametrize("case", ALGORITHMS)
def test_terms_and_gradients_equal_naive_ones(case):
    log_probs_BT, old_BT, advantages_BT = drawn()
    terms_BT, _ = ALGORITHMS[case](log_probs_BT, old_BT, advantages_BT, MASK_BT)
    gradients = jax.grad(lambda *x: ALGORITHMS[case](*x, MASK_BT).terms_BT.sum(), argnums=(0, 1, 2))(
        *map(jnp.asarray, (log_probs_BT, old_BT, advantages_BT))
    )
    wanted_BT, wanted_gradients_BT = naive(case, log_probs_BT, old_BT, advantages_BT)
    np.testing.assert_allclose(terms_BT, wanted_BT, atol=1e-5)
    np.testing.assert_allclose(gradients[0], wanted_gradients_BT, atol=1e-5)
    assert not gradients[1].any() and not gradients[2].any(), "gradients flow to the log-probs alone"


@pytest.mark.parametrize("case", ["reinforce", "clipped"])
def test_gradients_equal_finite_differences(case):
    log_probs_BT, old_BT, advantages_BT = drawn()

    def total(x_BT):
        return float(np.sum(ALGORITHMS[case](x_BT, old_BT, advantages_BT, MASK_BT).terms_BT))

    gradient_BT = jax.grad(lambda x: ALGORITHMS[case](x, old_BT, advantages_BT, MASK_BT).terms_BT.sum())(
        jnp.asarray(log_probs_BT)
    )
    for b, t in np.argwhere(np.asarray(SEGMENTS_BT)):
        step_BT = np.zeros((2, 8))
        step_BT[b, t] = 5e-3
        slope = (total(log_probs_BT + step_BT) - total(log_probs_BT - step_BT)) / 1e-2
        np.testing.assert_allclose(gradient_BT[b, t], slope, atol=2e-3)


@pytest.mark.parametrize("case", ALGORITHMS)
def test_at_the_old_policy_every_algorithm_is_the_policy_gradient_and_clips_nothing(case):
    log_probs_BT, _, advantages_BT = drawn()
    _, clipped_BT = ALGORITHMS[case](log_probs_BT, log_probs_BT, advantages_BT, MASK_BT)
    gradient_BT = jax.grad(
        lambda x: ALGORITHMS[case](x, jax.lax.stop_gradient(x), advantages_BT, MASK_BT).terms_BT.sum()
    )(jnp.asarray(log_probs_BT))
    assert not clipped_BT.any()
    np.testing.assert_allclose(gradient_BT, -advantages_BT * MASK_BT, rtol=1e-6)


@pytest.mark.parametrize("case", ALGORITHMS)
@pytest.mark.parametrize("nothing", [jnp.nan, jnp.inf, -jnp.inf])
def test_outside_the_mask_anything_may_stand(case, nothing):
    inputs = [jnp.asarray(values_BT, jnp.float32) for values_BT in drawn()]
    spoilt = [jnp.where(MASK_BT == 1, values_BT, nothing) for values_BT in inputs]

    def total(*arrays):
        terms = ALGORITHMS[case](*arrays, MASK_BT)
        return terms.terms_BT.sum(), terms

    wanted, found = (jax.value_and_grad(total, has_aux=True)(*arrays) for arrays in (inputs, spoilt))
    jax.tree.map(np.testing.assert_array_equal, wanted, found)
    (_, (terms_BT, clipped_BT)), gradient_BT = found
    outside = np.asarray(MASK_BT) == 0
    assert not terms_BT[outside].any() and not clipped_BT[outside].any()
    assert not gradient_BT[outside].any() and gradient_BT.any()


@pytest.mark.parametrize("case", ALGORITHMS)
@pytest.mark.parametrize("difference", [1e4, -1e4, jnp.inf])
@pytest.mark.parametrize("advantage", [1.0, 0.0, -1.0])
def test_policies_far_apart_overflow_nothing(case, difference, advantage):
    log_probs_BT, advantages_BT = -jnp.ones((2, 8)), jnp.full((2, 8), advantage)
    total, gradient_BT = jax.value_and_grad(
        lambda x: ALGORITHMS[case](x, log_probs_BT - difference, advantages_BT, MASK_BT).terms_BT.sum()
    )(log_probs_BT)
    assert jnp.isfinite(total) and jnp.isfinite(gradient_BT).all()


def test_truncated_weights_by_hand_without_gradient_and_outside_the_mask():
    proximal, behaviour = row(-1, -1, -1, jnp.nan), row(-1, -1.405465, -3, jnp.inf)
    mask = row(1, 1, 1, 0)
    weights_BT = policy_gradient.truncated_weights(proximal, behaviour, mask, 2.0)
    np.testing.assert_allclose(weights_BT, row(1, 1.5, 2, 0), rtol=1e-5)
    for argument in (0, 1):
        gradient = jax.grad(
            lambda *x: policy_gradient.truncated_weights(*x, mask, 2.0).sum(), argnums=argument
        )(proximal, behaviour)
        assert gradient.tolist() == [[0, 0, 0, 0]]


def test_k3_by_hand_and_its_gradient():
    log_probs, reference, mask = row(-1, -1, -2, jnp.nan), row(-1, 0, -2.693147, 5), row(1, 1, 1, 0)
    kl_BT = policy_gradient.kl_k3(log_probs, reference, mask)
    np.testing.assert_allclose(kl_BT, row(0, np.e - 2, 0.5 + 0.693147 - 1, 0), rtol=1e-5)
    gradients = jax.grad(lambda *x: policy_gradient.kl_k3(*x, mask).sum(), argnums=(0, 1))(
        log_probs, reference
    )
    np.testing.assert_allclose(gradients[0], row(0, 1 - np.e, 1 - 0.5, 0), rtol=1e-5)
    assert not gradients[1].any()


def test_k3_is_never_negative_and_keeps_its_digits_near_0():
    x = jnp.concatenate([jnp.linspace(-30, 30, 601), jnp.logspace(-6, 0, 200), -jnp.logspace(-6, 0, 200)])[
        None
    ]
    kl_BT = policy_gradient.kl_k3(-x, jnp.zeros_like(x), jnp.ones_like(x))
    assert jnp.isfinite(kl_BT).all() and (kl_BT >= 0).all()
    np.testing.assert_allclose(policy_gradient.kl_k3(row(1e-3), row(0), row(1)), row(4.998334e-7), rtol=1e-3)


def test_the_mean_of_k3_over_samples_is_the_kl_divergence():
    random = np.random.default_rng(2)
    policy, reference = np.log(random.dirichlet(np.ones(5))), np.log(random.dirichlet(np.ones(5)))
    kl_BT = policy_gradient.kl_k3(row(*policy), row(*reference), jnp.ones((1, 5)))
    np.testing.assert_allclose(
        np.sum(np.exp(policy) * kl_BT), np.sum(np.exp(policy) * (policy - reference)), rtol=1e-5
    )


@pytest.mark.parametrize("nothing", [jnp.nan, jnp.inf])
def test_value_loss_by_hand_gradient_and_mask(nothing):
    values, targets, mask = row(0.5, 1.0, nothing), row(0.0, 0.25, nothing), row(1, 1, 0)
    terms_BT = policy_gradient.value_loss(values, targets, mask)
    np.testing.assert_allclose(terms_BT, row(0.125, 0.28125, 0))
    gradients = jax.grad(lambda *x: policy_gradient.value_loss(*x, mask).sum(), argnums=(0, 1))(
        values, targets
    )
    np.testing.assert_allclose(gradients[0], row(0.5, 0.75, 0))
    assert not gradients[1].any()


def test_sums_by_segment_and_their_spread():
    sums_BS = part_sums(jnp.ones((2, 8)), SEGMENTS_BT)
    assert sums_BS[:, :3].tolist() == [[1, 3, 4], [3, 5, 0]] and not sums_BS[:, 3:].any()
    assert spread(sums_BS, SEGMENTS_BT).tolist() == [[3, 3, 3, 4, 4, 4, 4, 1], [5, 5, 5, 5, 5, 3, 3, 3]]
