"""Tokens a second of the JAX engine against vLLM and transformers: one JSON line, ratios of the same run.

    .venv-vllm/bin/python tests/benchmarks/engine_peers.py --size=5m|24m [--rounds=3]

64 prompts on 4 shared prefixes of 256 tokens, 16 tokens of their own each, 32 new tokens each, float32,
the same random weights. Every peer has a process of its own on one and the same core, one after the other,
in `rounds` rounds; the figures are medians. `ratios` are the JAX engine's rate over the peer's: more than
1 is faster than it.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

PEERS = ("jax", "transformers", "vllm_prefix_cache", "vllm")
PREFIX, OWN, NEW = 256, 16, 32
SIZES = {  # d_model, layers, heads, kv heads, d_ff
    "5m": (256, 4, 4, 2, 704),
    "24m": (384, 12, 6, 2, 1152),
}
VOCABULARY = 8192


def prompts() -> list[tuple[int, ...]]:
    draw = random.Random(0)
    prefixes = [[draw.randrange(VOCABULARY) for _ in range(PREFIX)] for _ in range(4)]
    return [(*prefixes[i % 4], *(draw.randrange(VOCABULARY) for _ in range(OWN))) for i in range(64)]


def policy(size: str):
    """(config, params, tokenizer), the same in every process."""
    import jax
    from engine import tokenizer

    from o1jax.model.config import ModelConfig
    from o1jax.model.init import init_params
    from o1jax.parallel.mesh import make_mesh

    d_model, n_layers, n_heads, n_kv_heads, d_ff = SIZES[size]
    config = ModelConfig(
        family="llama",
        vocab_size=VOCABULARY,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=64,
        d_ff=d_ff,
        max_context=PREFIX + OWN + NEW + 16,
        tie_embeddings=True,
    )
    _, params = init_params(config, 0, make_mesh(devices=jax.devices()[:1]))
    return config, params, tokenizer(VOCABULARY)


def of_an_engine(size: str, peer: str) -> float:
    """Seconds for all prompts, from an empty prefix cache, compiled before."""
    from o1jax.engine.interface import Request

    config, params, tokenizer = policy(size)
    shape = {"slots": 64, "context": config.max_context}
    if peer == "jax":
        from o1jax.engine.jax_engine.engine import JaxEngine

        engine = JaxEngine(config, params, tokenizer, **shape)
    else:
        from o1jax.engine.vllm_engine.in_process import VllmEngine

        engine = VllmEngine(config, params, tokenizer, prefix_cache=peer == "vllm_prefix_cache", **shape)
    requests = [Request(ids, max_tokens=NEW, seed=i) for i, ids in enumerate(prompts())]

    async def run() -> float:
        await engine.generate(requests[:8])
        await engine.load_params(params, 1)
        begin = time.perf_counter()
        completions = await engine.generate(requests)
        seconds = time.perf_counter() - begin
        assert sum(len(sample.token_ids) for (sample,) in completions) == 64 * NEW
        await engine.close()
        return seconds

    return asyncio.run(run())


def of_transformers(size: str) -> float:
    """Seconds of one generate call on all prompts, after a short one."""
    import torch
    import transformers

    from o1jax.model.hf import checkpoint as hf

    config, params, _ = policy(size)
    with tempfile.TemporaryDirectory() as directory:
        hf.export(directory, config, params)
        model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    ids = torch.tensor(prompts())
    settings = {"do_sample": True, "top_k": 0, "pad_token_id": 0, "eos_token_id": None}
    with torch.inference_mode():
        model.generate(ids[:8], max_new_tokens=4, **settings)
        begin = time.perf_counter()
        model.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW, **settings)
        return time.perf_counter() - begin


def seconds_of(size: str, peer: str) -> float:
    """One peer's seconds, in a process of its own."""
    command = [sys.executable, __file__, f"--size={size}", f"--peer={peer}"]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    return float(found.stdout.splitlines()[-1])


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--size", choices=SIZES, default="5m")
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--peer", choices=PEERS)
    given = flags.parse_args()
    if given.peer:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        of = (
            of_transformers(given.size)
            if given.peer == "transformers"
            else of_an_engine(given.size, given.peer)
        )
        print(of)
        return
    rounds = [{peer: seconds_of(given.size, peer) for peer in PEERS} for _ in range(given.rounds)]
    medians = {peer: statistics.median(found[peer] for found in rounds) for peer in PEERS}
    rates = {peer: round(64 * NEW / seconds, 1) for peer, seconds in medians.items()}
    ratios = {peer: round(medians[peer] / medians["jax"], 2) for peer in PEERS[1:]}
    line = {"benchmark": "engine_peers", "size": given.size, "tokens_per_s": rates, "ratios": ratios}
    print(json.dumps(line | {"rounds": rounds}))


if __name__ == "__main__":
    main()
