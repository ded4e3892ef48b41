"""One of several processes of four virtual devices each.

`python two_processes.py DIRECTORY` fits there on every mesh of MESHES; with a process's number after it, that
one gets SIGTERM on the way.
"""

import os
import pathlib
import signal
import sys
import time

import jax
import numpy as np
import tiny_run
from jax.sharding import AxisType, Mesh

from o1jax.parallel.mesh import MESH_AXES, make_mesh
from o1jax.parallel.processes import start_processes

STEPS = 6
# Sizes by MESH_AXES, and the devices in order: 0 to 3 are process 0's, as a torus may place them.
MESHES = {
    "default": None,
    "rows_apart": ((1, 4, 2, 1), (0, 1, 4, 5, 2, 3, 6, 7)),  # process 0 holds the first rows and the third
    "context_across": ((1, 2, 1, 4), (0, 1, 4, 5, 2, 3, 6, 7)),
}


def mesh_of(name: str) -> Mesh:
    if MESHES[name] is None:
        return make_mesh()
    sizes, order = MESHES[name]
    devices = np.array(jax.devices())[list(order)].reshape(sizes)
    return Mesh(devices, MESH_AXES, axis_types=(AxisType.Auto,) * len(sizes))


class Terminated:
    """The tiny run's batches, slowly; process `which` sends itself SIGTERM at step 5."""

    def __init__(self, which: int):
        self.batches, self.which = tiny_run.batches(), which
        for name in ("rows_per_batch", "digest", "tokens_at", "ids_at"):
            setattr(self, name, getattr(self.batches, name))

    def at(self, step, rows):
        time.sleep(0.1)  # JAX looks once a second whether the signal came
        if step == 5 and jax.process_index() == self.which:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.batches.at(step, rows)


def fit_everywhere(directory: pathlib.Path) -> None:
    for name in MESHES:
        mesh = mesh_of(name)
        evaluate = tiny_run.validation(mesh)
        options = {"max_steps": STEPS, "checkpoint_every": 0, "evaluate": evaluate, "mesh": mesh}
        fitted = tiny_run.run(directory / name, **options)
        print("done", name, jax.process_index(), jax.device_count(), fitted.progress.step, flush=True)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 4)
    start_processes()
    if len(sys.argv) == 2:
        fit_everywhere(pathlib.Path(sys.argv[1]))
    else:
        tiny_run.run(sys.argv[1], max_steps=200, checkpoint_every=0, data=Terminated(int(sys.argv[2])))
