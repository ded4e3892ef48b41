"""A child process with two virtual devices: samples with an engine on one and with one split over both, and
prints what it saw as JSON."""

import asyncio
import dataclasses
import json

import jax
import tiny_engine as tiny

from o1jax.engine.interface import Request
from o1jax.model.init import init_params
from o1jax.parallel.mesh import make_mesh

PROMPTS = (tuple(range(40, 53)), tuple(range(40, 60)))  # which begin alike
REQUESTS = [
    Request(ids, n=3, max_tokens=20, seed=i, temperature=t)
    for i, ids in enumerate(PROMPTS)
    for t in (0.0, 1.0)
]


async def sampled(tensor: int) -> dict:
    """The engine's answers, before and after weights that the trainer's mesh splits by other axes."""
    engine = tiny.engine(tensor=tensor)
    mesh = make_mesh({"fsdp": 2})
    first = await engine.generate(REQUESTS)
    await engine.load_params(init_params(tiny.config(), 1, mesh)[1], 1)
    second = await engine.generate(REQUESTS)
    arrays = jax.tree.leaves((engine._scheduler.cache, engine._scheduler.pool))
    await engine.close()
    return {
        "answers": [dataclasses.asdict(c) for group in first + second for c in group],
        "cache_heads_a_device": sorted({a.sharding.shard_shape(a.shape)[1] for a in arrays}),
        "weights_a_device": sum(leaf.addressable_data(0).size for leaf in engine._scheduler.leaves),
    }


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    print(json.dumps([asyncio.run(sampled(tensor)) for tensor in (1, 2)]))
