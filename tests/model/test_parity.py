"""Logits equal those of transformers in float32; needs torch, which only a parity run installs."""

import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.model.hf import export
from tests.model.tiny_models import CONFIGS, model_of, perturbed, random_tokens

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("family", CONFIGS)
def test_logits_equal_transformers(family, tmp_path):
    config, tokens_BT = CONFIGS[family], random_tokens(3, 2, 40)
    export(tmp_path, config, perturbed(config)[1])
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        expected_BTV = reference(torch.tensor(tokens_BT)).logits.numpy()
    model, positions_BT = model_of(config), jnp.tile(jnp.arange(40), (2, 1))
    logits_BTV = model.logits(model(tokens_BT, positions_BT, jnp.ones((2, 40), int)))
    np.testing.assert_allclose(logits_BTV, expected_BTV, atol=2e-5)
