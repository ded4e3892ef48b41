import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.losses.prm import (
    calibrated,
    log_likelihoods,
    pairwise_loss,
    pointwise_loss,
    scored_logits,
    soft_label_floor,
    step_logits,
)
from o1jax.records import InputError


def draw(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_step_logits_are_the_difference_of_two_full_logits():
    hidden_BTD, head_DV = draw(0, 2, 5, 16), draw(1, 16, 40)
    logits_BTV = jnp.einsum("BTD,DV->BTV", hidden_BTD, head_DV, precision="highest")
    np.testing.assert_allclose(
        step_logits(hidden_BTD, head_DV, 7, 31), logits_BTV[..., 7] - logits_BTV[..., 31], atol=1e-5
    )


def test_step_logits_are_float32_and_reach_two_columns_of_the_head():
    hidden_BTD, head_DV = draw(0, 2, 5, 16).astype(jnp.bfloat16), draw(1, 16, 40)
    assert step_logits(hidden_BTD, head_DV, 7, 31).dtype == jnp.float32
    gradient_DV = jax.grad(lambda head: step_logits(hidden_BTD, head, 7, 31).sum())(head_DV)
    assert set(np.nonzero(np.any(np.asarray(gradient_DV), axis=0))[0]) == {7, 31}


def test_a_programs_likelihood_is_the_sum_over_its_own_tokens():
    log_probs_BT = -jnp.array([[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]])  # of tokens 1, 2, 3, 4, 5, and of none
    program_tokens_BT = jnp.array([[0.0, 0.0, 2.0, 0.0, 0.0, 3.0]])
    assert log_likelihoods(log_probs_BT, program_tokens_BT).tolist() == [[0, 0, -3, 0, 0, -28]]


def test_a_score_counts_the_likelihood_by_its_weight_and_both_learn():
    hidden_BTD, head_DV = draw(0, 1, 4, 16), draw(1, 16, 40)
    targets_BT, program_tokens_BT = jnp.array([[3, 9, 27, 0]]), jnp.array([[0, 0, 0, 2]])
    rest = (targets_BT, program_tokens_BT, 7, 31)
    alone = step_logits(hidden_BTD, head_DV, 7, 31)
    np.testing.assert_array_equal(scored_logits(hidden_BTD, head_DV, *rest, 0.0), alone)
    log_probs_TV = jax.nn.log_softmax(jnp.matmul(hidden_BTD[0], head_DV, precision="highest"))
    own = log_probs_TV[1, 9] + log_probs_TV[2, 27]  # tokens 2 and 3, read at 1 and 2
    score = jax.jit(jax.value_and_grad(lambda h: scored_logits(h, head_DV, *rest, 0.5)[0, 3]))
    found, pull = score(hidden_BTD)
    np.testing.assert_allclose(found, alone[0, 3] + 0.5 * own, atol=1e-5)
    assert np.any(np.asarray(pull)[0, 1:], axis=1).all() and not np.any(pull[0, 0])


@pytest.mark.parametrize("hidden", [16, 4096])
def test_no_array_of_the_vocabulary_and_all_positions_exists(hidden):
    jaxpr = jax.make_jaxpr(lambda h, w: step_logits(h, w, 0, 1))(draw(0, 2, 5, hidden), draw(1, hidden, 40))
    assert all(var.aval.size <= 10 * hidden for eqn in jaxpr.eqns for var in eqn.outvars)


def test_calibration_is_by_step_number_and_the_last_ones_counts_for_those_after_it():
    logits, numbers = np.array([0.0, np.log(3), np.log(3), -30.0]), np.array([1, 2, 5, 5])
    np.testing.assert_allclose(calibrated(logits[:3], numbers[:3], ()), [0.5, 0.75, 0.75])
    found = calibrated(logits, numbers, ((1.0, np.log(4)), (2.0, 0.0)))
    np.testing.assert_allclose(found, [0.8, 0.9, 0.9, np.exp(-60)], rtol=1e-12)
    assert 0 < calibrated(np.array([-800.0]), np.array([1]), ((0.5, 0.0),))[0] < 1e-100


def test_pointwise_hand_values_of_hard_and_soft_labels():
    logits, labels = jnp.array([0.0, np.log(3.0), np.log(3.0)]), jnp.array([1.0, 0.75, 0.0])
    for label, loss in zip(range(3), (0.693147, 0.562335, 1.386294), strict=True):
        weights = jnp.zeros(3).at[label].set(2.0)
        total, weight = pointwise_loss(logits, labels, weights)
        np.testing.assert_allclose([total, weight], [2 * loss, 2.0], rtol=1e-5)


def test_pointwise_gradient_is_score_less_label():
    logits, labels, weights = (
        draw(2, 6),
        jnp.array([0, 1, 0.3, 0.75, 1, 0]),
        jnp.array([1.0, 2, 1, 0.5, 1, 0]),
    )
    gradient = jax.grad(lambda x: pointwise_loss(x, labels, weights)[0])(logits)
    np.testing.assert_allclose(gradient, weights * (jax.nn.sigmoid(logits) - labels), atol=1e-6)


def test_pointwise_loss_is_exact_at_large_logits():
    logits, labels = jnp.array([200.0, 200.0, -200.0, 40.0]), jnp.array([1.0, 0.0, 1.0, 1.0])
    losses = [float(pointwise_loss(logits, labels, jnp.eye(4)[i])[0]) for i in range(4)]
    np.testing.assert_allclose(losses, [0, 200, 200, np.exp(-40)], rtol=1e-5)


@pytest.mark.parametrize("nothing", [jnp.inf, -jnp.inf, jnp.nan])
def test_positions_without_weight_add_nothing(nothing):
    labels, weights = jnp.array([1.0, nothing]), jnp.array([1.0, 0.0])
    total, gradient = jax.value_and_grad(lambda x: pointwise_loss(x, labels, weights)[0])(
        jnp.array([0.0, nothing])
    )
    np.testing.assert_allclose(total, 0.693147, atol=1e-6)
    assert gradient.tolist() == [-0.5, 0.0]


def test_pairwise_hand_values_and_gradient():
    chosen, rejected, mask = jnp.array([2.0, 0.0, 5.0]), jnp.array([1.0, 1.0, 5.0]), jnp.array([1, 1, 0])
    (total, count), gradient = jax.value_and_grad(
        lambda x: pairwise_loss(x, rejected, mask), has_aux=True, argnums=0
    )(chosen)
    np.testing.assert_allclose([total, count], [0.313262 + 1.313262, 2], rtol=1e-5)
    np.testing.assert_allclose(gradient, [-0.268941, -0.731059, 0], atol=1e-5)


@pytest.mark.parametrize("nothing", [jnp.inf, -jnp.inf, jnp.nan])
def test_places_without_a_pair_add_nothing(nothing):
    padded = jnp.array([0.0, nothing])
    total, gradients = jax.value_and_grad(
        lambda *x: pairwise_loss(*x, jnp.array([True, False]))[0], argnums=(0, 1)
    )(padded, padded)
    np.testing.assert_allclose(total, 0.693147, atol=1e-6)
    assert [gradient.tolist() for gradient in gradients] == [[-0.5, 0.0], [0.5, 0.0]]


def test_the_floor_of_soft_labels_by_hand():
    np.testing.assert_allclose(soft_label_floor([0.75], [1.0]), 0.562335, atol=1e-6)
    np.testing.assert_allclose(soft_label_floor([0.75, 1.0, 0.0], [2.0, 1.0, 1.0]), 0.562335 / 2, atol=1e-6)
    assert soft_label_floor([0.0, 1.0, np.nan], [1.0, 3.0, 0.0]) == 0.0
    with pytest.raises(InputError, match="no label has weight"):
        soft_label_floor([0.5], [0.0])


def test_no_scorer_is_below_the_floor():
    labels, weights = np.array([0.1, 0.5, 0.75, 1.0]), np.array([1.0, 2.0, 1.0, 0.5])
    floor = soft_label_floor(labels, weights)
    best = jnp.asarray(np.log(labels + 1e-9) - np.log(1 - labels + 1e-9))
    for shift in (-0.5, 0.0, 0.5):
        total, weight = pointwise_loss(best + shift, jnp.asarray(labels), jnp.asarray(weights))
        assert float(total / weight) >= floor - 1e-6
        assert (abs(float(total / weight) - floor) < 1e-6) == (shift == 0)
