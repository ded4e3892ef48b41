import dataclasses
import json
import math
import re
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from o1jax.model.hf import checkpoint
from o1jax.model.hf.checkpoint import export, load, read_layer
from o1jax.model.hf.config import config_from_hf, config_to_hf
from o1jax.model.hf.names import entries, hf_tensors
from o1jax.parallel import processes
from o1jax.parallel.mesh import make_mesh
from o1jax.records import InputError
from tests.model.tiny_models import CONFIGS, perturbed


def exported(directory, config, **kwargs):
    export(directory, config, perturbed(config)[1], **kwargs)
    return directory


def assert_same_bits(params, others):
    assert jax.tree.structure(params) == jax.tree.structure(others)
    for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(others), strict=True):
        assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", CONFIGS)
def test_load_of_export_is_the_same_bit_for_bit(family, dtype, tmp_path):
    config = dataclasses.replace(CONFIGS[family], param_dtype=dtype, compute_dtype=dtype)
    config_back, params = load(exported(tmp_path, config), make_mesh(), dtype)
    assert config_back == config
    assert_same_bits(perturbed(config)[1], params)


def test_shards_with_an_index_load_the_same_and_leave_no_stale_file(tmp_path):
    config = CONFIGS["llama"]
    exported(tmp_path, config)
    exported(tmp_path, config, shard_bytes=20_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1 and not (tmp_path / "model.safetensors").exists()
    assert_same_bits(perturbed(config)[1], load(tmp_path, make_mesh())[1])


def test_names_and_layouts_are_hugging_face_s(tmp_path):
    config = CONFIGS["qwen2"]
    params = perturbed(config)[1]
    theirs = load_file(exported(tmp_path, config) / "model.safetensors")
    q_LDNH = np.asarray(params["blocks"]["attention"]["q_DNH"][...])
    np.testing.assert_array_equal(
        theirs["model.layers.1.self_attn.q_proj.weight"].T, q_LDNH[1].reshape(32, 32)
    )
    assert theirs["model.layers.0.self_attn.k_proj.weight"].shape == (16, 32)
    assert theirs["model.layers.0.self_attn.k_proj.bias"].shape == (16,)
    assert theirs["model.layers.0.mlp.down_proj.weight"].shape == (32, 48)
    assert "lm_head.weight" not in theirs
    assert [name for name, _ in hf_tensors(config, params)].count("model.norm.weight") == 1


def test_transformers_reads_the_exported_config(tmp_path):
    transformers = pytest.importorskip("transformers")
    for family, config in CONFIGS.items():
        read = transformers.AutoConfig.from_pretrained(exported(tmp_path / family, config))
        assert read.model_type == family and read.head_dim == config.head_dim
        assert read.rope_parameters["rope_theta"] == config.rope_theta
        assert read.tie_word_embeddings == config.tie_embeddings


def edit_config(directory, **fields):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"architectures": ["MistralForCausalLM"]}, "MistralForCausalLM"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}, "dynamic"),
        ({"rope_parameters": None, "rope_scaling": {"type": "longrope", "factor": 4.0}}, "longrope"),
        ({"use_sliding_window": True, "sliding_window": 4096}, "sliding"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"attention_bias": True}, "attention_bias"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"intermediate_size": 50}, r"gate_proj.weight is \(48, 32\).*wants \(50, 32\)"),
        ({"num_hidden_layers": 3}, "layers.2.input_layernorm.weight is missing"),
        ({"num_hidden_layers": 1}, "layers.1.* has no place"),
    ],
)
def test_what_is_not_supported_or_does_not_fit_is_named(fields, words, tmp_path):
    edit_config(exported(tmp_path, CONFIGS["qwen2"]), **fields)
    with pytest.raises(InputError, match=words):
        load(tmp_path, make_mesh())


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(InputError, match="config.json is missing"):
        load(tmp_path, make_mesh())
    weights = exported(tmp_path, CONFIGS["qwen2"]) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(InputError, match="model.safetensors is corrupt or truncated"):
        load(tmp_path, make_mesh())
    weights.unlink()
    with pytest.raises(InputError, match="model.safetensors is missing"):
        load(tmp_path, make_mesh())
    (tmp_path / "config.json").write_text('{"architectures": ')
    with pytest.raises(InputError, match="config.json is corrupt"):
        load(tmp_path, make_mesh())


def test_a_missing_shard_and_a_tensor_that_the_index_invents_are_named(tmp_path):
    exported(tmp_path, CONFIGS["qwen2"], shard_bytes=20_000)
    index_path = tmp_path / "model.safetensors.index.json"
    index = json.loads(index_path.read_text())
    index["weight_map"]["model.ghost.weight"] = next(iter(index["weight_map"].values()))
    index_path.write_text(json.dumps(index))
    with pytest.raises(InputError, match="lacks model.ghost.weight"):
        load(tmp_path, make_mesh())
    (tmp_path / sorted(index["weight_map"].values())[-1]).unlink()
    with pytest.raises(InputError, match="00.*safetensors is missing"):
        load(tmp_path, make_mesh())


