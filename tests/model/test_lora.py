import dataclasses
import functools
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import nnx
from safetensors.numpy import load_file

from o1jax.model.init import merge, parameter_count
from o1jax.model.kv_cache import init_cache
from o1jax.model.lora import LoraSettings, abstract_adapted, adapted, merged, save_adapters, switched_off
from o1jax.model.presets import preset
from o1jax.model.quantized import dense, nf4_levels, quantize
from o1jax.parallel.mesh import make_mesh
from o1jax.records import InputError
from tests.model.tiny_models import CONFIGS, packed, perturbed, random_tokens

SETTINGS = LoraSettings(rank=2, alpha=6.0)
ROW = packed([random_tokens(0, 20), random_tokens(1, 9)], 32)


def tiny(family="qwen2", settings=SETTINGS):
    """(graphdef, adapters, frozen) of a small model with noise on every base parameter."""
    config = CONFIGS[family]
    return config, *adapted(config, perturbed(config)[1], settings, 0, make_mesh())


def noisy(adapters):
    keys = iter(jax.random.split(jax.random.key(5), 99))
    return jax.tree.map(lambda leaf: 0.2 * jax.random.normal(next(keys), leaf.shape), adapters)


@functools.partial(jax.jit, static_argnums=0)
def logits(graphdef, *parts):
    model = merge(graphdef, *parts)
    return model.logits(model(*ROW))


@pytest.mark.parametrize("family", CONFIGS)
def test_new_adapters_give_the_base_s_outputs_bit_for_bit(family):
    config, graphdef, adapters, frozen = tiny(family)
    with jax.disable_jit():  # compiled, the same sums are fused in another order
        plain = merge(*perturbed(config))(*ROW)
        assert (merge(graphdef, adapters, frozen)(*ROW) == plain).all()
        assert (merge(graphdef, switched_off(noisy(adapters)), frozen)(*ROW) == plain).all()
    np.testing.assert_allclose(logits(graphdef, adapters, frozen), logits(*perturbed(config)), atol=5e-6)
    assert not np.allclose(logits(graphdef, noisy(adapters), frozen), logits(*perturbed(config)), atol=0.1)


@pytest.mark.parametrize("base", ["as_is", "bfloat16", "int8", "nf4"])
@pytest.mark.parametrize("family", CONFIGS)
def test_merged_equals_unmerged(family, base):
    settings = dataclasses.replace(SETTINGS, base=base)
    config, graphdef, adapters, frozen = tiny(family, settings)
    params = merged(config, noisy(adapters), frozen, settings, make_mesh())
    assert jax.tree.structure(params) == jax.tree.structure(perturbed(config)[1])
    expected = logits(graphdef, noisy(adapters), frozen)
    np.testing.assert_allclose(logits(perturbed(config)[0], params), expected, atol=2e-5)


@pytest.mark.parametrize("base, atol", [("bfloat16", 0.05), ("int8", 0.05), ("nf4", 1.5)])
def test_a_quantized_base_gives_finite_and_near_outputs(base, atol):
    config, graphdef, adapters, frozen = tiny(settings=dataclasses.replace(SETTINGS, base=base))
    got, plain = logits(graphdef, adapters, frozen), logits(*perturbed(config))
    assert np.isfinite(got).all() and (got != plain).any()
    assert np.abs(got - plain).max() < atol < np.abs(plain).max()


def test_only_adapters_of_the_targets_are_split_off_to_train():
    settings = dataclasses.replace(SETTINGS, targets=("q_proj", "[gu]*_proj"))
    config, _, adapters, frozen = tiny(settings=settings)
    kernels = {path[3] for path, _ in nnx.to_flat_state(adapters)}
    assert kernels == {"q_DNH", "gate_DF", "up_DF"}
    assert jax.tree.structure(frozen) == jax.tree.structure(perturbed(config)[1])
    per_layer = 2 * ((32 + 32) + 2 * (32 + 48))
    assert parameter_count(adapters) == config.n_layers * per_layer
    given = dict(nnx.to_flat_state(perturbed(config)[1]))
    assert all(v.get_value() is given[path].get_value() for path, v in nnx.to_flat_state(frozen))


