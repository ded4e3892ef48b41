import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.losses import logprobs
from o1jax.losses.likelihood import sft_loss
from o1jax.losses.logprobs import negative_log_likelihood, token_log_probs


def unfused(hidden_BTD, head_DV, targets_BT, temperature=1.0):
    """The plain form, which holds [B, T, V]."""
    logits_BTV = jnp.matmul(hidden_BTD, head_DV, precision="highest")
    log_probs_BTV = jax.nn.log_softmax(logits_BTV / temperature, axis=-1)
    return jnp.take_along_axis(log_probs_BTV, targets_BT[..., None], axis=-1)[..., 0]


def example(B=3, T=11, D=8, V=17, seed=0):
    generator = np.random.default_rng(seed)
    hidden_BTD = jnp.asarray(generator.standard_normal((B, T, D)), jnp.float32)
    head_DV = jnp.asarray(generator.standard_normal((D, V)), jnp.float32)
    return hidden_BTD, head_DV, jnp.asarray(generator.integers(0, V, (B, T)))


def test_hand_value():
    hidden_BTD = jnp.array([[[1.0, 2.0]]])
    head_DV = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # logits 1, 2, 0
    expected = 2 - math.log(math.e + math.e**2 + 1)
    assert token_log_probs(hidden_BTD, head_DV, jnp.array([[1]]))[0, 0] == pytest.approx(expected, abs=1e-6)
    halved = 1 - math.log(math.e**0.5 + math.e + 1)
    log_probs_BT = token_log_probs(hidden_BTD, head_DV, jnp.array([[1]]), temperature=2.0)
    assert log_probs_BT[0, 0] == pytest.approx(halved, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_equal_the_unfused_form(temperature):
    hidden_BTD, head_DV, targets_BT = example()
    weights_BT = np.cos(np.arange(33.0)).reshape(3, 11)

    def run(form):
        """(log_probs_BT, gradients of their weighted sum)."""

        def total(hidden_BTD, head_DV):
            log_probs_BT = form(hidden_BTD, head_DV, targets_BT, temperature=temperature)
            return (log_probs_BT * weights_BT).sum(), log_probs_BT

        gradients, values = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(hidden_BTD, head_DV)
        return values, gradients

    (values, gradients), (plain_values, plain_gradients) = (
        run(form) for form in (functools.partial(token_log_probs, chunk=7), unfused)
    )
    np.testing.assert_allclose(values, plain_values, atol=2e-6)
    for gradient, plain in zip(gradients, plain_gradients, strict=True):
        np.testing.assert_allclose(gradient, plain, atol=3e-6)


def test_chunk_size_does_not_change_values_or_gradients():
    hidden_BTD, head_DV, targets_BT = example()

    def run(chunk):
        def total(hidden_BTD, head_DV):
            log_probs_BT = token_log_probs(hidden_BTD, head_DV, targets_BT, chunk=chunk)
            return log_probs_BT.sum(), log_probs_BT

        return jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(hidden_BTD, head_DV)

    whole = jax.tree.leaves(run(4096))
    for chunk in (1, 9):
        for x, y in zip(jax.tree.leaves(run(chunk)), whole, strict=True):
            np.testing.assert_allclose(x, y, atol=2e-6)


def test_padding_does_not_change_the_loss_or_its_gradient():
    hidden_BTD, head_DV, targets_BT = example()

    @jax.jit
    @jax.value_and_grad
    def loss(hidden_BTD, targets_BT, weights_BT):
        total, count = sft_loss(token_log_probs(hidden_BTD, head_DV, targets_BT, chunk=8), weights_BT)
        return total / count

    plain = loss(hidden_BTD, targets_BT, np.ones((3, 11)))
    padded_BTD = np.pad(hidden_BTD, ((0, 1), (0, 4), (0, 0)), constant_values=50.0)
    padding = ((0, 1), (0, 4))
    padded = loss(padded_BTD, np.pad(targets_BT, padding), np.pad(np.ones((3, 11)), padding))
    np.testing.assert_allclose(plain[0], padded[0], rtol=1e-6)
    np.testing.assert_allclose(plain[1], padded[1][:3, :11], atol=1e-7)
    assert not np.asarray(padded[1])[:, 11:].any() and not np.asarray(padded[1])[3].any()


WEIGHTS_BT = jnp.asarray(np.maximum(np.cos(np.arange(33.0)), 0).reshape(3, 11), jnp.float32)


def nll_of_log_probs(hidden_BTD, head_DV, targets_BT, weights_BT, **options):
    """The loss whose gradient is made in a backward pass of its own."""
    return sft_loss(token_log_probs(hidden_BTD, head_DV, targets_BT, **options), weights_BT)[0]


@pytest.mark.parametrize("options", [{}, {"chunk": 7}, {"n_tokens": 12, "chunk": 5}], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_made_with_the_loss_equal_those_made_after_it(options, dtype):
    hidden_BTD, head_DV, targets_BT = example()
    args = hidden_BTD.astype(dtype), head_DV, targets_BT % options.get("n_tokens", 17), WEIGHTS_BT

    def run(loss):
        return jax.jit(jax.value_and_grad(lambda *a: 0.25 * loss(*a, **options), argnums=(0, 1)))(*args)

    (value, gradients), (wanted, wanted_gradients) = run(negative_log_likelihood), run(nll_of_log_probs)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    for ours, theirs in zip(gradients, wanted_gradients, strict=True):
        assert ours.dtype == theirs.dtype
        # bfloat16 rounds the derivative by each logit, here before the factor of the loss and there after it
        close = {"rtol": 1e-5, "atol": 1e-6} if dtype == "float32" else {"rtol": 1e-2, "atol": 2e-3}
        np.testing.assert_allclose(ours.astype(np.float32), theirs.astype(np.float32), **close)


def test_a_token_without_weight_adds_nothing_whatever_its_target():
    hidden_BTD, head_DV, _ = example(B=1, T=2)
    targets_BT, weights_BT = (
        jnp.array([[16, 3]]),
        jnp.array([[0.0, 1.0]]),
    )  # the first is padding: log p = -inf
    loss = functools.partial(negative_log_likelihood, n_tokens=16)
    value, gradient = jax.value_and_grad(loss)(hidden_BTD, head_DV, targets_BT, weights_BT)
    alone = loss(hidden_BTD[:, 1:], head_DV, targets_BT[:, 1:], weights_BT[:, 1:])
    np.testing.assert_allclose(value, alone, rtol=1e-6)
    assert not np.asarray(gradient[0, 0]).any()


def test_a_loss_without_its_gradient_makes_none(monkeypatch):
    def products(function):
        return str(jax.make_jaxpr(function)(*example(V=400), WEIGHTS_BT)).count("dot_general")

    assert products(negative_log_likelihood) == 1 and products(jax.grad(negative_log_likelihood)) == 3
    assert products(jax.grad(nll_of_log_probs)) == 4  # the logits are made twice
    monkeypatch.setattr(logprobs, "WHOLE_AT_MOST", 1)
    monkeypatch.setattr(logprobs, "BLOCK_AT_MOST", 1)
    assert products(jax.grad(negative_log_likelihood)) == 4  # of a large head, too


def test_log_probs_are_float32_for_bfloat16_inputs():
    hidden_BTD, head_DV, targets_BT = example()
    low = token_log_probs(hidden_BTD.astype(jnp.bfloat16), head_DV, targets_BT)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, unfused(hidden_BTD, head_DV, targets_BT), atol=0.1)


def nll_of_ones(hidden_BTD, head_DV, targets_BT, *, chunk):
    """The loss of weights of 1."""
    return negative_log_likelihood(hidden_BTD, head_DV, targets_BT, jnp.ones(targets_BT.shape), chunk=chunk)


def peak_temporaries(T: int, V: int, form) -> int:
    """Bytes of temporaries of value and gradient, compiled and not run."""
    args = (
        jax.ShapeDtypeStruct((1, T, 64), jnp.float32),
        jax.ShapeDtypeStruct((64, V), jnp.float32),
        jax.ShapeDtypeStruct((1, T), jnp.int32),
    )
    gradient = jax.jit(jax.grad(lambda h, w, t: form(h, w, t).sum(), argnums=(0, 1)))
    return gradient.lower(*args).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("form", [token_log_probs, nll_of_ones])
def test_peak_memory_does_not_grow_with_tokens_times_vocabulary(form):
    V, chunk = 8192, 128
    fused = functools.partial(form, chunk=chunk)
    short, long = peak_temporaries(1024, V, fused), peak_temporaries(8192, V, fused)
    extra_tokens = 8192 - 1024
    assert long - short < extra_tokens * 64 * 4 * 4  # a few copies of the hidden states
    assert long < 8192 * V * 4 / 8
    assert peak_temporaries(8192, V, unfused) > 8192 * V * 4


def padded_and_cut(head_DV, n_tokens):
    """(log_probs_BT, gradients to hidden states and head) with padding columns, and of the head without."""
    hidden_BTD, _, targets_BT = example()
    targets_BT = targets_BT % n_tokens

    def run(head_DV, n_tokens):
        def total(hidden_BTD, head_DV):
            log_probs_BT = token_log_probs(hidden_BTD, head_DV, targets_BT, n_tokens=n_tokens, chunk=7)
            return (log_probs_BT * np.cos(np.arange(33.0)).reshape(3, 11)).sum(), log_probs_BT

        (_, values), gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(
            hidden_BTD, head_DV
        )
        return values, *gradients

    return run(head_DV, n_tokens), run(head_DV[:, :n_tokens], None)


@pytest.mark.parametrize("head_bytes", [1 << 30, 1], ids=["one block", "blocks of 128 words"])
@pytest.mark.parametrize("n_tokens", [200, 256, 399])
def test_padding_of_the_vocabulary_has_no_share_and_no_gradient(monkeypatch, head_bytes, n_tokens):
    monkeypatch.setattr(logprobs, "WHOLE_AT_MOST", head_bytes)
    monkeypatch.setattr(logprobs, "BLOCK_AT_MOST", 1)  # with it whole blocks are padding
    _, head_DV, _ = example(V=400)
    head_DV = head_DV.at[:, n_tokens:].multiply(30)  # likelier than any token, if it were one
    padded, cut = padded_and_cut(head_DV, n_tokens)
    np.testing.assert_allclose(padded[0], cut[0], atol=2e-6)
    np.testing.assert_allclose(padded[1], cut[1], atol=3e-6)
    np.testing.assert_allclose(padded[2][:, :n_tokens], cut[2], atol=3e-6)
    assert not np.asarray(padded[2])[:, n_tokens:].any()


def test_a_padding_column_as_a_target_has_no_probability():
    hidden_BTD, head_DV, _ = example(B=1, T=2)
    log_probs_BT = token_log_probs(hidden_BTD, head_DV, jnp.array([[16, 15]]), n_tokens=16)
    assert log_probs_BT[0, 0] == -jnp.inf and jnp.isfinite(log_probs_BT[0, 1])


def test_a_vocabulary_without_padding_has_the_program_that_knows_of_none():
    def text(**more):
        return str(jax.make_jaxpr(functools.partial(token_log_probs, **more))(*example()))

    assert text(n_tokens=17) == text() != text(n_tokens=16)
