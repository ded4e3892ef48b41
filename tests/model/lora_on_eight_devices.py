"""Run as a program on eight virtual CPU devices: prints what the test compares, as one JSON line.

For each mesh: the logits and the gradient of an adapted model with an nf4 base, the largest share of an
array that one device holds, and whether the merged kernels are the same.
"""

import dataclasses
import json

import jax

jax.config.update("jax_num_cpu_devices", 8)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from o1jax.model.init import init_params, merge  # noqa: E402
from o1jax.model.lora import (  # noqa: E402
    LoraSettings,
    adapted,
    merged,
)
from o1jax.model.presets import preset  # noqa: E402
from o1jax.parallel.mesh import make_mesh, place_batch  # noqa: E402

CONFIG = dataclasses.replace(preset("nano"), vocab_size=64, n_layers=1)
SETTINGS = LoraSettings(rank=2, alpha=4.0, base="nf4")
BATCH = {
    "tokens": np.random.default_rng(0).integers(0, 64, (8, 16)).astype(np.int32),
    "positions": np.tile(np.arange(16, dtype=np.int32), (8, 1)),
    "segments": np.ones((8, 16), np.int32),
}


def run(mesh) -> dict:
    _, params = init_params(CONFIG, 0, mesh)
    graphdef, adapters, frozen = adapted(CONFIG, params, SETTINGS, 0, mesh)
    adapters = jax.tree.map(lambda leaf: leaf + 0.01, adapters)

    def loss(adapters, frozen, batch):
        model = merge(graphdef, adapters, frozen)
        return (model(batch["tokens"], batch["positions"], batch["segments"]) ** 2).mean()

    shardings = jax.tree.map(lambda leaf: leaf.sharding, adapters)
    step = jax.jit(jax.value_and_grad(loss), out_shardings=(None, shardings))
    value, gradient = step(adapters, frozen, place_batch(BATCH, mesh))
    kernels = [leaf for leaf in jax.tree.leaves(frozen) if leaf.dtype == jnp.uint4]
    plain = merged(CONFIG, adapters, frozen, SETTINGS, mesh)
    return {
        "loss": float(value),
        "gradient_norms": [float(np.linalg.norm(np.asarray(leaf))) for leaf in jax.tree.leaves(gradient)],
        "share": max(leaf.addressable_shards[0].data.size / leaf.size for leaf in kernels),
        "merged": float(np.asarray(plain["blocks"]["ff"]["down_FD"][...]).astype(np.float64).sum()),
    }


if __name__ == "__main__":
    one, eight = make_mesh(devices=jax.devices()[:1]), make_mesh(dict(data=2, fsdp=2, tensor=2))
    print(json.dumps({"one": run(one), "eight": run(eight)}))
