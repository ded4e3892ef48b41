"""A real trained model (260 k parameters): its greedy text must be the published one."""

import functools
import pathlib
import struct

import jax
import jax.numpy as jnp
import pytest

from o1jax.model.hf.checkpoint import load
from o1jax.model.init import abstract_params, merge
from o1jax.model.kv_cache import init_cache
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh

DATA = pathlib.Path(__file__).parents[3] / "shared/data/stories260k"
BOS, TOKENS = 1, 256
pytestmark = pytest.mark.skipif(not DATA.exists(), reason="../shared/data/stories260k is not there")


def llama2c_pieces(path: pathlib.Path) -> list[bytes]:
    """The pieces of a llama2.c tokenizer file: a header, then (score, length, bytes) a token."""
    data, offset, pieces = path.read_bytes(), 4, []
    while offset < len(data):
        _, length = struct.unpack_from("<fi", data, offset)
        pieces.append(data[offset + 8 : offset + 8 + length])
        offset += 8 + length
    return pieces


def decode(pieces: list[bytes], tokens: list[int]) -> str:
    text = b"".join(pieces[token] for token in tokens)
    return text.replace(b"<0x0A>", b"\n").decode().removeprefix(" ")


@functools.partial(jax.jit, static_argnames=("graphdef", "config"))
def greedy(graphdef, params, config) -> jax.Array:
    model = merge(graphdef, params)

    def step(carry, position):
        token_BT, cache = carry
        hidden_BTD, cache = model.cached(token_BT, jnp.full((1, 1), position), cache)
        token_BT = model.logits(hidden_BTD).argmax(axis=-1)
        return (token_BT, cache), token_BT[0, 0]

    start = (jnp.full((1, 1), BOS), init_cache(config, 1, TOKENS))
    return jax.lax.scan(step, start, jnp.arange(TOKENS))[1]


def test_greedy_text_equals_the_published_text():
    mesh = make_mesh()
    config, params = load(DATA / "hf", mesh)
    graphdef, _ = abstract_params(config, mesh)
    text = decode(llama2c_pieces(DATA / "tok512.bin"), greedy(graphdef, params, config).tolist())
    published = (DATA / "reference_greedy.txt").read_text().rstrip("\n")
    assert len(published) == 565 and text[:564] == published[:564]


def test_the_preset_is_the_checkpoint():
    assert load(DATA / "hf", make_mesh())[0] == preset("stories260k")
