"""The stream of tensors that vLLM is sent: as its metadata say, and as the exported checkpoint."""

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


def source_of(config, params):
    from o1jax.engine.vllm_engine.weight_source import JaxSource

    return JaxSource(config, params, "cpu")


def test_metadata_say_what_every_pass_yields(model):
    source = source_of(*model)
    said = [(meta.name, meta.dtype, meta.shape) for meta in source.metadata()]
    for _ in range(2):
        assert [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in source] == said
    assert {str(dtype) for _, dtype, _ in said} == {f"torch.{model[0].param_dtype}"}


def test_metadata_need_no_weights():
    assert source_of(tiny.config(), None).metadata()


def test_what_is_sent_is_the_exported_checkpoint_bit_for_bit(model, tmp_path):
    import torch
    from safetensors.torch import load_file

    hf.export(tmp_path, *untied(*model))
    written, sent = load_file(tmp_path / "model.safetensors"), dict(source_of(*model))
    assert written.keys() == sent.keys()
    for name, theirs in written.items():
        assert theirs.dtype == sent[name].dtype
        assert torch.equal(theirs.view(torch.uint8), sent[name].contiguous().view(torch.uint8)), name


def test_the_stream_comes_in_the_groups_that_vllm_makes_of_it(model):
    from vllm.distributed.weight_transfer import WeightSource

    source = source_of(*model)
    assert isinstance(source, WeightSource)
    grouped = [
        name for names, tensors in source.iter_groups() for name, _ in zip(names, tensors, strict=True)
    ]
    assert sorted(grouped) == sorted(meta.name for meta in source.metadata())


def test_on_the_cpu_a_tensor_is_the_arrays_own_memory(monkeypatch):
    from o1jax.engine.vllm_engine import weight_source

    array = jnp.arange(1024.0)
    monkeypatch.setattr(weight_source, "hf_tensors", lambda config, params, order: [("embed", array)])
    config = dataclasses.replace(tiny.config(), tie_embeddings=False)
    ((_, tensor),) = source_of(config, None)
    assert tensor.data_ptr() == array.unsafe_buffer_pointer()


def test_a_pass_holds_one_tensor_at_a_time():
    config = dataclasses.replace(tiny.config(), tie_embeddings=False, n_layers=16, d_model=64)
    _, params = init_params(config, 0, make_mesh(devices=jax.devices()[:1]))
    source = source_of(config, params)
    before = sum(array.nbytes for array in jax.live_arrays())
    most = 0
    for _ in source:
        most = max(most, sum(array.nbytes for array in jax.live_arrays()) - before)
    stacked = max(leaf.nbytes for leaf in jax.tree.leaves(params) if leaf.ndim > 2)
    assert 0 < most < 3 * source.largest() < stacked  # a slice, its transpose, and the one before
