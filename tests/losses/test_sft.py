import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.losses.sft import sft_loss


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
