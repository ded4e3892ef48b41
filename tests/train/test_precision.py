"""Products of float32 ask for float32, or accelerators round their factors; bfloat16 asks for nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from o1jax.engine.jax_engine.programs import compiled, empty_slots
from o1jax.model.init import abstract_params
from o1jax.model.kv_cache import cache_sharding, init_cache
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh
from o1jax.plan.program import abstract_batch
from o1jax.train import objectives
from o1jax.train.optimizer import OptimizerSettings, make_optimizer, make_schedule
from o1jax.train.step import abstract_state, make_train_step

SLOTS, CONTEXT = 2, 64
MESH = make_mesh(devices=jax.devices()[:1])


def train_text(config):
    graphdef, params = abstract_params(config, MESH)
    settings = OptimizerSettings(1e-3, 10)
    tx = make_optimizer(settings)
    state = abstract_state(params, tx, MESH)
    step = make_train_step(graphdef, objectives.sft, tx, state, MESH, schedule=make_schedule(settings))
    return step.trace(state, abstract_batch(MESH, 2, CONTEXT)).lower().as_text()


def decode_text(config):
    graphdef, params = abstract_params(config, MESH, apart=True)
    sharding, cache = cache_sharding(MESH), jax.eval_shape(lambda: init_cache(config, SLOTS, CONTEXT))
    leaves, structure = jax.tree.flatten(params)
    decode = compiled(graphdef, structure, sharding, 1).decode
    return decode.trace(leaves, cache, empty_slots(SLOTS), jnp.int32(1)).lower().as_text()


@pytest.mark.parametrize("text_of", [train_text, decode_text])
@pytest.mark.parametrize(("dtype", "asked"), [("float32", "HIGHEST"), ("bfloat16", "DEFAULT")])
def test_every_product_has_the_precision_of_its_dtype(text_of, dtype, asked):
    config = dataclasses.replace(preset("nano"), n_layers=2, compute_dtype=dtype, param_dtype="float32")
    products = [line for line in text_of(config).splitlines() if "dot_general" in line]
    assert len(products) > 12
    for line in products:
        assert f"precision = [{asked}, {asked}]" in line, line
