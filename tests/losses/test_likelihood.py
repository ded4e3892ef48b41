"""The losses of likelihoods, SFT and DPO, by hand values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.losses.likelihood import dpo_loss, sft_loss

ONE = jnp.ones(1)


def test_hand_value_is_a_sum_and_a_weight_sum():
    total, count = sft_loss(jnp.array([[-1.0, -2.0, -4.0]]), jnp.array([[1.0, 0.5, 0.0]]))
    assert (float(total), float(count)) == (2.0, 1.5)


def test_gradient_is_minus_the_weight():
    weights_BT = jnp.array([[1.0, 0.0], [0.25, 2.0]])
    gradient_BT = jax.grad(lambda x: sft_loss(x, weights_BT)[0])(-jnp.ones((2, 2)))
    np.testing.assert_array_equal(gradient_BT, -weights_BT)


@pytest.mark.parametrize("hidden_value", [-1e9, -jnp.inf, jnp.nan])
def test_masked_positions_do_not_change_loss_or_gradient(hidden_value):
    weights_BT = jnp.array([[1.0, 0.0]])
    total, gradient = jax.value_and_grad(lambda x: sft_loss(x, weights_BT)[0])(
        jnp.array([[-3.0, hidden_value]])
    )
    assert float(total) == 3.0 and gradient.tolist() == [[-1.0, 0.0]]


def test_micro_batches_add_up_to_the_whole():
    log_probs_BT = -jnp.arange(1.0, 13.0).reshape(4, 3)
    weights_BT = jnp.array([[1.0, 0, 1], [0, 0, 1], [1, 1, 1], [0, 0.5, 0]])
    parts = [sft_loss(log_probs_BT[i : i + 2], weights_BT[i : i + 2]) for i in (0, 2)]
    whole = sft_loss(log_probs_BT, weights_BT)
    assert [float(sum(x)) for x in zip(*parts, strict=True)] == [float(x) for x in whole]


def loss_of_margin(margin: float, beta: float = 0.1):
    return dpo_loss(jnp.array([margin - 30.0]), -40 * ONE, -32 * ONE, -42 * ONE, ONE, beta)


def test_policy_equal_to_its_reference_has_loss_ln_2():
    chosen, rejected = jnp.array([-3.0, -50.0]), jnp.array([-9.0, -1.0])
    total, count, sums = dpo_loss(chosen, rejected, chosen, rejected, jnp.ones(2), 0.1)
    np.testing.assert_allclose(total / count, 0.693147, atol=1e-6)
    assert count == 2 and all(value == 0 for value in sums.values())


@pytest.mark.parametrize("margin, loss", [(10.0, 0.313262), (-10.0, 1.313262)])
def test_hand_values_at_beta_a_tenth(margin, loss):
    total, count, sums = loss_of_margin(margin)
    np.testing.assert_allclose(total, loss, atol=1e-6)
    assert (count, sums["accuracy"], sums["margin"]) == (1, float(margin > 0), margin)
    np.testing.assert_allclose(sums["chosen_reward"], 0.1 * (margin + 2), rtol=1e-6)
    np.testing.assert_allclose(sums["rejected_reward"], 0.1 * 2, rtol=1e-6)


def test_a_hopeless_margin_costs_itself_and_overflows_nothing():
    np.testing.assert_allclose(loss_of_margin(-1e5)[0], 1e4, rtol=1e-6)
    assert loss_of_margin(1e5)[0] == 0


@pytest.mark.parametrize("margin", [-7.0, 0.0, 12.0])
def test_gradient_is_beta_times_the_chance_of_being_wrong(margin):
    beta, margins = 0.1, jnp.array([margin])
    arguments = (margins - 30.0, -40 * ONE, -32 * ONE, -42 * ONE)
    chosen, rejected = jax.grad(lambda *x: dpo_loss(*x, ONE, beta)[0], argnums=(0, 1))(*arguments)
    wanted = -beta * jax.nn.sigmoid(-beta * margin)
    np.testing.assert_allclose([chosen[0], rejected[0]], [wanted, -wanted], rtol=1e-5)


@pytest.mark.parametrize("nothing", [-jnp.inf, jnp.nan, 1e30])
def test_masked_pairs_add_nothing_to_loss_sums_or_gradients(nothing):
    def total(*values):
        return dpo_loss(*values, jnp.array([1, 0]), 0.1)

    alone = dpo_loss(-3.0 * ONE, -9.0 * ONE, -4.0 * ONE, -5.0 * ONE, ONE, 0.1)
    padded = [jnp.array([value, nothing]) for value in (-3.0, -9.0, -4.0, -5.0)]
    assert jax.tree.map(float, total(*padded)) == jax.tree.map(float, alone)
    for gradient in jax.grad(lambda *x: total(*x)[0], argnums=(0, 1, 2, 3))(*padded):
        assert gradient[0] != 0 and gradient[1] == 0
