"""Compiles the real programs for devices that are not there: the train step, the engine's decode step.

Nothing is allocated: states and batches are shapes with shardings. That a program does not fit is the
compiler's own finding, with its sizes, and not an error. Prints nothing.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from o1jax.engine.jax_engine.programs import compiled, empty_slots
from o1jax.model.config import ModelConfig
from o1jax.model.init import NO_PARAMS, abstract_params
from o1jax.model.kv_cache import cache_sharding, init_cache
from o1jax.model.lora import LoraSettings, abstract_adapted
from o1jax.parallel.mesh import batch_spec, replicated
from o1jax.plan.collectives import Traffic, collectives
from o1jax.train import objectives
from o1jax.train.optimizer import OptimizerSettings, make_optimizer, make_schedule
from o1jax.train.step import abstract_state, make_train_step

GIB = 1 << 30
NO_LORA = LoraSettings(rank=0)
DECODED_BLOCK = 1  # tokens a call (the engine's are more): what it sends is then what a token sends


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a program; sizes are a device's."""

    fits: bool
    peak_gib: float  # arguments and temporaries; of a program that does not fit, what the compiler counts
    limit_gib: float  # what it has for the program, where it said so; else 0
    arguments_gib: float  # the results take their place: they are donated
    temporaries_gib: float
    compile_s: float
    collectives: Mapping[str, Traffic]
    needs: str = ""  # the compiler's line, where it does not fit


def traced_step(
    config: ModelConfig,
    mesh: Mesh,
    optimizer: OptimizerSettings,
    *,
    rows: int,
    row_length: int,
    micro_batches: int = 1,
    lora: LoraSettings = NO_LORA,
) -> jax.stages.Traced:
    """The SFT step on a global batch of `rows` x `row_length` tokens, of all parameters or of adapters."""
    frozen = NO_PARAMS
    if lora.rank:
        graphdef, params, frozen = abstract_adapted(config, lora, mesh)
    else:
        graphdef, params = abstract_params(config, mesh)
    transformation = make_optimizer(optimizer)
    state = abstract_state(params, transformation, mesh)
    step = make_train_step(
        graphdef,
        objectives.sft,
        transformation,
        state,
        mesh,
        schedule=make_schedule(optimizer),
        micro_batches=micro_batches,
        gradient_dtype=optimizer.gradient_dtype,
        frozen=frozen,
    )
    batch = abstract_batch(mesh, rows, row_length)
    return step.trace(state, batch, *((frozen,) if lora.rank else ()))


def abstract_batch(mesh: Mesh, rows: int, row_length: int) -> dict[str, jax.ShapeDtypeStruct]:
    """A packed batch's shapes (batches/stream.py)."""
    sharding = NamedSharding(mesh, batch_spec())
    names = ("tokens_BT", "targets_BT", "positions_BT", "segment_ids_BT", "example_id_BT")
    dtypes = {name: jnp.int32 for name in names} | {"weights_BT": jnp.float32}
    return {
        name: jax.ShapeDtypeStruct((rows, row_length), dtype, sharding=sharding)
        for name, dtype in dtypes.items()
    }


def decode_program(config: ModelConfig, mesh: Mesh, *, slots: int, context: int) -> Compiled:
    """The engine's decode program on a mesh of one axis, tensor; weights and cache in the compute dtype."""
    config = dataclasses.replace(config, param_dtype=config.compute_dtype)
    graphdef, params = abstract_params(config, mesh, apart=True)

    def on_devices(tree: Any, sharding: NamedSharding) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    sharding = cache_sharding(mesh)
    cache = on_devices(jax.eval_shape(lambda: init_cache(config, slots, context)), sharding)
    state = on_devices(empty_slots(slots), replicated(mesh))
    leaves, structure = jax.tree.flatten(params)
    programs = compiled(graphdef, structure, sharding, DECODED_BLOCK, config.token_rows)
    return compile_traced(programs.decode.trace(leaves, cache, state, jnp.int32(1)), mesh.size)


def compile_traced(traced: jax.stages.Traced, n_devices: int) -> Compiled:
    """What the compiler makes of a traced program. Errors other than too little memory are raised."""
    lowered, began = traced.lower(), time.monotonic()
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return refused(str(error), time.monotonic() - began)
    seconds, memory = time.monotonic() - began, program.memory_analysis()
    arguments = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Compiled(
        fits=True,
        peak_gib=(arguments + memory.temp_size_in_bytes) / GIB,
        limit_gib=0.0,
        arguments_gib=arguments / GIB,
        temporaries_gib=memory.temp_size_in_bytes / GIB,
        compile_s=seconds,
        collectives=collectives(program.as_text(), n_devices),
    )


OUT_OF_MEMORY = (  # the compiler's two ways to say so
    r"Used ([\d.]+[KMG]) of ([\d.]+[KMG]) hbm",
    r"memory required for HLO temporaries \(([\d.]+[KMG])\) exceeds available HBM \(([\d.]+[KMG])\)",
)


def refused(message: str, seconds: float) -> Compiled:
    """What the compiler says where the program does not fit; its error again, if it is another."""
    sizes = next(filter(None, (re.search(form, message) for form in OUT_OF_MEMORY)), None)
    if "RESOURCE_EXHAUSTED" not in message or not sizes:
        raise jax.errors.JaxRuntimeError(message)
    used, limit = (gib(size) for size in sizes.groups())
    return Compiled(False, used, limit, 0.0, 0.0, seconds, {}, " ".join(message.split("\n")[0].split()))


def gib(size: str) -> float:
    """ "17.3G" as GiB."""
    return float(size[:-1]) / {"K": 1 << 20, "M": 1 << 10, "G": 1}[size[-1]]
