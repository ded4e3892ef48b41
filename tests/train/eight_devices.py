"""A child process with eight virtual devices: trains, saves its parameters, prints what it saw as JSON."""

import json
import sys

import jax
import tiny_run

from o1jax.model.init import init_params
from o1jax.parallel.mesh import make_mesh
from o1jax.train.checkpoint import Checkpoints


def main(directory: str) -> None:
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    losses, state, compiled = tiny_run.steps(*init_params(tiny_run.CONFIG, 0, mesh), mesh)
    moments = jax.tree.map(lambda p, m: p.sharding == m.sharding, state.params, state.opt_state[1].mu)
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(0, {"params": state.params}, {})
    sums = jax.tree.map(lambda leaf: float(jax.device_get(leaf).sum()), state.params)
    seen = {
        "losses": losses,
        "compiled": compiled,
        "moments_lie_like_parameters": all(jax.tree.leaves(moments)),
        "sharded": sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.params)),
        "sums": jax.tree.leaves(sums),
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    main(sys.argv[1])
