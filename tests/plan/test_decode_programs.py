"""The engine's programs compiled for accelerators that are not there: their copies and kernels."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import pytest

from o1jax.engine.jax_engine import programs
from o1jax.engine.jax_engine.decode_attention import live_attention
from o1jax.model.attention import cached_attention
from o1jax.model.init import abstract_params
from o1jax.model.kv_cache import cache_sharding, init_cache
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh, replicated
from o1jax.plan.topology import devices_of

pytestmark = pytest.mark.plan
SLOTS, CONTEXT, CHUNK = 64, 1024, 128
# One layer of Qwen2.5-1.5B: compilers choose layouts by its sizes.
CONFIG = dataclasses.replace(
    preset("qwen2.5-1.5b"),
    n_layers=1,
    vocab_size=4096,
    max_context=CONTEXT,
    param_dtype="bfloat16",
    compute_dtype="bfloat16",
)
CACHE_SIZE = SLOTS * CONFIG.n_kv_heads * CONTEXT * CONFIG.head_dim


def texts(topology: str, config=CONFIG, attend=cached_attention, block: int = 8):
    """(decode, copy_chunks) as compiled text."""
    mesh = make_mesh({"tensor": 1}, devices_of(topology)[:1])
    graphdef, params = abstract_params(config, mesh, apart=True)
    sharding = cache_sharding(mesh)

    def on_device(tree, sharding=sharding):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    cache, pool = (
        on_device(jax.eval_shape(lambda shape=shape: init_cache(config, *shape)))
        for shape in ((SLOTS, CONTEXT), (2 * SLOTS, CHUNK))
    )
    slots = on_device(programs.empty_slots(SLOTS), replicated(mesh))
    copies_M = jax.ShapeDtypeStruct((programs.COPIES,), jnp.int32, sharding=replicated(mesh))
    leaves, structure = jax.tree.flatten(params)
    made = programs.compiled(graphdef, structure, sharding, block, config.vocab_size, attend)
    traced = (
        made.decode.trace(leaves, cache, slots, jnp.int32(1)),
        made.copy_chunks.trace(cache, pool, copies_M, copies_M, copies_M),
    )
    return [program.lower().compile().as_text() for program in traced]


def cache_copies(text: str) -> list[str]:
    """Instructions that copy an array of the cache's size, or change its layout; inside a fusion, which reads
    it as it is needed, nothing is copied."""
    outside = [part for part in text.split("\n\n") if not part.lstrip().startswith("%fused")]
    found = re.findall(r"= (\w+\[([\d,]+)\]\S*) (?:copy|transpose)\(", "\n".join(outside))
    return [shape for shape, sizes in found if math.prod(map(int, sizes.split(","))) >= CACHE_SIZE]


@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1"])
def test_no_program_of_a_tpu_copies_the_cache(topology):
    for text in texts(topology):
        assert not cache_copies(text)


def test_a_tpu_would_copy_a_cache_that_lies_as_it_is_named(monkeypatch):
    monkeypatch.setitem(programs.LAYOUTS, "tpu", programs.AS_NAMED)
    decode, _ = texts("v5e:2x2", block=7)  # programs are shared by what they are made of: these are others
    assert len(cache_copies(decode)) >= 2


def kernels(text: str) -> int:
    """Of the loop over tokens: the largest body's instructions that a GPU runs."""
    bodies = re.findall(r"while\([^\n]*body=%?([\w.\-]+)", text)
    counts = []
    for name in bodies:
        body = re.search(rf"^%?{re.escape(name)} \(.*?^}}", text, re.MULTILINE | re.DOTALL)[0]
        counts.append(len(re.findall(r" (?:fusion|custom-call|copy|sort|scatter|reduce|dot)\(", body)))
    return max(counts)


@pytest.mark.parametrize(("attend", "most"), [(cached_attention, 20), (live_attention, 15)])
def test_a_gpus_kernels_a_decode_layer_are_few_and_the_copies_of_chunks_one_an_array(attend, most):
    (one, _), (two, copies) = (
        texts("h200:1", dataclasses.replace(CONFIG, n_layers=layers), attend) for layers in (1, 2)
    )
    assert 8 < kernels(two) - kernels(one) <= most
    assert "while(" not in copies and not cache_copies(two)
