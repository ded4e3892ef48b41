"""The tensors that vLLM in process is given: those of the exported checkpoint, without a copy."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
import tiny_engine as tiny

from o1jax.model.hf import checkpoint as hf
from o1jax.model.hf.names import untied
from o1jax.model.init import init_params
from o1jax.parallel.mesh import make_mesh

pytestmark = pytest.mark.vllm
MODELS = {
    "qwen2, tied, biases": {},
    "qwen2, untied": {"tie_embeddings": False},
    "qwen3, q and k norms": {"family": "qwen3", "qkv_bias": False, "qk_norm": True, "n_layers": 3},
    "llama, bfloat16": {"family": "llama", "qkv_bias": False, "param_dtype": "bfloat16"},
}


@pytest.fixture(params=MODELS)
def model(request):
    """(config, params) whose every element, of biases and norms too, is its own."""
    config = dataclasses.replace(tiny.config(), **MODELS[request.param])
    _, params = init_params(config, 0, make_mesh(devices=jax.devices()[:1]))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)]
    return config, jax.tree.unflatten(structure, drawn)


def tensors_of(config, params):
    from o1jax.engine.vllm_engine.in_process import torch_tensors

    return torch_tensors(config, params)


def test_what_is_given_is_the_exported_checkpoint_bit_for_bit(model, tmp_path):
    import torch
    from safetensors.torch import load_file

    hf.export(tmp_path, *untied(*model))
    written, given = load_file(tmp_path / "model.safetensors"), dict(tensors_of(*untied(*model)))
    assert written.keys() == given.keys()
    for name, theirs in written.items():
        assert theirs.dtype == given[name].dtype
        assert torch.equal(theirs.view(torch.uint8), given[name].contiguous().view(torch.uint8)), name


def test_a_tensor_is_the_arrays_own_memory(monkeypatch):
    from o1jax.engine.vllm_engine import in_process

    array = jnp.arange(1024.0)
    monkeypatch.setattr(in_process, "hf_tensors", lambda config, params: [("embed", array)])
    ((_, tensor),) = tensors_of(tiny.config(), None)
    assert tensor.data_ptr() == array.unsafe_buffer_pointer()


def test_a_pass_holds_one_tensor_at_a_time():
    config = dataclasses.replace(tiny.config(), tie_embeddings=False, n_layers=16, d_model=64)
    _, params = init_params(config, 0, make_mesh(devices=jax.devices()[:1]))
    before = sum(array.nbytes for array in jax.live_arrays())
    most = largest = 0
    for _, tensor in tensors_of(config, params):
        most = max(most, sum(array.nbytes for array in jax.live_arrays()) - before)
        largest = max(largest, tensor.nbytes)
    stacked = max(leaf.nbytes for leaf in jax.tree.leaves(params) if leaf.ndim > 2)
    assert 0 < most < 3 * largest < stacked  # a slice, its transpose, and the one before
