"""The train step as compiled for GPUs and TPUs that are not there: how often attention runs, what is copied,
and what it all takes."""

import dataclasses
import math
import re

import jax
import pytest

from o1jax.model.attention import PACKED_SINCE
from o1jax.model.lora import LoraSettings
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh, sizes_of
from o1jax.plan.planning import Job, plan_train
from o1jax.plan.program import traced_step
from o1jax.plan.topology import devices_of
from o1jax.train.optimizer import OptimizerSettings

pytestmark = pytest.mark.plan
SMALL = dataclasses.replace(
    preset("qwen2.5-0.5b"), n_layers=9, d_model=256, d_ff=512, n_heads=4, n_kv_heads=2, vocab_size=2048
)
# Of a real width and few layers: a layer's part of what the backward pass needs is as large as in the model.
WIDE = dataclasses.replace(preset("qwen2.5-1.5b"), n_layers=3, vocab_size=2048, n_tokens=0, remat="dots")
FORWARD = re.compile(r"@__cudnn\$fmha\w*Softmax\(|kernel_name = \"splash_mha_fwd")
BACKWARD = re.compile(r"@__cudnn\$fmha\w*SoftmaxBackward\(|kernel_name = \"splash_mha_dkv")
LARGE = 100e6  # bytes
BYTES = {"f32": 4, "bf16": 2, "s32": 4, "pred": 1}


def lowered(config, topology, words=(), **shape):
    """The step of one device, or of a mesh in words, as it goes to the compiler."""
    devices = devices_of(topology)
    mesh = make_mesh(sizes_of(words, len(devices)) if words else None, devices)
    shape = {"rows": 4, "row_length": 512} | shape
    return traced_step(config, mesh, OptimizerSettings(1e-4, 1000), **shape).lower()


def flash_calls(config, *where) -> tuple[int, int]:
    """Calls of a flash kernel's forward and backward pass in the program."""
    text = lowered(config, *where).as_text()
    return len(FORWARD.findall(text)), len(BACKWARD.findall(text))


@pytest.mark.parametrize("where", [("h200:1",), ("h200:4", ("fsdp=*",)), ("v5p:2x2x1", ("fsdp=*",))])
@pytest.mark.parametrize("remat", ["none", "dots", "attention", "full"])
def test_flash_attention_runs_forward_once_a_layer(remat, where):
    # Of nine layers one is in the program: the loop's. full keeps nothing but a layer's input.
    wanted = (2 if remat == "full" else 1, 1)
    assert flash_calls(dataclasses.replace(SMALL, remat=remat), *where) == wanted


@pytest.mark.skipif(jax.__version_info__ < PACKED_SINCE, reason="jax is too old for packed attention")
@pytest.mark.parametrize("remat", ["none", "dots", "attention"])
def test_packed_attention_is_cudnn_s_and_runs_forward_once_a_layer(remat):
    config = dataclasses.replace(SMALL, remat=remat, attention="cudnn_packed")
    text = lowered(config, "h200:1").as_text()
    assert len(FORWARD.findall(text)) == len(BACKWARD.findall(text)) == 1
    assert "PADDING_CAUSAL" in text and "ScaleBias" not in text  # told where segments lie, and no mask


def large_copies(config) -> int:
    """Slices of more than LARGE bytes that the compiled program takes or puts at a place it computes."""
    text = lowered(config, "h200:1", rows=2, row_length=4096).compile().as_text()
    found = re.findall(r"= (f32|bf16|s32|pred)\[([\d,]+)\]\S* dynamic-(?:update-)?slice\(", text)
    sizes = [BYTES[dtype] * math.prod(map(int, shape.split(","))) for dtype, shape in found]
    return sum(size > LARGE for size in sizes)


def test_with_all_layers_in_one_turn_nothing_large_is_stacked():
    assert large_copies(dataclasses.replace(WIDE, unroll=3)) == 0
    assert large_copies(dataclasses.replace(WIDE, unroll=1)) > 0


QLORA = LoraSettings(rank=8, base="nf4")


# Each takes the compilers a minute or two.
@pytest.mark.parametrize(
    "topology, words, lora, most_gib",
    [
        ("v5p:2x2x2", ("fsdp=4", "tensor=2"), LoraSettings(rank=0), 18.1),
        ("v5e:4x4", ("fsdp=8", "tensor=2"), LoraSettings(rank=0), 11.7),
        ("h100:8", ("fsdp=*",), LoraSettings(rank=0), 17.2),
        ("v5e:2x4", ("fsdp=4", "tensor=2"), QLORA, 5.2),
        ("h100:1", ("fsdp=*",), QLORA, 9.7),
    ],
)
def test_training_7b_takes_no_more_than_it_took(topology, words, lora, most_gib):
    plan = plan_train(Job(preset("qwen2.5-7b"), topology, words, lora=lora))
    assert plan["fits"] and round(plan["peak_gib_per_device"], 1) <= most_gib
