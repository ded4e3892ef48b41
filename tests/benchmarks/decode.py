"""The engine's decode program against the memory's bandwidth, on this machine's device: one JSON line.

    python tests/benchmarks/decode.py [--model=qwen2.5-1.5b] [--slots=1,64,256] [--context=1024]
    python tests/benchmarks/decode.py --dispatch

Random weights in bfloat16; every slot live, half its context behind it. The bound is the time to read, once
a token, all weights and the keys and values that the slots hold by then, at the rate at which this device
copies (bytes read and written, measured in the same run). The program reads a slot's whole context.

--dispatch: the host's time for a call with no live slot, until it returns, beside that for a jitted function
that is handed the same arrays and does nothing; a narrow model of 28 layers.
"""

import argparse
import dataclasses
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.engine.jax_engine import programs
from o1jax.model.init import abstract_params, copied, init_params
from o1jax.model.kv_cache import cache_sharding, init_cache
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh, replicated

COPIED, COPIES = 1 << 29, 10  # elements of four bytes, and how often
BLOCK = 8  # tokens a call, as the engine's


def copy_bytes_s() -> float:
    """Bytes read and written a second by a large copy, the median of several."""
    copy = jax.jit(lambda x: x + 1)
    x, seconds = jnp.ones(COPIED, jnp.float32), []
    for _ in range(8):
        began = time.perf_counter()
        for _ in range(COPIES):
            x = copy(x)
        jax.block_until_ready(x)
        seconds.append((time.perf_counter() - began) / COPIES)
    return 8 * COPIED / statistics.median(seconds[2:])


def decoded(config, graphdef, params, mesh, slots: int, calls: int) -> float:
    """Seconds a token of every slot."""
    sharding, half = cache_sharding(mesh), config.max_context // 2
    cache = init_cache(config, slots, config.max_context, sharding=sharding)
    leaves, structure = jax.tree.flatten(params)
    decode = programs.compiled(graphdef, structure, sharding, BLOCK).decode
    seconds = []
    for _ in range(calls + 2):
        state = programs.empty_slots(slots)
        state.live_B[:] = True
        state.limit_B[:] = config.max_context
        state.position_B[:] = half
        state = jax.block_until_ready(jax.device_put(state, replicated(mesh)))
        # Two blocks, the second dispatched before the first is read, as the engine does.
        began = time.perf_counter()
        cache, state, _ = decode(leaves, cache, state, np.int32(slots + 1))
        cache, state, out = decode(leaves, cache, state, np.int32(slots + 1))
        assert int(out.steps) == BLOCK
        seconds.append((time.perf_counter() - began) / 2)
    return statistics.median(seconds[2:]) / BLOCK


def dispatched(calls: int = 300) -> dict[str, float]:
    """Milliseconds, medians of calls taken in turn."""
    config = dataclasses.replace(preset("nano"), n_layers=28, d_model=64, d_ff=64, max_context=64)
    mesh = make_mesh(devices=jax.devices()[:1])
    graphdef, abstract = abstract_params(config, mesh, apart=True)
    leaves, structure = jax.tree.flatten(copied(init_params(config, 0, mesh)[1], abstract))
    sharding = cache_sharding(mesh)
    decode = programs.compiled(graphdef, structure, sharding, BLOCK).decode
    nothing = jax.jit(lambda leaves, cache, state, n: (cache, state, n), donate_argnums=(1, 2))
    cache = init_cache(config, 64, config.max_context, sharding=sharding)
    state = jax.device_put(programs.empty_slots(64), replicated(mesh))
    seconds: dict[str, list[float]] = {"engine": [], "nothing": []}
    for _ in range(calls):
        for name, program in (("engine", decode), ("nothing", nothing)):
            began = time.perf_counter()
            cache, state, _ = program(leaves, cache, state, np.int32(65))
            seconds[name].append(time.perf_counter() - began)
            jax.block_until_ready((cache, state))
    engine, flat = (statistics.median(taken[10:]) * 1e3 for taken in seconds.values())
    return {"arrays": len(jax.tree.leaves((leaves, cache, state))), "engine_ms": engine, "nothing_ms": flat}


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--model", default="qwen2.5-1.5b")
    flags.add_argument("--slots", default="1,64,256")
    flags.add_argument("--context", type=int, default=1024)
    flags.add_argument("--calls", type=int, default=10)
    flags.add_argument("--dispatch", action="store_true")
    given = flags.parse_args()
    if given.dispatch:
        print(json.dumps({"benchmark": "dispatch", "device": jax.devices()[0].device_kind} | dispatched()))
        return
    dtypes = {"param_dtype": "bfloat16", "compute_dtype": "bfloat16"}
    config = dataclasses.replace(preset(given.model), max_context=given.context, **dtypes)
    mesh, bytes_s = make_mesh(devices=jax.devices()[:1]), copy_bytes_s()
    graphdef, abstract = abstract_params(config, mesh, apart=True)
    params = copied(init_params(config, 0, mesh)[1], abstract)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    token_bytes = 2 * config.n_layers * config.n_kv_heads * config.head_dim * 2
    rows = []
    for slots in map(int, given.slots.split(",")):
        step_s = decoded(config, graphdef, params, mesh, slots, given.calls)
        bound_s = (weights + slots * (given.context // 2) * token_bytes) / bytes_s
        rows.append({"slots": slots, "tokens_per_s": round(slots / step_s), "ms_per_token": step_s * 1e3})
        rows[-1] |= {"bound_ms": bound_s * 1e3, "of_bound": round(bound_s / step_s, 3)}
    print(
        json.dumps(
            {
                "benchmark": "decode",
                "model": given.model,
                "context": given.context,
                "device": jax.devices()[0].device_kind,
                "copy_gb_s": round(bytes_s / 1e9),
                "decode": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
