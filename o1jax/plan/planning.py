"""A plan: one program compiled for one topology, with its bounds, as JSON values (table.py shows several)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from o1jax.model.config import ModelConfig
from o1jax.model.init import abstract_params, kernel_of, parameter_count
from o1jax.model.lora import LoraSettings
from o1jax.parallel.chips import Chip
from o1jax.parallel.mesh import make_mesh, sizes_of
from o1jax.plan.bounds import Bounds, decode_bounds, mfu, train_bounds
from o1jax.plan.program import GIB, NO_LORA, Found, decode_program, train_program
from o1jax.plan.topology import chip_of, devices_of, slower_network
from o1jax.records import InputError
from o1jax.train.optimizer import OptimizerSettings


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to run. `mesh`: words as "fsdp=4" (parallel.mesh.sizes_of); `rows_per_device`: rows of the
    global batch / devices."""

    config: ModelConfig
    topology: str
    mesh: Sequence[str]
    slices: int = 1
    rows_per_device: float = 1.0
    row_length: int = 4096
    micro_batches: int = 1
    moment_dtype: str = ""
    gradient_dtype: str = ""
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
    optimizer = OptimizerSettings(
        1e-5,
        total_steps=1000,
        weight_decay=0.1,
        moment_dtype=job.moment_dtype,
        gradient_dtype=job.gradient_dtype,
    )
    found = train_program(
        job.config,
        mesh,
        optimizer,
        rows=rows,
        row_length=job.row_length,
        micro_batches=job.micro_batches,
        lora=job.lora,
    )
    chip = chip_of(job.topology)
    found = within_memory(found, chip)
    bound = train_bounds(job.config, chip, mesh.size, found, rows, job.row_length, lora=job.lora.rank > 0)
    return {
        "program": "train",
        "topology": job.topology,
        "slices": job.slices,
        "devices": mesh.size,
        "mesh": {axis: size for axis, size in mesh.shape.items() if size > 1},
        "rows": rows,
        "row_length": job.row_length,
        "attention": kernel_of(job.config, mesh),
        "remat": job.config.remat,
        "lora": f"rank {job.lora.rank}, base {job.lora.base}" if job.lora.rank else "none",
        "parameters": parameter_count(abstract_params(job.config, mesh)[1]),
        **memory_figures(found),
        **bound_figures(bound, found),
        "network_s_is_of": slower_network(job.topology, job.slices),
        "mfu_bound": round(mfu(bound, chip, mesh.size), 3) if found.fits else 0.0,
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
    found = decode_program(job.config, mesh, slots=slots, context=job.row_length)
    chip = chip_of(job.topology)
    found = within_memory(found, chip)
    bound = decode_bounds(job.config, chip, mesh.size, found, slots, job.row_length)
    return {
        "program": "decode",
        "topology": job.topology,
        "devices": mesh.size,
        "slots": slots,
        "context": job.row_length,
        **memory_figures(found),
        **bound_figures(bound, found),
        "tokens_per_s_bound": round(slots / bound.step_s) if found.fits else 0,
    }


def within_memory(found: Found, chip: Chip) -> Found:
    """`found`, which does not fit where it takes more than the chip has: NVIDIA's compiler never refuses."""
    if not found.fits or found.peak_gib <= chip.hbm_gib:
        return found
    needs = f"it compiles, and takes {found.peak_gib:.1f} GiB of the chip's {chip.hbm_gib}"
    return dataclasses.replace(found, fits=False, limit_gib=chip.hbm_gib, needs=needs)


def memory_figures(found: Found) -> dict[str, Any]:
    """fits and sizes, GiB a device."""
    figures = {"fits": found.fits, "peak_gib_per_device": round(found.peak_gib, 2)}
    if not found.fits:
        return figures | {"limit_gib_per_device": round(found.limit_gib, 2), "compiler": found.needs}
    parts = {"state": found.arguments_gib, "temporaries": found.temporaries_gib}
    return figures | {f"{name}_gib_per_device": round(gib, 2) for name, gib in parts.items()}


def bound_figures(bound: Bounds, found: Found) -> dict[str, Any]:
    """Bounds and collectives, of a step."""
    return {
        "compile_s": round(found.compile_s, 1),
        "model_flops": bound.model_flops,
        "compute_s": round(bound.compute_s, 5),
        "memory_s": round(bound.memory_s, 5),
        "network_s": round(bound.network_s, 5),
        "step_s_bound": round(bound.step_s, 5),
        "sent_gib_per_device": round(sum(t.sent_bytes for t in found.collectives.values()) / GIB, 3),
        "collectives": {
            kind: {"calls": traffic.calls, "sent_gib_per_device": round(traffic.sent_bytes / GIB, 3)}
            for kind, traffic in sorted(found.collectives.items())
        },
    }
