"""Measures the train step on the devices that are there: how fast, how even, and what it waits for.

On packed rows of random tokens, with random weights. Compiles nothing for devices that are not there
(plan/), and prints nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from o1jax.batches.encode import Example
from o1jax.batches.stream import Batches
from o1jax.model.config import ModelConfig
from o1jax.model.init import init_params
from o1jax.parallel.chips import chip_of_kind
from o1jax.parallel.mesh import own_rows, place_batch
from o1jax.parallel.processes import is_leader
from o1jax.plan.bounds import train_flops
from o1jax.plan.program import GIB
from o1jax.train import objectives
from o1jax.train.checkpoint import Checkpoints
from o1jax.train.optimizer import OptimizerSettings, make_optimizer, make_schedule
from o1jax.train.resumable import items_of
from o1jax.train.step import TrainState, init_state, make_train_step

QUANTILES = {"min": 0, "p50": 0.5, "p90": 0.9, "max": 1}


@dataclasses.dataclass(frozen=True)
class Timings:
    """Seconds."""

    steps_s: list[float]  # each step alone, from dispatch to the end
    inputs_s: list[float]  # assembling each batch and sending it to the devices
    running_s: float  # the same steps dispatched as the loop does, all of them


def profile(
    config: ModelConfig,
    mesh: Mesh,
    optimizer: OptimizerSettings,
    directory: epath.Path | None,
    *,
    rows: int,
    row_length: int,
    steps: int,
    micro_batches: int = 1,
    trace: epath.Path | None = None,
) -> dict[str, Any]:
    """Figures of the SFT step; one checkpoint is written into `directory` and taken away.

    MFU is train_flops (6 N a token of the parameters in products, causal attention halved and only inside a
    sequence, nothing for remat) / (step seconds x devices x peak); None where the peak is not known. `trace`:
    a directory for a profiler's trace of three steps, as TensorBoard and xprof read it.
    """
    graphdef, params = init_params(config, 0, mesh)
    transformation = make_optimizer(optimizer)
    state = init_state(params, transformation, mesh)
    del params  # else they are on the devices twice: the step donates the state's
    batches = random_batches(config.token_rows, rows, row_length)
    step = make_train_step(
        graphdef,
        objectives.sft,
        transformation,
        state,
        mesh,
        schedule=make_schedule(optimizer),
        micro_batches=micro_batches,
        gradient_dtype=optimizer.gradient_dtype,
    )
    began = time.monotonic()
    program = step.lower(state, batch_at(batches, 0, mesh)).compile()
    compile_s = time.monotonic() - began
    state, timings = timed(program, state, batches, mesh, steps, trace)
    figures = rates(config, mesh, batches, timings)
    figures |= memory_of(program) | {"compile_s": compile_s}
    return figures if directory is None else figures | checkpointed(state, directory)


def random_batches(n_tokens: int, rows: int, row_length: int) -> Batches:
    """Of ids below `n_tokens`: sequences of a sixteenth of a row to half of one, enough for a few batches."""
    random = np.random.RandomState(0)
    lengths = random.randint(max(2, row_length // 16), row_length // 2 + 1, size=32 * rows)
    tokens = (tuple(random.randint(0, n_tokens, n).tolist()) for n in lengths)
    examples = [Example(str(i), ids, (1.0,) * len(ids)) for i, ids in enumerate(tokens)]
    return Batches(examples, row_length=row_length, rows_per_batch=rows, seed=0)


def batch_at(batches: Batches, step: int, mesh: Mesh) -> dict[str, jax.Array]:
    """The batch at `step` on the mesh, of which this process assembles its rows."""
    own = own_rows(batches.rows_per_batch, mesh)
    return place_batch(batches.at(step, own.indices), mesh, own)


def timed(
    program: jax.stages.Compiled,
    state: TrainState,
    batches: Batches,
    mesh: Mesh,
    steps: int,
    trace: epath.Path | None,
) -> tuple[TrainState, Timings]:
    """(the last state, the timings) after a warm-up step, `steps` alone, and `steps` as the loop does."""
    steps_s, inputs_s = [], []
    for at in range(steps + 1):
        began = time.monotonic()
        batch = batch_at(batches, at, mesh)
        inputs_s.append(time.monotonic() - began)
        state, metrics = program(state, batch)
        jax.block_until_ready(metrics)
        steps_s.append(time.monotonic() - began - inputs_s[-1])
    began = time.monotonic()
    for at in range(1, steps + 1):
        state, metrics = program(state, batch_at(batches, at, mesh))
    jax.block_until_ready(metrics)
    running_s = time.monotonic() - began
    with jax.profiler.trace(str(trace)) if trace else contextlib.nullcontext():
        for at in range(3 if trace else 0):
            state, metrics = program(state, batch_at(batches, at, mesh))
        jax.block_until_ready(metrics)
    return state, Timings(steps_s[1:], inputs_s[1:], running_s)


def rates(config: ModelConfig, mesh: Mesh, batches: Batches, timings: Timings) -> dict[str, Any]:
    """tokens/s, the distribution of step times, input stalls, MFU."""
    steps = range(1, len(timings.steps_s) + 1)
    tokens = statistics.mean(batches.tokens_at(step) for step in steps)
    pairs = statistics.mean(pairs_of(batches, step) for step in steps)
    flops, median_s = train_flops(config, tokens, pairs), statistics.median(timings.steps_s)
    running_s = timings.running_s / len(timings.steps_s)
    chip = chip_of_kind(mesh.devices.flat[0].device_kind)
    return {
        "tokens_per_s": round(tokens / running_s),
        "tokens_per_step": round(tokens),
        "step_s": {name: float(np.quantile(timings.steps_s, share)) for name, share in QUANTILES.items()},
        "input_s": statistics.median(timings.inputs_s),
        "input_stall_s": max(0.0, running_s - median_s),
        "model_flops_per_step": flops,
        "model_flops_per_s": flops / running_s,
        "mfu": flops / (running_s * mesh.size * chip.flops) if chip else None,
    }


def pairs_of(batches: Batches, step: int) -> float:
    """(query, key) pairs that causal attention inside the sequences of a batch takes."""
    ids, lengths = np.unique(batches.at(step)["example_id_BT"], return_counts=True)
    return float((lengths[ids >= 0].astype(float) ** 2).sum() / 2)


def memory_of(program: jax.stages.Compiled) -> dict[str, Any]:
    """What the program needs by the compiler, and what the device has held at most, where it counts."""
    memory = program.memory_analysis()
    arguments = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    counted = jax.local_devices()[0].memory_stats() or {}
    held = counted.get("peak_bytes_in_use")
    return {
        "program_gib_per_device": (arguments + memory.temp_size_in_bytes) / GIB,
        "peak_gib_in_use": None if held is None else held / GIB,
    }


def checkpointed(state: TrainState, directory: epath.Path) -> dict[str, float]:
    """How long a checkpoint stops the loop, and how long its writing goes on behind it."""
    with Checkpoints(directory) as checkpoints:
        began = time.monotonic()
        checkpoints.save(1, items_of(state), {})
        stall_s = time.monotonic() - began
        checkpoints.wait()
        written_s = time.monotonic() - began
    if is_leader():
        directory.rmtree()
    return {"checkpoint_stall_s": stall_s, "checkpoint_s": written_s}
