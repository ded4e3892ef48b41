"""A child process with as many virtual devices as it is told: samples with replicas of an engine on all of
them, before and after weights that the trainer's mesh splits, and prints what it saw as JSON."""

import asyncio
import dataclasses
import json
import sys

import jax
import tiny_engine as tiny

from o1jax.engine.interface import Request
from o1jax.engine.replicas import Replicas, count_of
from o1jax.model.init import init_params
from o1jax.parallel.mesh import make_mesh

PROMPT = tuple(range(40, 53))
REQUESTS = [Request(PROMPT[i:], n=2, max_tokens=12, seed=i, problem=f"p{i}") for i in range(8)]


async def sampled() -> dict:
    replicas = Replicas([tiny.engine(params=None, tensor=1, replica=i) for i in range(count_of(1))])
    params = init_params(tiny.config(), 1, make_mesh({"fsdp": jax.device_count()}))[1]
    await replicas.load_params(tiny.graphdef_and_params()[1], 0)
    first = await asyncio.gather(*(replicas.generate([request]) for request in REQUESTS))
    # Handed in behind one another, in one turn of the loop: the second is answered by the new weights.
    before = asyncio.create_task(replicas.generate(REQUESTS))
    loading = asyncio.create_task(replicas.load_params(params, 1))
    after = asyncio.create_task(replicas.generate(REQUESTS))
    await loading
    answers = [group for (group,) in first] + await before + await after
    stats = [engine.stats() for engine in replicas.engines]
    total = replicas.stats()
    weights_on = [{str(d) for leaf in e._scheduler.leaves for d in leaf.devices()} for e in replicas.engines]
    await replicas.load_params(params, 2, owned=True)
    given = all(leaf.is_deleted() for leaf in jax.tree.leaves(params))
    await replicas.close()
    return {
        "answers": [dataclasses.asdict(c) for group in answers for c in group],
        "generated": [seen["generated_tokens"] for seen in stats],
        "total": total["generated_tokens"],
        "reused": total["reused_tokens"],
        "weights_on": sorted(device for devices in weights_on for device in devices),
        "given": given,
    }


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
    print(json.dumps(asyncio.run(sampled())))
