"""An untied copy of a tied model computes the same, bit for bit."""

import dataclasses

import jax
import numpy as np
import pytest

from o1jax.model.hf.names import untied
from o1jax.model.init import abstract_params, init_params, merge
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh

TIED = dataclasses.replace(preset("nano"), vocab_size=64, n_layers=2, max_context=32)


@pytest.mark.parametrize("tied", [True, False])
def test_an_untied_copy_has_the_same_logits(tied):
    mesh = make_mesh(devices=jax.devices()[:1])
    graphdef, params = init_params(dataclasses.replace(TIED, tie_embeddings=tied), 0, mesh)
    config, copy = untied(dataclasses.replace(TIED, tie_embeddings=tied), params)
    assert not config.tie_embeddings
    tokens_BT = np.arange(20)[None] % 64
    positions_BT, segments_BT = np.arange(20)[None], np.ones((1, 20), int)

    def logits(graphdef, params):
        model = merge(graphdef, params)
        return model.logits(model(tokens_BT, positions_BT, segments_BT))

    copied = logits(abstract_params(config, mesh)[0], copy)
    np.testing.assert_array_equal(logits(graphdef, params), copied)
