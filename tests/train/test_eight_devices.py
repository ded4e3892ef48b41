"""A mesh of eight devices trains like one, and its checkpoint is read by one."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import tiny_run

from o1jax.parallel.mesh import make_mesh
from o1jax.train.checkpoint import Checkpoints
from o1jax.train.step import struct

PROGRAM = pathlib.Path(__file__).with_name("eight_devices.py")


def test_eight_virtual_devices_give_the_losses_of_one(tmp_path):
    losses, state, _ = tiny_run.steps(*tiny_run.model(), make_mesh())
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(seen["losses"], losses, rtol=2e-6)
    assert seen["compiled"] == 1 and seen["moments_lie_like_parameters"] and seen["sharded"] > 5
    with Checkpoints(tmp_path) as checkpoints:
        like = jax.tree.map(lambda leaf: struct(leaf, leaf.sharding), state.params)
        restored = checkpoints.restore(0, {"params": like})["params"]
    assert [float(np.asarray(leaf).sum()) for leaf in jax.tree.leaves(restored)] == seen["sums"]
