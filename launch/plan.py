"""Says whether a model trains or decodes on accelerators that are not there, and what it needs.

    python launch/plan.py --model=qwen2.5-7b --topology=v5p:2x2x2 --mesh=fsdp=4,tensor=2
    python launch/plan.py --model=qwen2.5-7b --topology=h100:8
    python launch/plan.py --model=qwen2.5-7b --topology=v5p:2x2x2,v5p:4x4x4,v5p:8x8x8 --mesh=fsdp=*,tensor=2
    python launch/plan.py --model=qwen2.5-7b --topology=v5e:2x4 --program=decode --mesh=tensor=4 --json

Compiles the real programs for the topology, which takes a minute and no accelerator; needs the compilers
(make install-plan, then .venv-plan/bin/python). Several topologies are columns of one table: each is compiled
for itself, so that what 8, 64 and 512 chips send stands side by side. GPUs come as h100:8, or 2x8 for two
hosts; cuDNN's own workspace is not counted there.
"""

import dataclasses
import json

import entry
import jax
from absl import flags

from o1jax.model.lora import LoraSettings
from o1jax.model.presets import preset
from o1jax.plan.planning import Job, plan_decode, plan_train, table

MODEL = flags.DEFINE_string("model", "qwen2.5-7b", "A preset of o1jax.model.presets.")
TOPOLOGY = flags.DEFINE_list("topology", ["v5p:2x2x2"], "<chip>:<shape>, with commas between several.")
SLICES = flags.DEFINE_integer("slices", 1, "How many such slices; the data axis goes across them.")
MESH = flags.DEFINE_list(
    "mesh", None, "Sizes by axis (data, fsdp, tensor, context), fsdp=* if none; to decode tensor, 1 if none."
)
PROGRAM = flags.DEFINE_enum("program", "train", ["train", "decode"], "train or decode (the engine's).")
ROWS = flags.DEFINE_float("rows_per_device", 1, "Rows of the global batch, a device.")
ROW_LENGTH = flags.DEFINE_integer("row_length", 4096, "Tokens a row; of decoding, the context.")
SLOTS = flags.DEFINE_integer("slots", 16, "Sequences that decode together.")
MICRO_BATCHES = flags.DEFINE_integer("micro_batches", 1, "Parts in which a batch's gradient is made.")
REMAT = flags.DEFINE_string("remat", "", "none, dots, attention or full; the preset's if empty.")
ATTENTION = flags.DEFINE_string("attention", "auto", "auto, chunked, splash, cudnn or cudnn_packed.")
UNROLL = flags.DEFINE_integer(
    "unroll", 0, "Layers that a turn of the loop over them computes; 0: by their number."
)
MOMENT_DTYPE = flags.DEFINE_enum("moment_dtype", "", ["", "float32", "bfloat16"], "Of AdamW's first moment.")
GRADIENT_DTYPE = flags.DEFINE_enum("gradient_dtype", "", ["", "float32", "bfloat16"], "Of gradients.")
LORA_RANK = flags.DEFINE_integer("lora_rank", 0, "Rank of adapters; 0: all is trained.")
LORA_TARGETS = flags.DEFINE_list("lora_targets", ["*"], "Patterns of the kernels that get one.")
LORA_BASE = flags.DEFINE_string("lora_base", "as_is", "What the frozen kernels are kept in (lora.py).")
JSON = flags.DEFINE_bool("json", False, "One JSON object a topology, on a line of its own.")


def main(argv: list[str]) -> None:
    jax.config.update("jax_platforms", "cpu")  # no accelerator is wanted, were there one
    if len(argv) > 1:
        entry.fail(f"unexpected argument {argv[1]!r}: write --topology=v5p:2x2x2")
    config = preset(MODEL.value)
    remat = REMAT.value or config.remat
    config = dataclasses.replace(config, attention=ATTENTION.value, remat=remat, unroll=UNROLL.value)
    plans = []
    for topology in TOPOLOGY.value:
        job = Job(
            config,
            topology,
            MESH.value or ([] if PROGRAM.value == "decode" else ["fsdp=*"]),
            slices=SLICES.value,
            rows_per_device=ROWS.value,
            row_length=ROW_LENGTH.value,
            micro_batches=MICRO_BATCHES.value,
            moment_dtype=MOMENT_DTYPE.value,
            gradient_dtype=GRADIENT_DTYPE.value,
            lora=LoraSettings(rank=LORA_RANK.value, targets=tuple(LORA_TARGETS.value), base=LORA_BASE.value),
        )
        plan = plan_train(job) if PROGRAM.value == "train" else plan_decode(job, SLOTS.value)
        plans.append({"model": MODEL.value, **plan})
        if JSON.value:
            print(json.dumps(plans[-1]), flush=True)
    if not JSON.value:
        print(table(plans))


if __name__ == "__main__":
    entry.run(main)
