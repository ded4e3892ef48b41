"""Weights for servers, as files in the served model's directory: written once where several processes train.

Writes and shares directories. What a server is told of them is replica.py's business.
"""

from __future__ import annotations

import collections

import jax
import numpy as np
from etils import epath
from flax import nnx

from o1jax.model.config import ModelConfig
from o1jax.model.hf import checkpoint as hf
from o1jax.model.hf.names import hf_tensors, untied
from o1jax.parallel.mesh import from_all
from o1jax.parallel.processes import barrier

LONGEST_PATH = 4096  # bytes


def written(directory: epath.Path, config: ModelConfig, params: nnx.State) -> epath.Path:
    """The directory in which the weights are then, as vLLM serves them: `directory`, or of several processes
    that of process 0 where it is seen from here. All call it at once: they gather the weights together.

    `directory` has a name that was never used, and lies in the model's that this process's servers serve.
    """
    shared = shared_directory(directory)
    config, params = untied(config, params)
    if shared == directory:
        hf.export(directory, config, params)
    else:
        # Gathered, though not kept: no layer is whole anywhere unless every process takes part.
        collections.deque(hf_tensors(config, params), maxlen=0)
    barrier("weights are written")
    return shared


def shared_directory(directory: epath.Path) -> epath.Path:
    """Process 0's directory where it is in the same place as ours and seen from here; else ours."""
    if jax.process_count() == 1:
        return directory
    if jax.process_index() == 0:
        directory.mkdir(parents=True)
    name = str(directory).encode()
    padded = np.frombuffer(name.ljust(LONGEST_PATH, b"\0"), np.uint8)
    theirs = epath.Path(bytes(from_all(padded)[0]).rstrip(b"\0").decode())
    # Hosts may each have a disk of their own under the same path. That its name was never used tells: seen
    # here, it is the same directory, and our servers, which see ours, see it too.
    return theirs if theirs.parent == directory.parent and theirs.exists() else directory