def test_decoding_reads_adapters_too():
    config, graphdef, adapters, frozen = tiny()
    model = merge(graphdef, noisy(adapters), frozen)
    tokens, positions = random_tokens(0, 1, 8), jnp.arange(8)[None]
    hidden, _ = jax.jit(type(model).cached)(model, tokens, positions, init_cache(config, 1, 8))
    np.testing.assert_allclose(hidden, model(tokens, positions, jnp.ones((1, 8), int)), atol=1e-5)


def test_nf4_rounds_to_the_nearest_of_its_levels_by_tiles_of_inputs():
    kernel = jax.random.normal(jax.random.key(0), (2, 128, 3))
    rounded = quantize(kernel, "nf4", 1)
    assert rounded.qvalue.dtype == jnp.uint4 and rounded.scale.shape == (2, 2, 3)
    peak = np.abs(np.asarray(kernel).reshape(2, 2, 64, 3)).max(2, keepdims=True)
    levels = np.asarray(nf4_levels())
    shares = np.asarray(kernel).reshape(2, 2, 64, 3) / peak
    nearest = levels[np.abs(shares[..., None] - levels).argmin(-1)] * peak
    np.testing.assert_allclose(dense(rounded, jnp.float32), nearest.reshape(2, 128, 3), atol=1e-6)


def test_eight_devices_share_the_frozen_base_and_give_the_gradients_of_one():
    program = pathlib.Path(__file__).with_name("lora_on_eight_devices.py")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    one, eight = found["one"], found["eight"]
    assert (one["share"], eight["share"]) == (1, 1 / 4)
    np.testing.assert_allclose(eight["loss"], one["loss"], rtol=2e-6)
    np.testing.assert_allclose(eight["gradient_norms"], one["gradient_norms"], rtol=1e-4)
    np.testing.assert_allclose(eight["merged"], one["merged"], rtol=1e-6)


@pytest.mark.parametrize("base", ["as_is", "nf4"])
def test_real_sizes_build_in_shapes_alone(base):
    settings = LoraSettings(rank=8, alpha=32.0, targets=("q_proj", "v_proj"), base=base)
    config = preset("qwen2.5-coder-7b")
    _, adapters, frozen = abstract_adapted(config, settings, make_mesh())
    assert parameter_count(adapters) == 28 * 8 * ((3584 + 3584) + (3584 + 512))
    leaves = jax.tree.leaves((adapters, frozen))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) and leaf.sharding for leaf in leaves)


def test_adapters_alone_are_written_as_peft_names_them(tmp_path):
    config, _, adapters, frozen = tiny("llama")
    adapters = noisy(adapters)
    save_adapters(epath.Path(tmp_path), config, adapters, SETTINGS)
    fields = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (fields["r"], fields["lora_alpha"], len(fields["target_modules"])) == (2, 6.0, 7)
    theirs = load_file(tmp_path / "adapter_model.safetensors")
    assert len(theirs) == 2 * 7 * config.n_layers
    name = "base_model.model.model.layers.1.self_attn.o_proj"
    delta = 3.0 * (theirs[f"{name}.lora_B.weight"] @ theirs[f"{name}.lora_A.weight"])
    params = merged(config, adapters, frozen, SETTINGS, make_mesh())
    ours = (params["blocks"]["attention"]["o_NHD"][...] - frozen["blocks"]["attention"]["o_NHD"][...])[1]
    np.testing.assert_allclose(delta.T, ours.reshape(32, 32), atol=1e-5)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"rank": -1}, "rank: saw -1"),
        ({"rank": 1, "base": "int3"}, "base: saw 'int3'"),
        ({"base": "nf4"}, "rank 0"),
        ({"rank": 1, "targets": ("qkv",)}, "'qkv' meets none of q_proj"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, words):
    with pytest.raises(InputError, match=words):
        tiny(settings=LoraSettings(**fields))
