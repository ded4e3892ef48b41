"""A training step against PyTorch, eager and compiled, on the same model, parameters and batch, in one run.

    python tests/benchmarks/train.py [--size nano|5m|135m] [--compiled] [--rounds 15] [--rows 16]

Prints one JSON line: tokens/s (padding not counted) of each, medians over interleaved rounds, and ours
over theirs; the same by the CPU seconds that each takes, which other programs on the machine change less.
135m has the shape of SmolLM2-135M (give it few rows: --rows 2 --row-length 512). Needs torch beside o1jax,
and a C++ compiler with --compiled. Not a test: nano takes about two minutes on two cores.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time

import jax
import numpy as np

from o1jax.batches.encode import Example
from o1jax.batches.stream import Batches
from o1jax.model.init import init_params
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh, place_batch
from o1jax.train import objectives
from o1jax.train.optimizer import OptimizerSettings, make_optimizer, make_schedule
from o1jax.train.step import init_state, make_train_step

try:
    import torch
except ImportError:
    sys.exit(
        "tests/benchmarks/train.py compares with PyTorch: pip install torch==2.13.0 (a CPU build will do)"
    )

OPTIMIZER = OptimizerSettings(
    1e-3, total_steps=1000, schedule="constant"
)  # no decay: the same update in both


SIZES = {
    "nano": preset("nano"),
    "5m": dataclasses.replace(preset("nano"), d_model=256, n_layers=6, n_heads=8, n_kv_heads=4, d_ff=768),
    "135m": dataclasses.replace(
        preset("nano"), d_model=576, n_layers=30, n_heads=9, n_kv_heads=3, head_dim=64, d_ff=1536
    ),
}
WORDS = {"nano": 704, "5m": 704, "135m": 49_152}


class TorchDecoder(torch.nn.Module):
    """The same decoder in PyTorch, over the same stacked parameters."""

    def __init__(self, config, params):
        super().__init__()
        self.config = config
        leaves = jax.tree_util.tree_leaves_with_path(params)
        self.names = {jax.tree_util.keystr(path): f"p{i}" for i, (path, _) in enumerate(leaves)}
        for i, (_, leaf) in enumerate(leaves):
            self.register_parameter(f"p{i}", torch.nn.Parameter(torch.tensor(np.asarray(leaf))))

    def of(self, *words):
        """The parameter whose path holds these words."""
        (name,) = [name for path, name in self.names.items() if all(f"['{w}']" in path for w in words)]
        return getattr(self, name)

    def norm(self, x, scale):
        return torch.nn.functional.rms_norm(x, x.shape[-1:], scale, self.config.rms_eps)

    def rotate(self, x_BNTH, cos, sin):
        first, second = x_BNTH.chunk(2, dim=-1)
        return x_BNTH * cos + torch.cat([-second, first], dim=-1) * sin

    def attend(self, x_BTD, layer, mask, cos, sin):
        q_DNH, k_DKH, v_DKH = (self.of("attention", name)[layer] for name in ("q_DNH", "k_DKH", "v_DKH"))
        q_NH, k_KH, v_KH = (self.of("attention", name)[layer] for name in ("q_NH", "k_KH", "v_KH"))

        def project(w, b):
            out = torch.nn.functional.linear(x_BTD, w.flatten(1).T, b.flatten())
            return out.unflatten(-1, b.shape).transpose(1, 2)

        q, k, v = project(q_DNH, q_NH), project(k_DKH, k_KH), project(v_DKH, v_KH)
        out_BNTH = torch.nn.functional.scaled_dot_product_attention(
            self.rotate(q, cos, sin), self.rotate(k, cos, sin), v, attn_mask=mask, enable_gqa=True
        )
        return out_BNTH.transpose(1, 2).flatten(2) @ self.of("attention", "o_NHD")[layer].flatten(0, 1)

    def forward(self, tokens_BT, positions_BT, segment_ids_BT):
        T, H = tokens_BT.shape[1], self.config.head_dim
        same = segment_ids_BT[:, None, :, None] == segment_ids_BT[:, None, None, :]
        mask = same & torch.ones(T, T, dtype=torch.bool).tril()
        frequencies = self.config.rope_theta ** (-torch.arange(0, H, 2) / H)
        angles = (positions_BT[:, None, :, None] * frequencies).repeat(1, 1, 1, 2)
        cos, sin = angles.cos(), angles.sin()
        x_BTD = self.of("embed_VD")[tokens_BT]
        for layer in range(self.config.n_layers):
            h = self.norm(x_BTD, self.of("attention_norm")[layer])
            x_BTD = x_BTD + self.attend(h, layer, mask, cos, sin)
            h = self.norm(x_BTD, self.of("ff_norm")[layer])
            gate, up = h @ self.of("ff", "gate_DF")[layer], h @ self.of("ff", "up_DF")[layer]
            x_BTD = x_BTD + (torch.nn.functional.silu(gate) * up) @ self.of("ff", "down_FD")[layer]
        (final,) = [n for path, n in self.names.items() if path.startswith("['norm']")]
        return self.norm(x_BTD, getattr(self, final)) @ self.of("embed_VD").T


def torch_step(config, params, batch, *, compiled: bool):
    """A function that takes one step and returns the loss: AdamW (fused) with clipping, as ours."""
    model = TorchDecoder(config, params)
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(
        model.parameters(),
        OPTIMIZER.learning_rate,
        (OPTIMIZER.b1, OPTIMIZER.b2),
        OPTIMIZER.eps,
        OPTIMIZER.weight_decay,
        fused=True,
    )
    held = {name: torch.tensor(rows).long() for name, rows in batch.items() if name != "weights_BT"}
    weights = torch.tensor(batch["weights_BT"]).flatten()

    def step():
        optimizer.zero_grad()
        logits = forward(held["tokens_BT"], held["positions_BT"], held["segment_ids_BT"])
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), held["targets_BT"].flatten(), reduction="none"
        )
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.clip_norm)
        optimizer.step()
        return float(loss.detach())

    return step


def jax_step(graphdef, params, batch, mesh):
    """A function that takes one step, the batch's transfer included, and returns the loss."""
    tx = make_optimizer(OPTIMIZER)
    held = [init_state(params, tx, mesh)]
    train = make_train_step(graphdef, objectives.sft, tx, held[0], mesh, schedule=make_schedule(OPTIMIZER))

    def step():
        held[0], metrics = train(held[0], place_batch(batch, mesh))
        return float(metrics["loss"])

    return step


