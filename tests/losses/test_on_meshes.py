"""Log-probs and attention on meshes of eight virtual devices give one device's values and gradients."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parents[2]
PROGRAM = pathlib.Path(__file__).with_name("on_meshes.py")
D, V = 16, 2400  # as there


@pytest.fixture(scope="module")
def results() -> dict:
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    env |= {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # quick to compile
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("mesh", ["tensor", "all", "context"])
def test_log_probs_of_a_split_vocabulary_equal_one_device_s(results, mesh):
    assert results[mesh]["log_probs"] < 1e-5


@pytest.mark.parametrize("mesh", ["tensor", "all", "context"])
def test_padding_of_a_split_vocabulary_is_as_if_it_were_cut_off(results, mesh):
    assert results[mesh]["padded"] < 1e-5


@pytest.mark.parametrize("mesh", ["tensor", "all", "context"])
def test_a_vocabulary_that_is_walked_in_blocks_gives_what_it_gives_in_one(results, mesh):
    assert results[mesh]["blocks"] < 1e-5


def test_neither_the_head_nor_logits_are_gathered_over_the_vocabulary(results):
    assert results["tensor"]["gathered"] == 0
    assert 0 < results["all"]["gathered"] <= D * V // 2  # over fsdp, half of the vocabulary a device


@pytest.mark.parametrize("mesh", ["tensor", "all", "context"])
def test_attention_on_a_mesh_equals_one_device_s(results, mesh):
    assert results[mesh]["attention"] < 1e-5


def test_splash_attention_with_segments_and_context_equals_the_chunked_form(results):
    assert results["splash"] < 1e-5
