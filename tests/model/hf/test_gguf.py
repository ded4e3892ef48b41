"""A GGUF file is the checkpoint that it was made from, and a bad one is refused in a line."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

from o1jax.model.hf import checkpoint, gguf
from o1jax.model.hf.names import hf_tensors
from o1jax.model.rope import RopeScaling, frequencies
from o1jax.parallel.mesh import make_mesh
from o1jax.records import InputError
from tests.model.tiny_gguf import KINDS, write_gguf
from tests.model.tiny_models import CONFIGS

# Quantizations come in blocks of 32 values, so the width must be a multiple of that: SHAPE's is.
FAMILIES = {name: dataclasses.replace(config, d_ff=64, rms_eps=2.0**-20) for name, config in CONFIGS.items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", [KINDS.F32, KINDS.F16, KINDS.BF16, KINDS.Q8_0, KINDS.Q4_1])
def test_a_gguf_is_the_checkpoint_that_it_was_made_from(family, kind, tmp_path):
    config = FAMILIES[family]
    written = write_gguf(tmp_path / "m.gguf", config, kind)
    config_back, params = checkpoint.load(tmp_path / "m.gguf", make_mesh())
    assert config_back == config
    for name, array in hf_tensors(config, params):
        np.testing.assert_array_equal(np.asarray(array), written[name], err_msg=name)


def test_a_device_reads_its_own_heads_and_columns(tmp_path):
    written = write_gguf(tmp_path / "m.gguf", FAMILIES["llama"])
    tensors = gguf.open_gguf(tmp_path / "m.gguf").tensors
    for name in ("model.layers.1.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight"):
        part = tensors[name][slice(16, 32), slice(8, 24)]
        np.testing.assert_array_equal(part, written[name][16:32, 8:24])


def test_a_row_is_read_alone(tmp_path):
    config = dataclasses.replace(FAMILIES["qwen2"], vocab_size=20_000)
    written = write_gguf(tmp_path / "m.gguf", config, KINDS.Q8_0)
    embedding = gguf.open_gguf(tmp_path / "m.gguf").tensors["model.embed_tokens.weight"]
    tracemalloc.start()
    row = embedding[slice(12_345, 12_346)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(row, written["model.embed_tokens.weight"][12_345:12_346])
    assert peak < 200_000  # the tensor is 2.6 MB


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_factors_of_llama_3_are_its_scaling(factor, tmp_path):
    scaling = RopeScaling("llama3", factor, 8192)
    config = dataclasses.replace(FAMILIES["llama"], rope_theta=500_000.0, rope_scaling=scaling)
    plain = frequencies(config.rope_theta, config.head_dim, RopeScaling())
    factors = (plain / frequencies(config.rope_theta, config.head_dim, scaling)).astype(np.float32)
    write_gguf(tmp_path / "m.gguf", config, more={"rope_freqs.weight": factors})
    assert checkpoint.load(tmp_path / "m.gguf", make_mesh())[0].rope_scaling == scaling
    write_gguf(tmp_path / "other.gguf", config, more={"rope_freqs.weight": factors + 1})
    with pytest.raises(InputError, match="not those of Llama 3"):
        checkpoint.load(tmp_path / "other.gguf", make_mesh())


@pytest.mark.parametrize(
    "metadata, message",
    [
        ({"general.architecture": "gemma2"}, "architecture 'gemma2', wanted one of llama, qwen2, qwen3"),
        ({"llama.context_length": None}, "has no llama.context_length"),
        ({"llama.expert_count": 8}, "8 experts is not supported"),
        ({"llama.rope.dimension_count": 4}, "4 of 8 dimensions"),
        ({"llama.rope.scaling.type": "longrope"}, "longrope"),
        ({"split.count": 3}, "one of 3 parts"),
    ],
)
def test_what_is_not_supported_is_named(metadata, message, tmp_path):
    write_gguf(tmp_path / "m.gguf", FAMILIES["llama"], metadata=metadata)
    with pytest.raises(InputError, match=message) as refused:
        checkpoint.load(tmp_path / "m.gguf", make_mesh())
    assert "\n" not in str(refused.value)


def test_linear_scaling_is_read(tmp_path):
    metadata = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    write_gguf(tmp_path / "m.gguf", FAMILIES["llama"], metadata=metadata)
    assert checkpoint.load(tmp_path / "m.gguf", make_mesh())[0].rope_scaling == RopeScaling("linear", 4.0)


def test_a_tensor_of_another_kind_of_model_is_named(tmp_path):
    write_gguf(tmp_path / "m.gguf", FAMILIES["llama"], more={"blk.0.attn_sinks.weight": np.zeros(4, "f")})
    with pytest.raises(InputError, match=r"blk.0.attn_sinks.weight has no place in a llama model"):
        checkpoint.load(tmp_path / "m.gguf", make_mesh())


def test_a_kind_that_cannot_be_dequantized_is_named(tmp_path):
    write_gguf(tmp_path / "m.gguf", FAMILIES["llama"], more={"blk.0.table.weight": np.zeros(4, np.int32)})
    with pytest.raises(InputError, match="blk.0.table.weight is I32"):
        checkpoint.load(tmp_path / "m.gguf", make_mesh())


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 0.99])
def test_a_truncated_file_is_refused_in_a_line(share, tmp_path):
    write_gguf(tmp_path / "m.gguf", FAMILIES["llama"])
    data = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match="no whole GGUF file") as refused:
        checkpoint.load(tmp_path / "cut.gguf", make_mesh())
    assert "\n" not in str(refused.value)


def test_a_foreign_or_missing_file_is_refused_in_a_line(tmp_path):
    (tmp_path / "text.gguf").write_text("no model, but a note of some length\n" * 9)
    with pytest.raises(InputError, match="no whole GGUF file"):
        checkpoint.load(tmp_path / "text.gguf", make_mesh())
    with pytest.raises(InputError, match="no such file"):
        checkpoint.load(tmp_path / "absent.gguf", make_mesh())
