"""A stage takes a policy from a stage, a policy directory, or published weights: the same parameters."""

import dataclasses

import jax
import numpy as np
import pytest
from etils import epath

from o1jax.model import hf
from o1jax.model.init import init_params
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh
from o1jax.prompts import nano_tokenizer
from o1jax.records import InputError
from o1jax.stages.manifest import input_hash
from o1jax.stages.policies import open_policy
from o1jax.train.checkpoint import save_policy


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_three_forms_of_one_policy(tmp_path):
    root = epath.Path(tmp_path)
    tokenizer = nano_tokenizer.train(["x = x + 1"], 300)
    config = dataclasses.replace(preset("nano"), vocab_size=len(tokenizer))
    _, params = init_params(config, 0, make_mesh())
    save_policy(root / "stage" / "policy", config, params, tokenizer)
    hf.export(root / "published", config, params, tokenizer)
    for place in (root / "stage", root / "stage" / "policy", root / "published"):
        policy = open_policy(place)
        assert same(policy.params, params)
        assert policy.tokenizer.encode("x = 1") == tokenizer.encode("x = 1")
    assert open_policy(root / "published").config == dataclasses.replace(config, remat="full")
    before = input_hash(root / "published")
    text = (root / "published" / "config.json").read_text()
    (root / "published" / "config.json").write_text(text + " ")
    assert input_hash(root / "published") != before


def test_a_directory_without_a_policy_is_refused(tmp_path):
    with pytest.raises(InputError, match="no policy there"):
        open_policy(epath.Path(tmp_path))
