"""A plan: one program compiled for one topology, with its bounds, as JSON values; and several as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from o1jax.model.config import ModelConfig
from o1jax.model.init import abstract_params, kernel_of, parameter_count
from o1jax.model.lora import LoraSettings
from o1jax.parallel.chips import Chip
from o1jax.parallel.mesh import make_mesh, sizes_of
from o1jax.plan.bounds import Bounds, decode_bounds, train_bounds
from o1jax.plan.program import GIB, NO_LORA, Compiled, compile_traced, decode_program, traced_step
from o1jax.plan.topology import chip_of, devices_of, slower_network
from o1jax.records import InputError
from o1jax.train.optimizer import OptimizerSettings


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to run."""

    config: ModelConfig
    topology: str  # "v5p:2x2x2", "h100:8" (topology.py)
    mesh: Sequence[str]  # words as "fsdp=4" (parallel.mesh.sizes_of)
    slices: int = 1  # TPU slices of that topology; the data axis goes across them
    rows_per_device: float = 1.0  # rows of the global batch / devices
    row_length: int = 4096  # tokens; to decode, the context
    micro_batches: int = 1  # parts in which a batch's gradient is made
    moment_dtype: str = ""  # of AdamW's first moment; empty: the parameters'
    gradient_dtype: str = ""  # of gradients; empty: the parameters'
    lora: LoraSettings = NO_LORA


def plan_train(job: Job) -> dict[str, Any]:
    """The train step's figures. InputError for a mesh or batch that does not fit the topology."""
    devices = devices_of(job.topology, job.slices)
    mesh = make_mesh(sizes_of(job.mesh, len(devices)), devices, job.slices)
    rows = round(job.rows_per_device * mesh.size)
    split = mesh.shape["data"] * mesh.shape["fsdp"] * job.micro_batches
    if rows % split or job.row_length % mesh.shape["context"]:
        raise InputError(
            f"{rows} rows of {job.row_length} tokens: rows must be a multiple of {split} (data, fsdp and "
            f"micro-batches), tokens of {mesh.shape['context']} (context)"
        )
    # Learning rate and schedule change no size; weight decay is on, as in training.
    dtypes = {"moment_dtype": job.moment_dtype, "gradient_dtype": job.gradient_dtype}
    optimizer = OptimizerSettings(1e-5, total_steps=1000, weight_decay=0.1, **dtypes)
    shape = {"rows": rows, "row_length": job.row_length}
    step = traced_step(job.config, mesh, optimizer, micro_batches=job.micro_batches, lora=job.lora, **shape)
    program = compile_traced(step, mesh.size)
    chip = chip_of(job.topology)
    program = within_memory(program, chip)
    bound = train_bounds(job.config, chip, mesh.size, program, lora=job.lora.rank > 0, **shape)
    return {
        "program": "train",
        "topology": job.topology,
        "slices": job.slices,
        "devices": mesh.size,
        "mesh": {axis: size for axis, size in mesh.shape.items() if size > 1},
        **shape,
        "attention": kernel_of(job.config, mesh),
        "remat": job.config.remat,
        "lora": f"rank {job.lora.rank}, base {job.lora.base}" if job.lora.rank else "none",
        "parameters": parameter_count(abstract_params(job.config, mesh)[1]),
        **memory_figures(program),
        **bound_figures(bound, program),
        "network_s_is_of": slower_network(job.topology, job.slices),
        "mfu_bound": round(bound.mfu(chip, mesh.size), 3) if program.fits else 0.0,
    }


def plan_decode(job: Job, slots: int) -> dict[str, Any]:
    """The figures of the engine's decode step, `slots` sequences of row_length tokens. job.mesh is empty, for
    one device of the topology, or ["tensor=n"]. InputError for another."""
    devices = devices_of(job.topology)
    sizes = {"tensor": 1} | sizes_of(job.mesh, len(devices))
    if set(sizes) != {"tensor"} or sizes["tensor"] > len(devices):
        raise InputError(
            f"mesh {','.join(job.mesh)!r} to decode on {len(devices)} devices: give --mesh=tensor=<how many>"
        )
    mesh = make_mesh(sizes, devices[: sizes["tensor"]])
    chip = chip_of(job.topology)
    program = within_memory(decode_program(job.config, mesh, slots=slots, context=job.row_length), chip)
    bound = decode_bounds(job.config, chip, mesh.size, program, slots, job.row_length)
    return {
        "program": "decode",
        "topology": job.topology,
        "devices": mesh.size,
        "slots": slots,
        "context": job.row_length,
        **memory_figures(program),
        **bound_figures(bound, program),
        "tokens_per_s_bound": round(slots / bound.step_s) if program.fits else 0,
    }


def within_memory(program: Compiled, chip: Chip) -> Compiled:
    """`program`, which does not fit where it takes more than the chip has."""
    # A TPU's compiler refuses such a program itself, NVIDIA's never does.
    if not program.fits or program.peak_gib <= chip.hbm_gib:
        return program
    needs = f"it compiles, and takes {program.peak_gib:.1f} GiB of the chip's {chip.hbm_gib}"
    return dataclasses.replace(program, fits=False, limit_gib=chip.hbm_gib, needs=needs)


def memory_figures(program: Compiled) -> dict[str, Any]:
    """fits and sizes, GiB a device."""
    figures = {"fits": program.fits, "peak_gib_per_device": round(program.peak_gib, 2)}
    if not program.fits:
        return figures | {"limit_gib_per_device": round(program.limit_gib, 2), "compiler": program.needs}
    parts = {"state": program.arguments_gib, "temporaries": program.temporaries_gib}
    return figures | {f"{name}_gib_per_device": round(gib, 2) for name, gib in parts.items()}


def bound_figures(bound: Bounds, program: Compiled) -> dict[str, Any]:
    """Bounds and collectives, of a step."""
    return {
        "compile_s": round(program.compile_s, 1),
        "model_flops": bound.model_flops,
        "compute_s": round(bound.compute_s, 5),
        "memory_s": round(bound.memory_s, 5),
        "network_s": round(bound.network_s, 5),
        "step_s_bound": round(bound.step_s, 5),
        "sent_gib_per_device": round(sum(t.sent_bytes for t in program.collectives.values()) / GIB, 3),
        "collectives": {
            kind: {"calls": traffic.calls, "sent_gib_per_device": round(traffic.sent_bytes / GIB, 3)}
            for kind, traffic in sorted(program.collectives.items())
        },
    }


def table(plans: Sequence[Mapping[str, Any]]) -> str:
    """Plans beside each other as text: one line a figure, one column a plan."""
    plans = [flat(plan) for plan in plans]
    names = dict.fromkeys(name for plan in plans for name in plan)  # in the order in which they come
    rows = [[name, *(cell(plan.get(name, "")) for plan in plans)] for name in names]
    widths = [max(len(row[column]) for row in rows) for column in range(len(plans) + 1)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def flat(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The plan with a line a kind of collective, and its mesh as text."""
    lines = dict(plan)
    for kind, traffic in lines.pop("collectives").items():
        lines[kind] = f"{traffic['calls']} x, {traffic['sent_gib_per_device']:.3g} GiB"
    if "mesh" in lines:
        lines["mesh"] = ",".join(f"{axis}={size}" for axis, size in lines["mesh"].items())
    return lines


def cell(value: Any) -> str:
    """A figure, short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
