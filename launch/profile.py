"""Measures the train step on this machine: tokens/s, step times, MFU, stalls, memory, compile time.

    python launch/profile.py --model=nano --rows=16 --row_length=256 --trace

Random weights, packed rows of random tokens, on the mesh of --mesh=fsdp=4,tensor=2. With --trace,
`tensorboard --logdir <workdir>/trace` (with the plugin xprof) shows three steps. XLA's programs are kept on
disk: the second run compiles nothing.
"""

import dataclasses
import json

import entry
import jax
from absl import flags
from etils import epath

from o1jax.model.init import kernel_of
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh, sizes_of
from o1jax.parallel.processes import is_leader, start_processes
from o1jax.plan.profile import profile
from o1jax.stages.run import keep_compiled_programs
from o1jax.train.optimizer import OptimizerSettings

MODEL = flags.DEFINE_string("model", "nano", "A preset of o1jax.model.presets.")
MESH = flags.DEFINE_list("mesh", [], "Sizes by axis (data, fsdp, tensor, context); * fills.")
ROWS = flags.DEFINE_integer("rows", 16, "Rows of the global batch.")
ROW_LENGTH = flags.DEFINE_integer("row_length", 256, "Tokens a row.")
STEPS = flags.DEFINE_integer("steps", 20, "Steps that are timed.")
MICRO_BATCHES = flags.DEFINE_integer("micro_batches", 1, "Parts in which a batch's gradient is made.")
REMAT = flags.DEFINE_string("remat", "", "none, dots, attention or full; the preset's if empty.")
ATTENTION = flags.DEFINE_string("attention", "auto", "auto, chunked, splash, cudnn or cudnn_packed.")
UNROLL = flags.DEFINE_integer(
    "unroll", 0, "Layers that a turn of the loop over them computes; 0: by their number."
)
MOMENT_DTYPE = flags.DEFINE_enum("moment_dtype", "", ["", "float32", "bfloat16"], "Of AdamW's first moment.")
GRADIENT_DTYPE = flags.DEFINE_enum("gradient_dtype", "", ["", "float32", "bfloat16"], "Of gradients.")
CHECKPOINT = flags.DEFINE_bool("checkpoint", True, "Write one checkpoint, to measure that too.")
TRACE = flags.DEFINE_bool("trace", False, "Write a trace of three steps to <workdir>/trace.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        entry.fail(f"unexpected argument {argv[1]!r}: write --model=nano")
    start_processes()
    keep_compiled_programs()
    config = preset(MODEL.value)
    remat = REMAT.value or config.remat
    config = dataclasses.replace(config, attention=ATTENTION.value, remat=remat, unroll=UNROLL.value)
    workdir = epath.Path(entry.WORKDIR.value or "runs/profile")
    mesh = make_mesh(sizes_of(MESH.value, len(jax.devices())) if MESH.value else None)
    figures = profile(
        config,
        mesh,
        OptimizerSettings(1e-4, 1000, moment_dtype=MOMENT_DTYPE.value, gradient_dtype=GRADIENT_DTYPE.value),
        workdir / "checkpoint" if CHECKPOINT.value else None,
        rows=ROWS.value,
        row_length=ROW_LENGTH.value,
        steps=STEPS.value,
        micro_batches=MICRO_BATCHES.value,
        trace=workdir / "trace" if TRACE.value else None,
    )
    if is_leader():
        device = jax.devices()[0].device_kind
        named = {"model": MODEL.value, "device": device, "attention": kernel_of(config, mesh)}
        print(json.dumps(named | figures, indent=1))


if __name__ == "__main__":
    entry.run(main)
