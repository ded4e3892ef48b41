"""launch/export.py: a stage's policy as safetensors, the same to the bit, and what it refuses."""

import dataclasses
import pathlib
import subprocess
import sys

import jax
import numpy as np
from etils import epath

from o1jax.model.init import init_params
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh
from o1jax.prompts import nano_tokenizer
from o1jax.stages.training import open_policy
from o1jax.train.checkpoint import save_policy

ROOT = pathlib.Path(__file__).parents[1]


def export(*words):
    command = [sys.executable, "launch/export.py", *map(str, words)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=300, check=False
    )


def test_a_policy_is_exported_once_and_read_back_the_same(tmp_path):
    tokenizer = nano_tokenizer.train(["print(sum(map(int, input().split())))"], 300)
    config = dataclasses.replace(preset("nano"), vocab_size=len(tokenizer))
    params = init_params(config, 0, make_mesh())[1]
    save_policy(tmp_path / "stage" / "policy", config, params, tokenizer)
    done = export(tmp_path / "stage", tmp_path / "weights")
    assert done.returncode == 0 and f"--config.inputs.policy={tmp_path / 'weights'}" in done.stdout
    read = open_policy(epath.Path(tmp_path / "weights"))
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(read.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    again = export(tmp_path / "stage", tmp_path / "weights")
    assert again.returncode == 2 and "not empty; give a new directory" in again.stderr
    none = export(tmp_path / "nothing", tmp_path / "other")
    assert none.returncode == 2 and len(none.stderr.strip().splitlines()) == 1
    assert "wanted two" in export(tmp_path / "stage").stderr
