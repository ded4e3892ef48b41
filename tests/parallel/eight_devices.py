"""Run as a program on eight virtual CPU devices: prints what the tests compare, as one JSON line.

For each mesh: the loss, the norm of every gradient, the largest share of the parameters that one
device holds, and whether a checkpoint loads into the same bits.
"""

import json
import sys

import jax
import numpy as np

from o1jax.losses.likelihood import sft_loss
from o1jax.losses.logprobs import token_log_probs
from o1jax.model.config import ModelConfig
from o1jax.model.hf.checkpoint import export, load
from o1jax.model.init import init_params, merge
from o1jax.parallel.mesh import make_mesh, param_shardings, place_batch

CONFIG = ModelConfig("qwen2", 64, 32, 2, 4, 2, 8, 48, 64, qkv_bias=True)
MESHES = {"one": None, "2x2x2": dict(data=2, fsdp=2, tensor=2), "8": dict(fsdp=8)}


def batch() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "tokens_BT": generator.integers(0, 64, (8, 32)).astype(np.int32),
        "targets_BT": generator.integers(0, 64, (8, 32)).astype(np.int32),
        "positions_BT": np.tile(np.arange(16, dtype=np.int32), (8, 2)),
        "segment_ids_BT": np.tile(np.repeat(np.array([1, 2], np.int32), 16), (8, 1)),
        "weights_BT": generator.integers(0, 2, (8, 32)).astype(np.float32),
    }


def run(mesh, directory: str) -> dict:
    graphdef, params = init_params(CONFIG, 0, mesh)

    def loss(params, batch):
        model = merge(graphdef, params)
        hidden_BTD = model(batch["tokens_BT"], batch["positions_BT"], batch["segment_ids_BT"])
        log_probs_BT = token_log_probs(hidden_BTD, model.head_DV(), batch["targets_BT"], chunk=64)
        total, count = sft_loss(log_probs_BT, batch["weights_BT"])
        return total / count

    shardings = param_shardings(params, mesh)
    step = jax.jit(jax.value_and_grad(loss), out_shardings=(None, shardings))
    with jax.set_mesh(mesh):
        value, gradient = step(params, place_batch(batch(), mesh))
    if mesh.size == 1:
        export(directory, CONFIG, params)
    loaded = load(directory, mesh)[1]

    def largest_share(tree) -> float:
        matrices = [x for x in jax.tree.leaves(tree) if x.size >= 1000]
        return max(x.addressable_shards[0].data.size / x.size for x in matrices)

    return {
        "loss": float(value),
        "gradient_norms": [float(np.linalg.norm(np.asarray(x))) for x in jax.tree.leaves(gradient)],
        "share": largest_share(params),
        "gradient_share": largest_share(gradient),
        "loads": all(
            bool((np.asarray(x) == np.asarray(y)).all()) and x.sharding == y.sharding
            for x, y in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True)
        ),
    }


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    one = jax.devices()[:1]
    meshes = {name: make_mesh(shape, one if shape is None else None) for name, shape in MESHES.items()}
    print(json.dumps({name: run(mesh, sys.argv[1]) for name, mesh in meshes.items()}))
