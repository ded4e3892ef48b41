"""A JAX engine split over two devices, in child processes that have them: the contract, and one device's
answers."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tiny_engine as tiny

from o1jax.records import InputError

ENGINE = pathlib.Path(__file__).parent


def run(*command):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}  # tiny.engine() takes all that there are
    done = subprocess.run(
        [sys.executable, *command], cwd=ENGINE, capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.mark.hostile
def test_the_contract_holds():
    said = run("-m", "pytest", "-p", "no:cacheprovider", "-m", "not vllm", "test_contract.py")
    assert int(re.search(r"(\d+) passed", said)[1]) > 20


def test_the_answers_are_those_of_one_device_and_each_holds_its_share():
    one, two = json.loads(run("two_devices.py").splitlines()[-1])
    for a, b in zip(one["answers"], two["answers"], strict=True):
        np.testing.assert_allclose(b.pop("log_probs"), a.pop("log_probs"), atol=1e-4)
        assert a == b
    assert {answer["policy_version"] for answer in two["answers"]} == {0, 1}
    heads = tiny.config().n_kv_heads
    assert one["cache_heads_a_device"] == [heads] and two["cache_heads_a_device"] == [heads // 2]
    assert two["weights_a_device"] < 0.6 * one["weights_a_device"]


@pytest.mark.parametrize("tensor", [0, 9])
def test_devices_that_are_not_there_are_refused(tensor):
    with pytest.raises(InputError, match=rf"tensor: saw {tensor}, wanted 1 to 1"):
        tiny.engine(tensor=tensor)
