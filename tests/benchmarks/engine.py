"""Tokens a second of the JAX engine: one JSON line, with ratios against named peers of the same run.

    python tests/benchmarks/engine.py --size=nano [--slots=64] [--context=384] [--problems=64]

Workloads, with random weights (what a token costs does not depend on them):
- sampling: 4 answers of 100 to 150 tokens to each of `problems` prompts of 60 to 200 tokens;
- search: one coroutine a problem extends its own tree: three steps of 20 to 60 tokens from a
  node, one of them followed by a whole answer, and so on down. Prompts extend one another.

Peers: `one_at_a_time`, the same requests (an eighth of them), each awaited before the next, on the
same engine; `bare_decode`, the decode program alone with every slot live and no host in between.
"""

import argparse
import asyncio
import dataclasses
import json
import random
import time

import jax
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from o1jax.engine.interface import Request
from o1jax.engine.jax_engine import programs
from o1jax.engine.jax_engine.engine import JaxEngine
from o1jax.model.init import abstract_params, copied, init_params
from o1jax.model.kv_cache import cache_sharding, init_cache
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh

BUSY = ("busy", "device", "host")  # of the wall time


def tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level, the bytes and then filler tokens; without an end, so that answers go on to their limit."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    fillers = [a + b for a in letters for b in letters]
    vocab = {token: i for i, token in enumerate((letters + fillers)[:vocab_size])}
    bpe = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bpe)


def prompt(draw: random.Random, length: int) -> tuple[int, ...]:
    return tuple(draw.randrange(256) for _ in range(length))


def sampling_requests(problems: int) -> list[Request]:
    draw = random.Random(0)
    return [
        Request(
            prompt(draw, draw.randint(60, 200)),
            n=4,
            max_tokens=draw.randint(100, 150),
            seed=i,
            stop=("<Step_End>",),
        )
        for i in range(problems)
    ]


async def extend_tree(engine: JaxEngine, seed: int, depth: int = 4) -> None:
    """A path of steps, three candidates each, with a whole answer from every node on it."""
    draw = random.Random(seed)
    ids = prompt(draw, draw.randint(60, 150))
    for _ in range(depth):
        step = Request(ids, n=3, max_tokens=draw.randint(20, 60), seed=seed, stop=("<Step_End>",))
        ((chosen, *_),) = await engine.generate([step])
        ids = (*ids, *chosen.token_ids)
        left = engine.max_context - len(ids) - 1
        if left < 60:
            return
        await engine.generate([Request(ids, max_tokens=min(draw.randint(60, 150), left), seed=seed)])


async def measured(engine: JaxEngine, work) -> dict[str, float]:
    """The counters' change and the wall time while `work` runs."""
    before, begin = engine.stats(), time.perf_counter()
    await work
    after, seconds = engine.stats(), time.perf_counter() - begin
    steps = after["decode_steps"] - before["decode_steps"]
    generated = after["generated_tokens"] - before["generated_tokens"]
    return {
        "tokens_per_s": round(generated / seconds, 1),
        "slot_occupancy": round(generated / (steps * engine.shape.slots), 3),
        **{name: round((after[f"{name}_s"] - before[f"{name}_s"]) / seconds, 3) for name in BUSY},
        "ms_per_step": round(seconds / steps * 1e3, 3),
        **{
            name: after[name] - before[name]
            for name in ("prefill_tokens", "reused_tokens", "generated_tokens")
        },
        "prefix_hit_rate": round(after["prefix_hits"] / (after["prefix_hits"] + after["prefix_misses"]), 3),
    }


async def one_by_one(engine: JaxEngine, requests: list[Request]) -> None:
    for request in requests:
        await engine.generate([request])


def bare_decode(config, params, shape, blocks: int = 12) -> float:
    """Tokens a second of the decode program alone, all slots live."""
    mesh = make_mesh(devices=jax.devices()[:1])
    graphdef, abstract = abstract_params(config, mesh, apart=True)
    params, sharding = copied(params, abstract), cache_sharding(mesh)
    cache = init_cache(config, shape.slots, shape.context, sharding=sharding)
    leaves, structure = jax.tree.flatten(params)
    decode = programs.compiled(graphdef, structure, sharding, shape.block).decode
    slots = programs.empty_slots(shape.slots)
    slots.live_B[:] = True
    slots.limit_B[:] = 1 << 20  # more than is decoded
    slots.position_B[:] = shape.context // 3
    for turn in range(blocks + 1):
        if turn == 1:
            begin = time.perf_counter()
        cache, slots, out = decode(leaves, cache, slots, np.int32(shape.slots + 1))
        jax.block_until_ready(out)
    return shape.slots * shape.block * blocks / (time.perf_counter() - begin)


async def run(size: str, slots: int, context: int, problems: int) -> dict:
    config = dataclasses.replace(preset(size), max_context=context)
    _, params = init_params(config, 0, make_mesh(devices=jax.devices()[:1]))
    engine = JaxEngine(config, params, tokenizer(config.vocab_size), slots=slots, context=context)
    requests = sampling_requests(problems)
    await engine.generate([dataclasses.replace(request, max_tokens=20) for request in requests[:2]])
    await engine.load_params(params, 1)  # compiled now, and no prefix kept
    serial = await measured(engine, one_by_one(engine, requests[: problems // 8]))
    await engine.load_params(params, 2)
    sampling = await measured(engine, engine.generate(requests))
    search = await measured(
        engine, asyncio.wait([asyncio.create_task(extend_tree(engine, i)) for i in range(problems)])
    )
    await engine.close()
    bare = bare_decode(config, params, engine.shape)
    return {
        "benchmark": "engine",
        "size": size,
        "sampling": sampling,
        "search": search,
        "tokens_per_s": {"one_at_a_time": serial["tokens_per_s"], "bare_decode": round(bare, 1)},
        "ratios": {
            "one_at_a_time": round(sampling["tokens_per_s"] / serial["tokens_per_s"], 2),
            "bare_decode": round(sampling["tokens_per_s"] / bare, 3),
            "search_to_bare_decode": round(search["tokens_per_s"] / bare, 3),
        },
    }


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--size", default="nano")
    flags.add_argument("--slots", type=int, default=64)
    flags.add_argument("--context", type=int, default=384)
    flags.add_argument("--problems", type=int, default=64)
    given = flags.parse_args()
    print(json.dumps(asyncio.run(run(given.size, given.slots, given.context, given.problems))))


if __name__ == "__main__":
    main()