def packed_batch(vocab_size, row_length, rows):
    """One batch of sequences of 80 to 250 tokens."""
    random = np.random.RandomState(0)
    lengths = random.randint(80, min(250, row_length), size=8 * rows).tolist()
    examples = [
        Example(str(i), tuple(random.randint(0, vocab_size, n).tolist()), (1.0,) * n)
        for i, n in enumerate(lengths)
    ]
    return Batches(examples, row_length=row_length, rows_per_batch=rows, seed=0).at(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=SIZES, default="nano")
    parser.add_argument("--compiled", action="store_true", help="torch.compile beside eager")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--row-length", type=int, default=256)
    parser.add_argument("--vocab", type=int, help="the size's own if not given")
    parser.add_argument("--unroll", type=int, default=0, help="layers a turn of o1jax's loop over them")
    arguments = parser.parse_args()
    changes = {"vocab_size": arguments.vocab or WORDS[arguments.size]}
    if arguments.unroll:
        changes["unroll"] = arguments.unroll
    config, mesh = dataclasses.replace(SIZES[arguments.size], **changes), make_mesh()
    graphdef, params = init_params(config, 0, mesh)
    batch = packed_batch(config.vocab_size, arguments.row_length, arguments.rows)
    steps = {
        "o1jax": jax_step(graphdef, params, batch, mesh),
        "torch_eager": torch_step(config, params, batch, compiled=False),
    }
    if arguments.compiled:
        steps["torch_compiled"] = torch_step(config, params, batch, compiled=True)
    for step in steps.values():  # compiles
        step()
    seconds, cpu, losses = {name: [] for name in steps}, {name: [] for name in steps}, {}
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            began, cpu_began = time.perf_counter(), time.process_time()
            losses[name] = step()
            seconds[name].append(time.perf_counter() - began)
            cpu[name].append(time.process_time() - cpu_began)
    tokens = int((batch["segment_ids_BT"] > 0).sum())
    rates = {name: tokens / statistics.median(times) for name, times in seconds.items()}
    figures = {
        "benchmark": f"{arguments.size}_train_step",
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "tokens_a_batch": tokens,
        **{f"{name}_tokens_per_s": round(rate) for name, rate in rates.items()},
        **{
            f"ratio_to_{name}": round(rates["o1jax"] / rate, 3)
            for name, rate in rates.items()
            if name != "o1jax"
        },
        "cpu_s": {name: round(statistics.median(times), 3) for name, times in cpu.items()},
        "cpu_ratio_to_torch_eager": round(
            statistics.median(cpu["torch_eager"]) / statistics.median(cpu["o1jax"]), 3
        ),
        "last_losses": losses,
        "threads": torch.get_num_threads(),
        "versions": {"jax": jax.__version__, "torch": torch.__version__},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
