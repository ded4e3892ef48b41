"""A stage takes a policy from a stage, a policy directory, or published weights: the same parameters."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from o1jax.model.init import init_params
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh
from o1jax.prompts import nano_tokenizer
from o1jax.records import InputError
from o1jax.stages.manifest import StageResult, StageSpec, begin, finish, input_hash
from o1jax.stages.training import open_policy
from o1jax.train.checkpoint import export_policy, save_policy


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_three_forms_of_one_policy(tmp_path):
    root = epath.Path(tmp_path)
    tokenizer = nano_tokenizer.train(["x = x + 1"], 300)
    config = dataclasses.replace(preset("nano"), vocab_size=len(tokenizer))
    _, params = init_params(config, 0, make_mesh())
    save_policy(root / "stage" / "policy", config, params, tokenizer)
    export_policy(root / "published", config, params, tokenizer)
    for place in (root / "stage", root / "stage" / "policy", root / "published"):
        policy = open_policy(place)
        assert same(policy.params, params)
        assert policy.tokenizer.encode("x = 1") == tokenizer.encode("x = 1")
    assert open_policy(root / "published").config == dataclasses.replace(config, remat="full")
    before = input_hash(root / "published")
    text = (root / "published" / "config.json").read_text()
    (root / "published" / "config.json").write_text(text + " ")
    assert input_hash(root / "published") != before


def published(place, weights, **more):
    """The hash of a directory with these weights, and `more` files by stem."""
    header = b'{"w": {"dtype": "U8", "shape": [%d], "data_offsets": [0, %d]}}' % (len(weights), len(weights))
    for name, text in {"config": "{}", **more}.items():
        (place / f"{name}.json").write_text(text)
    (place / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + weights)
    return input_hash(place)


@pytest.mark.parametrize("size", [1000, 5 << 20])  # read whole, and in pieces
def test_the_contents_of_published_weights_decide(tmp_path, size):
    place, weights = epath.Path(tmp_path), bytes(size)
    before = published(place, weights)
    (place / "README.md").write_text("as published")
    assert published(place, weights) == before
    for others in (b"1" + weights[1:], weights[1:] + b"1", b"1" * size):
        assert published(place, others) != before
    middle = bytes(size // 4) + b"1" * (size - size // 2) + bytes(size // 4)
    assert published(place, middle) != before
    assert published(place, weights, tokenizer="{}") != before


def test_weights_that_were_trained_on_are_another_input(tmp_path):
    """Other numbers of the same shapes are refused by a stage that was begun with the first ones."""
    root, out = epath.Path(tmp_path), epath.Path(tmp_path) / "out"
    tokenizer = nano_tokenizer.train(["x = x + 1"], 300)
    config = dataclasses.replace(preset("nano"), vocab_size=len(tokenizer), n_layers=1)
    spec = StageSpec("evaluate", {}, 0, {"policy": str(root / "published")})
    for seed in (0, 1):
        params = init_params(config, seed, make_mesh())[1]
        export_policy(root / "published", config, params, tokenizer)
        if seed == 0:
            begin(out, spec)
            finish(out, spec, StageResult({}, {}))
            assert begin(out, spec) is not None
    with pytest.raises(InputError, match="inputs.policy was"):
        begin(out, spec)


def test_a_policy_directory_is_an_input_by_its_contents(tmp_path):
    root, hashes = epath.Path(tmp_path), []
    tokenizer = nano_tokenizer.train(["x = x + 1"], 300)
    config = dataclasses.replace(preset("nano"), vocab_size=len(tokenizer), n_layers=1)
    for seed in (0, 1):
        save_policy(root / "policy", config, init_params(config, seed, make_mesh())[1], tokenizer)
        spec = StageSpec("evaluate", {}, 0, {"policy": str(root / "policy")})
        assert begin(root / f"out_{seed}", spec) is None
        hashes.append(input_hash(root / "policy"))
        shutil.copytree(root / "policy", root / f"copy_{seed}")
        assert input_hash(root / f"copy_{seed}") == hashes[-1]
    assert hashes[0] != hashes[1]
    with pytest.raises(InputError, match="no manifest.json; wanted the directory of a finished stage"):
        input_hash(root)  # a stage that has no manifest yet, though its policy is there


def test_a_directory_without_a_policy_is_refused(tmp_path):
    with pytest.raises(InputError, match="no policy there"):
        open_policy(epath.Path(tmp_path))
