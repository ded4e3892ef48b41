"""Run as a program on eight virtual devices: copies for engines, of a model that is split over them;
prints as JSON how much was held beside the copies."""

import json

import jax
import numpy as np

from o1jax.model import init
from o1jax.model.config import ModelConfig
from o1jax.parallel.memory import held_bytes
from o1jax.parallel.mesh import make_mesh, own_devices

LAYERS = 8
CONFIG = ModelConfig("qwen2", 64, 64, LAYERS, 4, 2, 16, 256, 64, tie_embeddings=True)


def copies(mesh_shape: dict[str, int], tensor: int, dtype: str, *, owned: bool) -> dict:
    draw = np.random.RandomState(0)
    params = jax.tree.map(
        lambda leaf: jax.device_put(draw.normal(size=leaf.shape).astype(leaf.dtype), leaf.sharding),
        init.abstract_params(CONFIG, make_mesh(mesh_shape))[1],
    )
    wanted = jax.device_get(params)
    abstracts = [
        init.abstract_params(CONFIG, own_devices(tensor, i), apart=True)[1] for i in range(8 // tensor)
    ]
    abstracts = [jax.tree.map(lambda leaf: leaf.update(dtype=np.dtype(dtype)), tree) for tree in abstracts]
    params_bytes, peak = held_bytes(params, set()), []
    whole_part = init.whole_part

    def spied(*arguments):
        part = jax.block_until_ready(whole_part(*arguments))
        peak.append(held_bytes(jax.live_arrays(), set()))
        return part

    init.whole_part = spied
    made = init.placed(params, abstracts, owned=owned)
    init.whole_part = whole_part
    stacked = jax.tree.leaves(wanted["blocks"])
    result = {
        "equal": all(
            np.array_equal(np.asarray(leaf), other.astype(dtype))
            for copy in made
            for leaf, other in pairs(copy, wanted)
        ),
        "as_wanted": all(
            leaf.sharding == like.sharding
            for copy, abstract in zip(made, abstracts, strict=True)
            for leaf, like in zip(*map(jax.tree.leaves, (copy, abstract)), strict=True)
        ),
        "params": params_bytes,
        "copies": held_bytes(made, set()),
        "peak": max(peak),
        "largest_stack": max(leaf.nbytes for leaf in stacked),
        "owned": [leaf.is_deleted() for leaf in jax.tree.leaves(params)],
        "layer_program": program_bytes(params),
    }
    for leaf in jax.tree.leaves(made):
        leaf.delete()
    return result


def pairs(copy, wanted):
    """Each array of a copy with the one it was made of."""
    for path, variable in init.nnx.to_flat_state(copy):
        flat = dict(init.nnx.to_flat_state(wanted))
        if path[0] == "blocks":
            yield variable[...], flat[("blocks", *path[2:])][...][path[1]]
        else:
            yield variable[...], flat[path][...]


def program_bytes(params) -> int:
    """What the compiled program of the largest parameter's layer has on a device beside its input."""
    if any(leaf.is_deleted() for leaf in jax.tree.leaves(params)):
        return 0
    array = max(jax.tree.leaves(params["blocks"]), key=lambda leaf: leaf.nbytes)
    program = init._layer(init.replicated(array.sharding.mesh))
    memory = program.lower(array, np.int32(0), dtype=array.dtype).compile().memory_analysis()
    return memory.output_size_in_bytes + memory.temp_size_in_bytes


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    print(
        json.dumps(
            {
                "split": copies({"fsdp": 8}, 1, "float32", owned=False),
                "tensor": copies({"fsdp": 4, "tensor": 2}, 2, "bfloat16", owned=False),
                "owned": copies({"fsdp": 8}, 1, "float32", owned=True),
            }
        )
    )
