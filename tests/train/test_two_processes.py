"""Two processes train as one does, on any mesh, and write one checkpoint, which one process reads."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_run
import two_processes

from o1jax.parallel.mesh import make_mesh
from o1jax.train.checkpoint import Checkpoints
from o1jax.train.step import struct

PROGRAM = pathlib.Path(two_processes.__file__)
pytestmark = pytest.mark.hostile


def figures(directory: pathlib.Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def run(*arguments) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of the program with these arguments in each of two processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(PROGRAM.parents[2]), "O1JAX_PROCESSES": "2"}
    env |= {"O1JAX_COORDINATOR": f"localhost:{port}", "O1JAX_MESH": "data=2,fsdp=*,tensor=2"}
    env |= {"XLA_FLAGS": "--xla_backend_optimization_level=1"}  # half the time to compile
    running = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), *map(str, arguments)],
            env=os.environ | env | {"O1JAX_PROCESS_INDEX": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=600) for process in running]
    return [(process.returncode, *output) for process, output in zip(running, outputs, strict=True)]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> pathlib.Path:
    """Where two processes of four devices trained, in a directory a mesh."""
    directory = tmp_path_factory.mktemp("two")
    for index, (_, out, error) in enumerate(run(directory)):
        for name in two_processes.MESHES:
            assert f"done {name} {index} 8 {two_processes.STEPS}" in out, error[-3000:]
    return directory


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> tuple[pathlib.Path, jax.Array]:
    """(where one process trained so, its parameters)."""
    directory = tmp_path_factory.mktemp("one")
    options = {"max_steps": two_processes.STEPS, "checkpoint_every": 0, "evaluate": tiny_run.validation()}
    return directory, tiny_run.run(directory, **options).params


@pytest.mark.parametrize("mesh", two_processes.MESHES)
def test_two_processes_give_one_s_losses_however_their_devices_lie_on_the_mesh(two, one, mesh):
    for name in ("loss", "tokens", "validation_loss"):
        np.testing.assert_allclose(figures(two / mesh, name), figures(one[0], name), rtol=2e-6)


def test_two_processes_write_a_checkpoint_for_one(two, one):
    like = jax.tree.map(lambda leaf: struct(leaf, leaf.sharding), one[1])
    with Checkpoints(two / "default/checkpoints") as checkpoints:
        assert checkpoints.steps() == [two_processes.STEPS]
        params = checkpoints.restore(two_processes.STEPS, {"params": like})["params"]
    assert jax.tree.leaves(params)[0].sharding.mesh.size == make_mesh().size == 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), params, one[1])


@pytest.mark.parametrize("signalled", [0, 1])
def test_sigterm_to_one_process_makes_both_save_the_same_step_and_exit_in_order(tmp_path, signalled):
    for code, _, error in run(tmp_path, signalled):
        assert code == 143, error[-3000:]
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        (step,) = checkpoints.steps()
    assert 5 < step < 200 and len(figures(tmp_path, "loss")) == step
