import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.model.init import abstract_params, init_params, merge, parameter_count
from o1jax.model.kv_cache import Pages, init_cache, read, read_pages, write
from o1jax.model.presets import PRESETS, preset
from o1jax.model.transformer import Transformer
from o1jax.parallel.mesh import make_mesh
from o1jax.records import InputError
from tests.model.tiny_models import CONFIGS, model_of, packed, perturbed, random_tokens

forward = jax.jit(Transformer.__call__)
step = jax.jit(Transformer.cached)


@pytest.mark.parametrize("family", CONFIGS)
def test_packed_rows_equal_the_sequences_alone(family):
    model = model_of(CONFIGS[family])
    sequences = [random_tokens(seed, length) for seed, length in enumerate((70, 5, 33))]
    hidden_BTD = forward(model, *packed(sequences, 130))
    start = 0
    for sequence in sequences:
        expected = forward(model, *packed([sequence], 130))[:, : len(sequence)]
        got = hidden_BTD[:, start : start + len(sequence)]
        np.testing.assert_allclose(got, expected, atol=1e-5)
        start += len(sequence)
    assert np.isfinite(hidden_BTD).all()  # padding too


@pytest.mark.parametrize("family", CONFIGS)
def test_prefill_chunks_then_decode_equal_the_training_form(family):
    config = CONFIGS[family]
    model, tokens_BT = model_of(config), random_tokens(0, 2, 16)
    positions_BT = jnp.tile(jnp.arange(16), (2, 1))
    expected = model(tokens_BT, positions_BT, jnp.ones((2, 16), int))
    cache, parts = init_cache(config, 2, 16), []
    for start, end in [(0, 6), (6, 12), *((t, t + 1) for t in range(12, 16))]:
        hidden, cache = step(model, tokens_BT[:, start:end], positions_BT[:, start:end], cache)
        parts.append(hidden)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), expected, atol=1e-5)


def test_rows_decode_at_their_own_positions_and_bits_ignore_the_neighbours():
    config = CONFIGS["qwen2"]
    model = model_of(config)

    def run(row, others_seed):
        """Row `row` holds the watched tokens; the others hold anything, at other positions."""
        tokens_TB = random_tokens(others_seed, 12, 4)
        positions_B = np.random.default_rng(others_seed).integers(-3, 10, 4)
        tokens_TB[:, row], positions_B[row] = random_tokens(99, 12), 0
        cache, seen = init_cache(config, 4, 16), []
        for t in range(12):
            hidden, cache = step(model, tokens_TB[t][:, None], jnp.array(positions_B + t)[:, None], cache)
            seen.append(np.asarray(hidden[row, 0]))
        return np.stack(seen)

    first = run(0, 1)
    assert (first == run(0, 2)).all()
    assert (first == run(0, 3)).all()
    np.testing.assert_allclose(first, run(2, 1), atol=1e-6)


@pytest.mark.parametrize("position", [-1, -7, 16, 1000])
def test_a_position_outside_the_cache_writes_nothing(position):
    config = CONFIGS["qwen2"]
    before = jax.tree.map(lambda x: x + 3.0, init_cache(config, 2, 16))
    tokens_BT = random_tokens(0, 2, 1)
    hidden, after = step(model_of(config), tokens_BT, jnp.array([[position], [5]]), before)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (old[0] == new[0]).all() and not (old[1] == new[1]).all()
    assert np.isfinite(hidden).all()


def test_cache_rows_move_by_read_and_write_and_are_joined_as_pages():
    config = CONFIGS["qwen2"]
    model, tokens_BT = model_of(config), random_tokens(0, 1, 8)
    _, cache = step(model, tokens_BT, jnp.arange(8)[None], init_cache(config, 1, 8))
    pool = write(write(init_cache(config, 3, 4), read(cache, 0, 0, 4), 2, 0), read(cache, 0, 4, 4), 1, 0)
    pages = Pages(jnp.array([0]), jnp.array([[2, 1]]))
    for k_BKHS, v_BKSH, *expected in zip(*pool, *cache, strict=True):
        for old, new in zip(expected, read_pages(k_BKHS, v_BKSH, pages), strict=True):
            assert old.shape == new.shape and (old == new).all()


def test_chunks_of_one_sequence_are_computed_together_as_pages():
    config = CONFIGS["qwen2"]
    model, tokens_BT = model_of(config), random_tokens(0, 1, 16)
    expected, whole = step(model, tokens_BT, jnp.arange(16)[None], init_cache(config, 1, 16))
    pages = Pages(jnp.array([3, 1, 4, 0]), jnp.array([[3, 1, 4, 0]] * 4))
    hidden_BTD, pool = step(
        model, tokens_BT.reshape(4, 4), jnp.arange(16).reshape(4, 4), init_cache(config, 5, 4), pages
    )
    np.testing.assert_allclose(hidden_BTD.reshape(expected.shape), expected, atol=1e-5)
    for k_BKHS, v_BKSH, *written in zip(*pool, *whole, strict=True):
        for old, new in zip(written, read_pages(k_BKHS, v_BKSH, pages), strict=True):
            np.testing.assert_allclose(new[:1], old, atol=1e-5)


