"""A training step on this machine's GPU against transformers on PyTorch, on the same card, in one run.

    python tests/benchmarks/train_gpu.py [--model=qwen2.5-1.5b] [--rows=8] [--row_length=4096]
        [--micro_batches=8] [--remat=none] [--attention=auto] [--unroll=0] [--peer_micro_batches=8]
        [--peer_remat] [--steps=10]
    python tests/benchmarks/train_gpu.py --kernels [--models=qwen2.5-0.5b,qwen2.5-1.5b]

Prints one JSON line. Full SFT of random weights: float32 parameters and AdamW, products in bfloat16, packed
rows. Each side runs alone in a process of its own, and may have its own micro-batches and recomputation. Ours
is launch/profile.py. Theirs takes the same rows through transformers' model under autocast, with
scaled_dot_product_attention's causal kernel over whole rows: it is its fastest, and it does not keep
sequences apart, as ours does. Tokens exclude padding on both sides; FLOPs are o1jax.plan.bounds's for both.

With --kernels: a line of cuDNN's two ways to keep packed sequences apart, its mask and its packed layout
(errors to float32; milliseconds, by the places for segments), then one of each model's train step with each.
About five minutes on an H200.
"""

import argparse
import functools
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from o1jax.model.hf.config import config_to_hf
from o1jax.model.presets import preset
from o1jax.parallel.chips import chip_of_kind
from o1jax.plan.profile import random_batches

PROFILE = pathlib.Path(__file__).parents[2] / "launch" / "profile.py"
WARM_UP = 2
ALL = {"full_attention": None}  # in place of the mask that packed positions would get: causal alone


def ours(given: argparse.Namespace) -> dict:
    """The figures of launch/profile.py."""
    shared = [f"--model={given.model}", f"--rows={given.rows}", f"--row_length={given.row_length}"]
    shared.append(f"--steps={given.steps}")
    with tempfile.TemporaryDirectory() as workdir:
        own = [f"--micro_batches={given.micro_batches}", f"--remat={given.remat}", "--nocheckpoint"]
        own += [f"--attention={given.attention}", f"--unroll={given.unroll}", f"--workdir={workdir}"]
        return json.loads(output_of([str(PROFILE), *shared, *own]))


def kernels(given: argparse.Namespace) -> None:
    """One line of cuDNN's two ways alone, then one of each model's train step with each."""
    if not given.models:
        print(json.dumps({"benchmark": "attention_gpu", **kernel_figures(given.row_length)}))
        return
    # In a process of its own, whose GPU memory is free again when the steps come.
    print(output_of([__file__, "--kernels", "--models="]), end="", flush=True)
    steps = {"steps": 5, "micro_batches": 2, "remat": "dots", "unroll": given.unroll}
    names = ("tokens_per_s", "step_s", "mfu", "compile_s", "program_gib_per_device", "peak_gib_in_use")
    for model in given.models.split(","):
        for attention in ("cudnn", "cudnn_packed"):
            said = {"model": model, "attention": attention}
            figures = ours(argparse.Namespace(**vars(given) | steps | said))
            line = {"benchmark": "train_gpu", **said, **{name: figures[name] for name in names}}
            print(json.dumps(line), flush=True)


def kernel_figures(T: int, B: int = 4, N: int = 12, K: int = 2, H: int = 128) -> dict:
    """By kernel: largest errors of out, dq, dk and dv where no padding is, of each against attention in
    float32, and milliseconds of a forward pass and of both."""
    import jax
    import jax.numpy as jnp

    from o1jax.model.attention import chunked_attention, cudnn_attention, cudnn_packed_attention

    segments_BT = random_batches(1000, B, T).at(0)["segment_ids_BT"]
    keys, shapes = jax.random.split(jax.random.key(0), 4), [(B, T, n, H) for n in (N, K, K, N)]
    *qkv, weights = (
        jax.random.normal(key, shape, jnp.bfloat16) for key, shape in zip(keys, shapes, strict=True)
    )
    live_BT = jnp.asarray(segments_BT > 0)
    weights = jnp.where(live_BT[..., None, None], weights, 0)

    def both(kernel):
        def run(q, k, v):
            out, back = jax.vjp(lambda *x: kernel(*x, segments_BT, segments_BT, first=0), q, k, v)
            return out, *back(weights.astype(out.dtype))

        return jax.jit(run)

    with jax.default_matmul_precision("highest"):
        wanted = both(chunked_attention)(*(x.astype(jnp.float32) for x in qkv))
    forms = {"mask": cudnn_attention}
    for most in (16, 32, 64):
        forms[f"packed, {most} places"] = functools.partial(cudnn_packed_attention, most=most)
    found = {"segments_a_row": segments_BT.max(axis=1).tolist()}
    for name, kernel in forms.items():
        run = both(kernel)
        pairs = zip(run(*qkv), wanted, strict=True)
        errors = [float(jnp.abs((a.astype(jnp.float32) - b)[live_BT]).max()) for a, b in pairs]
        forward = jax.jit(
            functools.partial(lambda kernel, *x: kernel(*x, segments_BT, segments_BT, first=0), kernel)
        )
        found[name] = {"errors": errors, "forward_ms": ms(forward, qkv), "both_ms": ms(run, qkv)}
    return found


