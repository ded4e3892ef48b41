"""Logits and gradients equal those of transformers in float32, for every family and rope type, on small
random models with every weight perturbed. Needs torch, which only `make test-parity` installs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.model.hf.checkpoint import export, load
from o1jax.model.hf.names import hf_tensors
from o1jax.model.init import merge
from o1jax.parallel.mesh import make_mesh
from tests.model.tiny_models import ALL_ROPES, CONFIGS, packed, perturbed, random_tokens

torch = pytest.importorskip("torch", reason="torch is not installed; make test-parity does that")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity

LENGTHS, ROW = (70, 5, 33), 130  # one row holds all, then padding
SEQUENCES = [random_tokens(seed, length) for seed, length in enumerate(LENGTHS)]


@pytest.fixture
def theirs(request, tmp_path):
    """The exported model, as transformers loads it."""
    config = long(ALL_ROPES[request.param])
    export(tmp_path, config, perturbed(config)[1])
    return config, transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)


def long(config):
    return dataclasses.replace(config, max_context=128)


def loss_and_logits_alone(model):
    """transformers: the sum of the next tokens' losses, and the logits of each sequence by itself."""
    logits = [model(torch.tensor(tokens[None])).logits[0] for tokens in SEQUENCES]
    losses = [
        torch.nn.functional.cross_entropy(each[:-1], torch.tensor(tokens[1:]), reduction="sum")
        for each, tokens in zip(logits, SEQUENCES, strict=True)
    ]
    return sum(losses), [each.detach().numpy() for each in logits]


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.value_and_grad, argnums=1, has_aux=True)
def loss_and_logits_packed(graphdef, params):
    """Ours: the same, all sequences on one padded row."""
    model, (tokens_BT, positions_BT, segments_BT) = merge(graphdef, params), packed(SEQUENCES, ROW)
    logits_TV = model.logits(model(tokens_BT, positions_BT, segments_BT))[0]
    goes_on_T = (segments_BT[0, 1:] == segments_BT[0, :-1]) & (segments_BT[0, 1:] > 0)
    log_probs_TV = jax.nn.log_softmax(logits_TV[:-1])
    chosen_T = jnp.take_along_axis(log_probs_TV, tokens_BT[0, 1:, None], axis=1)[:, 0]
    return -jnp.sum(jnp.where(goes_on_T, chosen_T, 0.0)), logits_TV


@pytest.mark.parametrize("theirs", ALL_ROPES, indirect=True)
def test_packed_logits_and_gradients_equal_those_of_each_sequence_alone(theirs):
    config, reference = theirs
    expected_loss, expected = loss_and_logits_alone(reference.eval())
    expected_loss.backward()
    (loss, logits_TV), gradient = loss_and_logits_packed(*perturbed(config))
    start = 0
    for each_TV in expected:
        np.testing.assert_allclose(logits_TV[start : start + len(each_TV)], each_TV, atol=2e-5)
        start += len(each_TV)
    np.testing.assert_allclose(loss, expected_loss.item(), rtol=1e-6)
    wanted = {name: parameter.grad.numpy() for name, parameter in reference.named_parameters()}
    got = {name: np.asarray(array) for name, array in hf_tensors(config, gradient)}
    assert got.keys() == wanted.keys()
    for name, want in wanted.items():
        assert np.abs(got[name] - want).max() <= 1e-5 * np.abs(want).max(), name


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("shard_bytes", [20_000, 5 << 30])
def test_transformers_loads_an_export_bit_for_bit_and_we_load_what_it_saves(family, shard_bytes, tmp_path):
    config = dataclasses.replace(CONFIGS[family], param_dtype="bfloat16", compute_dtype="bfloat16")
    params = perturbed(config)[1]
    export(tmp_path / "ours", config, params, shard_bytes=shard_bytes)
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert reference.dtype == torch.bfloat16
    state = reference.state_dict()
    for name, array in hf_tensors(config, params):
        assert (state[name].view(torch.int16).numpy() == np.asarray(array).view(np.int16)).all(), name
    reference.save_pretrained(tmp_path / "theirs", max_shard_size=shard_bytes)
    config_back, params_back = load(tmp_path / "theirs", make_mesh(), "bfloat16")
    assert config_back == config
    for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(params_back), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