def test_remat_and_a_scanned_loop_change_no_loss_and_no_gradient():
    sequences = [random_tokens(1, 8)]

    def loss_and_gradient(config):
        graphdef, params = perturbed(config)
        squares = jax.value_and_grad(lambda p: (merge(graphdef, p)(*packed(sequences, 10)) ** 2).mean())
        return jax.jit(squares)(params)

    many_layers = dataclasses.replace(CONFIGS["qwen2"], n_layers=9)  # past the unrolled number
    loss, gradient = loss_and_gradient(many_layers)
    for name in ("dots", "attention", "full"):
        loss_remat, gradient_remat = loss_and_gradient(dataclasses.replace(many_layers, remat=name))
        np.testing.assert_allclose(loss, loss_remat, rtol=1e-6)
        for x, y in zip(jax.tree.leaves(gradient), jax.tree.leaves(gradient_remat), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-6)


def test_logits_are_float32_and_the_head_is_tied_or_not():
    tied = model_of(dataclasses.replace(CONFIGS["qwen2"], compute_dtype="bfloat16"))
    hidden_BTD = forward(tied, *packed([random_tokens(0, 6)], 8))
    assert hidden_BTD.dtype == jnp.bfloat16 and tied.logits(hidden_BTD).dtype == jnp.float32
    assert (tied.head_DV() == tied.embed_VD[...].T).all()
    assert (model_of(CONFIGS["llama"]).head_DV() != model_of(CONFIGS["llama"]).embed_VD[...].T).any()


def test_the_same_seed_gives_the_same_parameters():
    mesh = make_mesh()
    one_layer = dataclasses.replace(CONFIGS["qwen2"], n_layers=1)
    one, two, other = (init_params(one_layer, seed, mesh)[1] for seed in (0, 0, 1))
    assert all((x == y).all() for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True))
    assert (one["embed_VD"][...] != other["embed_VD"][...]).any()


PUBLISHED_SIZES = {
    "stories260k": 260_032,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
    "deepseek-coder-1.3b": 1_346_471_936,
    "deepseek-coder-6.7b": 6_740_512_768,
}
PUBLISHED_SIZES |= {
    name.replace("2.5-", "2.5-coder-"): size for name, size in PUBLISHED_SIZES.items() if "qwen2.5" in name
}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_without_memory_and_has_its_published_size(name):
    config = preset(name)
    _, params = abstract_params(config, make_mesh())
    assert name == "nano" or parameter_count(params) == PUBLISHED_SIZES[name]
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) and leaf.sharding for leaf in jax.tree.leaves(params))
    assert type(config).from_json(config.to_json()) == config


def test_nano_is_small_and_vllm_can_serve_it():
    config = preset("nano")
    assert 800_000 < parameter_count(abstract_params(config, make_mesh())[1]) < 1_200_000
    assert config.head_dim == 32


def test_an_unknown_preset_and_a_bad_shape_are_refused():
    with pytest.raises(InputError, match="qwen9"):
        preset("qwen9")
    with pytest.raises(InputError, match="n_kv_heads"):
        dataclasses.replace(preset("nano"), n_kv_heads=3)
    with pytest.raises(InputError, match="remat 'some' is unknown: use one of none, dots"):
        dataclasses.replace(preset("nano"), remat="some")
    with pytest.raises(InputError, match="model config"):
        type(preset("nano")).from_json('{"family": "qwen2", "width": 3}')


def test_a_config_that_was_written_when_remat_was_a_flag_is_read():
    config = preset("qwen2.5-7b")
    assert type(config).from_json(config.to_json().replace('"remat": "full"', '"remat": true')) == config


def test_gradients_of_a_frequent_token_are_added_up_in_the_parameters_dtype():
    config = dataclasses.replace(CONFIGS["llama"], compute_dtype="bfloat16")
    graphdef, params = perturbed(config)
    tokens_BT = np.where(np.arange(4096).reshape(4, 1024) % 2, 7, random_tokens(0, 4, 1024))
    cotangent_BTD = 1 + jax.random.uniform(jax.random.key(1), (4, 1024, config.d_model), jnp.bfloat16)

    def embedded(params):
        return merge(graphdef, params).embed(tokens_BT)

    embedded_BTD, pull = jax.vjp(embedded, params)
    (gradient,) = pull(cotangent_BTD)
    wanted_VD = np.zeros((config.vocab_size, config.d_model))
    np.add.at(wanted_VD, tokens_BT, np.asarray(cotangent_BTD, np.float64))
    assert embedded_BTD.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient["embed_VD"][...], wanted_VD, rtol=1e-5)