def ms(function, args, calls: int = 20) -> float:
    """Milliseconds a call, of calls that do not wait for each other; the median of five such series."""
    import jax

    series = []
    for _ in range(6):  # the first compiles
        began = time.monotonic()
        for _ in range(calls):
            result = function(*args)
        jax.block_until_ready(result)
        series.append((time.monotonic() - began) / calls * 1e3)
    return round(statistics.median(series[1:]), 3)


def output_of(arguments: list[str]) -> str:
    """What a Python process prints; it ends this one where it fails."""
    process = subprocess.run(
        [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    if process.returncode:
        sys.exit(f"{arguments[0]} ended with exit code {process.returncode}")
    return process.stdout


def theirs(given: argparse.Namespace) -> dict:
    """Tokens/s of transformers, by the median of its steps."""
    import torch
    import transformers

    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    config = preset(given.model)
    hf_config = transformers.AutoConfig.for_model(**config_to_hf(config))
    hf_config.use_cache = False
    with where:
        model = transformers.AutoModelForCausalLM.from_config(
            hf_config, attn_implementation="sdpa", dtype=torch.float32
        )
    model.train()
    if given.peer_remat:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    batches = random_batches(config.token_rows, given.rows, given.row_length)
    parts, seconds = given.peer_micro_batches, []
    for at in range(given.steps + WARM_UP):
        batch = batches.at(at)
        began = time.monotonic()
        tokens, targets, positions, weights = (
            torch.tensor(batch[name]).to(where).chunk(parts)
            for name in ("tokens_BT", "targets_BT", "positions_BT", "weights_BT")
        )
        total = sum(part.sum() for part in weights)
        for ids_BT, targets_BT, positions_BT, weights_BT in zip(
            tokens, targets, positions, weights, strict=True
        ):
            with torch.autocast(where.type, torch.bfloat16):
                logits_BTV = model(
                    input_ids=ids_BT.long(), position_ids=positions_BT.long(), attention_mask=ALL
                ).logits
            losses = torch.nn.functional.cross_entropy(
                logits_BTV.flatten(0, 1), targets_BT.flatten().long(), reduction="none"
            )
            ((losses * weights_BT.flatten()).sum() / total).backward()
            del logits_BTV, losses
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if where.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - began)
    step_s = statistics.median(seconds[WARM_UP:])
    tokens = statistics.mean(batches.tokens_at(at) for at in range(1, given.steps + 1))
    held = torch.cuda.max_memory_allocated() / 2**30 if where.type == "cuda" else None
    return {"tokens_per_s": round(tokens / step_s), "step_s": step_s, "peak_gib_in_use": held}


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--model", default="qwen2.5-1.5b")
    flags.add_argument("--rows", type=int, default=8)
    flags.add_argument("--row_length", type=int, default=4096)
    flags.add_argument("--steps", type=int, default=10)
    flags.add_argument("--micro_batches", type=int, default=8)
    flags.add_argument("--remat", default="none")
    flags.add_argument("--attention", default="auto")
    flags.add_argument("--unroll", type=int, default=0)
    flags.add_argument("--kernels", action="store_true", help="cuDNN's mask against its packed layout")
    flags.add_argument("--models", default="qwen2.5-0.5b,qwen2.5-1.5b", help="with --kernels")
    flags.add_argument("--peer_micro_batches", type=int, default=8)
    flags.add_argument("--peer_remat", action="store_true")
    flags.add_argument("--peer", action="store_true", help="measure transformers alone, here")
    given = flags.parse_args()
    if given.kernels:
        kernels(given)
        return
    if given.peer:
        print(json.dumps(theirs(given)))
        return
    figures = ours(given)
    peer = json.loads(output_of([__file__, *sys.argv[1:], "--peer"]).splitlines()[-1])
    chip = chip_of_kind(figures["device"])
    flops = figures["model_flops_per_step"] / peer["step_s"]
    print(
        json.dumps(
            {
                "benchmark": "train_gpu",
                "model": given.model,
                "rows": given.rows,
                "row_length": given.row_length,
                "device": figures["device"],
                "o1jax": figures,
                "transformers": {**peer, "mfu": flops / chip.flops if chip else None},
                "ratio": round(figures["tokens_per_s"] / peer["tokens_per_s"], 3),
            }
        )
    )


if __name__ == "__main__":
    main()