def test_an_index_beside_a_single_file_is_refused(tmp_path):
    exported(tmp_path, CONFIGS["qwen2"], shard_bytes=20_000)
    (tmp_path / "model.safetensors").write_bytes(b"another model")
    with pytest.raises(InputError, match=r"has model.safetensors and beside it an index of \d+ other files"):
        load(tmp_path, make_mesh())


def test_loading_and_export_hold_one_tensor_of_the_files_at_a_time(tmp_path):
    config = dataclasses.replace(CONFIGS["llama"], d_model=128, n_heads=16, d_ff=1024, n_layers=40)
    params, largest = perturbed(config)[1], 128 * 1024 * 4  # bytes
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))

    def held(work) -> int:
        tracemalloc.start()
        work()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert held(lambda: export(tmp_path, config, params, shard_bytes=8 * largest)) < 5 * largest
    assert held(lambda: load(tmp_path, make_mesh())) < 5 * largest < total / 20


@pytest.mark.parametrize("entry", entries(CONFIGS["qwen3"]), ids=lambda entry: entry.path[-1])
def test_a_device_reads_only_its_slice_of_a_tensor(entry):
    ours = np.arange(math.prod(entry.shape), dtype=np.float32).reshape(entry.shape)
    theirs, read = np.asarray(entry.to_hf(ours)), []

    class File:
        def __getitem__(self, index):
            read.append(theirs[index].size)
            return theirs[index]

    for axis in {0, entry.inputs} & set(range(len(entry.shape))):
        half = slice(entry.shape[axis] // 2, entry.shape[axis])
        index = tuple(half if i == axis else slice(None) for i in range(len(entry.shape)))
        np.testing.assert_array_equal(read_layer(File(), entry, index), ours[index])
        assert read.pop() == ours[index].size


def test_a_quantized_tensor_is_named(tmp_path):
    weights = exported(tmp_path, CONFIGS["qwen2"]) / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.int8)
    save_file(tensors, weights)
    with pytest.raises(InputError, match="model.norm.weight is I8"):
        load(tmp_path, make_mesh())


def test_a_tied_checkpoint_that_also_holds_its_head_loads(tmp_path):
    weights = exported(tmp_path, CONFIGS["qwen2"]) / "model.safetensors"
    tensors = load_file(weights)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}, weights)
    assert_same_bits(perturbed(CONFIGS["qwen2"])[1], load(tmp_path, make_mesh())[1])


def test_a_head_that_differs_from_the_embedding_is_used_whatever_the_config_says(tmp_path, caplog):
    config = CONFIGS["qwen2"]
    weights = exported(tmp_path, config) / "model.safetensors"
    tensors = load_file(weights)
    head = tensors["model.embed_tokens.weight"] + 1
    save_file(tensors | {"lm_head.weight": head}, weights)
    config_back, params = load(tmp_path, make_mesh())
    assert config_back == dataclasses.replace(config, tie_embeddings=False)
    np.testing.assert_array_equal(np.asarray(params["untied_head_DV"][...]).T, head)
    assert "lm_head.weight differs" in caplog.text


def test_a_missing_head_is_refused_unless_the_config_ties_it(tmp_path):
    weights = exported(tmp_path, CONFIGS["llama"]) / "model.safetensors"
    tensors = load_file(weights)
    del tensors["lm_head.weight"]
    save_file(tensors, weights)
    with pytest.raises(InputError, match="does not tie the head"):
        load(tmp_path, make_mesh())


def test_the_dtype_of_products_comes_back_with_parameters_of_another(tmp_path):
    config = dataclasses.replace(CONFIGS["qwen2"], compute_dtype="bfloat16")
    assert load(exported(tmp_path, config), make_mesh())[0] == config
    fields = config_to_hf(config)
    assert fields["dtype"] == fields["torch_dtype"] == "float32"  # which transformers and vLLM read
    del fields["o1jax_compute_dtype"]
    assert config_from_hf(fields | {"dtype": "float16"}, "float32").compute_dtype == "float16"


def test_loading_casts_to_the_wanted_dtype(tmp_path):
    config, params = load(exported(tmp_path, CONFIGS["qwen2"]), make_mesh(), "bfloat16")
    assert config.param_dtype == "bfloat16" and config.compute_dtype == "float32"
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(params))


def test_a_model_that_its_family_cannot_hold_is_not_exported(tmp_path):
    config = dataclasses.replace(CONFIGS["llama"], qkv_bias=True)
    with pytest.raises(InputError, match="llama checkpoint cannot hold"):
        export(tmp_path, config, perturbed(config)[1])


def test_reading_a_large_checkpoint_says_its_size_and_seconds(tmp_path, monkeypatch, capsys):
    directory = exported(tmp_path, CONFIGS["qwen2"])
    load(directory, make_mesh())
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(checkpoint, "LARGE", 0)
    monkeypatch.setattr(processes, "SLOW_S", 0.0)
    load(directory, make_mesh())
    assert re.fullmatch(r"reading weights: 0.0 GB in \d+\.\d s\n", capsys.readouterr().err)
