"""Weights for servers of two processes that train together: one of them writes, where both see it."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import written_by_two

from o1jax.model.hf.checkpoint import load
from o1jax.model.hf.names import untied
from o1jax.model.init import init_params
from o1jax.parallel.mesh import make_mesh


def directories(roots, count=2):
    """Where each process says that the weights are."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    env |= {"O1JAX_COORDINATOR": f"localhost:{port}", "O1JAX_PROCESSES": str(count)}
    running = [
        subprocess.Popen(
            [sys.executable, written_by_two.__file__, *map(str, roots)],
            env=os.environ | env | {"O1JAX_PROCESS_INDEX": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    said = [process.communicate(timeout=900) for process in running]
    assert not any(process.returncode for process in running), said
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


@pytest.mark.hostile
def test_one_copy_is_written_and_is_the_whole_model(tmp_path):
    first, second = directories([tmp_path])
    assert first == second == [str(tmp_path / f"push_0_{k}") for k in range(2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["push_0_0", "push_0_1"]
    same_weights(first[0])


@pytest.mark.hostile
def test_a_process_that_does_not_see_it_writes_its_own(tmp_path):
    first, second = directories([tmp_path / "a", tmp_path / "b"])
    assert [pathlib.Path(path).parent.name for path in (*first, *second)] == ["a", "a", "b", "b"]
    same_weights(second[1])


def same_weights(directory):
    mesh = make_mesh(devices=jax.devices()[:1])
    params = init_params(written_by_two.CONFIG, 0, mesh)[1]
    loaded, wanted = load(directory, mesh)[1], untied(written_by_two.CONFIG, params)[1]
    jax.tree.map(np.testing.assert_array_equal, loaded, wanted)
