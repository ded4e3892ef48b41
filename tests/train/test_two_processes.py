"""Two processes train as one does, and write one checkpoint, which one process reads."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import tiny_run
import two_processes

from o1jax.parallel.mesh import make_mesh
from o1jax.train.checkpoint import Checkpoints
from o1jax.train.state import struct

PROGRAM = pathlib.Path(two_processes.__file__)


def losses(directory: pathlib.Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (directory / "metrics.jsonl").read_text().splitlines()]


def start(directory: pathlib.Path, index: int, port: int) -> subprocess.Popen:
    env = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(PROGRAM.parents[2]), "O1JAX_PROCESSES": "2"}
    env |= {"O1JAX_COORDINATOR": f"localhost:{port}", "O1JAX_PROCESS_INDEX": str(index)}
    env |= {"O1JAX_MESH": "data=2,fsdp=*,tensor=2"}
    command = [sys.executable, str(PROGRAM), str(directory)]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | env, **output)


def test_two_processes_of_four_devices_give_one_s_losses_and_a_checkpoint_for_one(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    running = [start(tmp_path / "two", index, port) for index in range(2)]
    outputs = [process.communicate(timeout=300) for process in running]
    for index, (out, error) in enumerate(outputs):
        assert f"done {index} 8 {two_processes.STEPS}" in out, error[-3000:]
    one = tiny_run.run(tmp_path / "one", max_steps=two_processes.STEPS, checkpoint_every=0)
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=2e-6)
    like = jax.tree.map(lambda leaf: struct(leaf, leaf.sharding), one.params)
    with Checkpoints(tmp_path / "two/checkpoints") as checkpoints:
        assert checkpoints.steps() == [two_processes.STEPS]
        params = checkpoints.restore(two_processes.STEPS, {"params": like})["params"]
    assert jax.tree.leaves(params)[0].sharding.mesh.size == make_mesh().size == 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), params, one.params)
