"""Real programs compiled for TPUs that are not there, by libtpu (make install-plan)."""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, SingleDeviceSharding

from o1jax.losses.logprobs import token_log_probs
from o1jax.model.lora import LoraSettings
from o1jax.model.presets import preset
from o1jax.parallel.mesh import batch_spec, make_mesh, spec_of
from o1jax.parallel.traced import narrowed, on_mesh
from o1jax.plan.planning import Job, plan_decode, plan_train, table
from o1jax.plan.program import GIB
from o1jax.plan.topology import devices_of
from o1jax.records import InputError

pytestmark = pytest.mark.plan
REPOSITORY = pathlib.Path(__file__).parents[2]
SMALL = dataclasses.replace(
    preset("qwen2.5-0.5b"), n_layers=9, d_model=256, d_ff=512, n_heads=4, n_kv_heads=2, vocab_size=2048
)

LORA = (LoraSettings(rank=0), LoraSettings(rank=8, base="nf4"))


def test_a_small_model_fits_with_splash_and_says_what_it_sends():
    plan = plan_train(Job(SMALL, "v5p:2x2x1", ["fsdp=*", "tensor=2"], row_length=512))
    assert plan["fits"] and plan["attention"] == "splash" and plan["mesh"] == {"fsdp": 2, "tensor": 2}
    assert 0.01 < plan["peak_gib_per_device"] < 0.2
    assert plan["collectives"]["all-gather"]["calls"] > 3 * 9  # the layers' weights, in a loop of 9
    assert 0 < plan["mfu_bound"] <= 1 and "all-gather" in table([plan, plan])


def test_a_model_on_gpus_takes_cudnn():
    plan = plan_train(Job(SMALL, "h100:4", ["fsdp=*"], row_length=512))
    assert plan["fits"] and plan["attention"] == "cudnn" and 0 < plan["peak_gib_per_device"] < 0.2
    assert plan["collectives"]["all-gather"]["calls"] > 2 * 9


def test_two_slices_are_joined_over_data():
    plan = plan_train(
        Job(SMALL, "v5e:2x2", ["data=2", "fsdp=*"], slices=2, rows_per_device=1, row_length=512)
    )
    assert plan["fits"] and plan["devices"] == 8 and plan["mesh"] == {"data": 2, "fsdp": 4}


def test_rows_split_over_context_compile_with_splash():
    plan = plan_train(Job(SMALL, "v5e:2x2", ["context=2", "fsdp=2"], rows_per_device=0.5, row_length=1024))
    assert plan["fits"] and plan["attention"] == "splash"


def test_adapters_on_a_base_of_four_bits_take_less():
    job = Job(SMALL, "v5e:2x2", ["fsdp=*"], row_length=512)
    whole, adapters = (plan_train(dataclasses.replace(job, lora=lora)) for lora in LORA)
    assert adapters["state_gib_per_device"] < whole["state_gib_per_device"] / 2
    assert adapters["lora"] == "rank 8, base nf4" and adapters["model_flops"] < whole["model_flops"]


def test_the_engines_decode_step_fits():
    plan = plan_decode(Job(SMALL, "v5e:2x2", [], row_length=256), slots=8)
    assert plan["fits"] and plan["tokens_per_s_bound"] > 0 and not plan["collectives"]


def test_a_split_decode_step_sends_activations_and_logits_alone():
    plan = plan_decode(Job(SMALL, "v5e:2x2", ["tensor=2"], row_length=256), slots=8)
    assert plan["devices"] == 2
    sent = {kind: round(c["sent_gib_per_device"] * GIB) for kind, c in plan["collectives"].items()}
    assert sum(sent.values()) < SMALL.vocab_size * SMALL.d_model  # bytes: less than any kernel of a layer
    with pytest.raises(InputError, match="--mesh=tensor="):
        plan_decode(Job(SMALL, "v5e:2x2", ["fsdp=2"], row_length=256), slots=8)


def test_too_little_memory_is_the_compilers_own_answer_in_one_json_line():
    command = [sys.executable, str(REPOSITORY / "launch/plan.py"), "--json", "--model=qwen2.5-1.5b"]
    command += ["--topology=v5e:2x2", "--mesh=data=*", "--row_length=512"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    plan = json.loads(done.stdout)
    assert not plan["fits"] and plan["peak_gib_per_device"] > plan["limit_gib_per_device"] > 15
    assert plan["compiler"].startswith("RESOURCE_EXHAUSTED") and "\n" not in plan["compiler"]


def log_probs_gib(mesh, D: int, rows: int) -> float:
    """Temporaries a device of log-probs and their gradients, of 32,768 tokens and 152,064 words."""
    T, V = 32_768 // rows, 152_064
    sharding = {
        "hidden": NamedSharding(mesh, spec_of(("batch", "length", None))),
        "head": NamedSharding(mesh, spec_of(("embed", "vocab"))),
        "tokens": NamedSharding(mesh, batch_spec()),
    }
    args = (
        jax.ShapeDtypeStruct((rows, T, D), jnp.bfloat16, sharding=sharding["hidden"]),
        jax.ShapeDtypeStruct((D, V), jnp.float32, sharding=sharding["head"]),
        jax.ShapeDtypeStruct((rows, T), jnp.int32, sharding=sharding["tokens"]),
    )
    gradient = jax.grad(lambda h, w, t: token_log_probs(h, w, t).sum(), argnums=(0, 1))
    program = jax.jit(on_mesh(gradient, mesh), out_shardings=(sharding["hidden"], sharding["head"]))
    return program.lower(*args).compile().memory_analysis().temp_size_in_bytes / GIB


def test_log_probs_of_32768_tokens_and_152064_words_cost_less_than_a_gib():
    devices = devices_of("v5p:2x2x1")
    assert log_probs_gib(make_mesh(devices=devices[:1]), 3584, 1) < 1
    # The 1.5B's head is one block where there is no mesh: 2,048 tokens' logits are 1.2 GiB of float32.
    assert log_probs_gib(make_mesh(devices=devices[:1]), 1536, 1) < 4
    assert log_probs_gib(make_mesh({"fsdp": 2, "tensor": 2}, devices), 3584, 2) < 1


@pytest.mark.parametrize("cast, all_at_once", [(narrowed, False), (jax.lax.convert_element_type, True)])
def test_a_layers_kernel_is_cast_inside_the_loop_over_layers(cast, all_at_once):
    device = devices_of("v5p:2x2x1")[0]

    def output(kernels_LDD, x_BD):
        return jax.lax.scan(lambda x, k: (jnp.tanh(x @ cast(k, x.dtype)), None), x_BD, kernels_LDD)[0].sum()

    def struct(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=SingleDeviceSharding(device))

    traced = jax.jit(jax.grad(output)).trace(
        struct((24, 512, 512), jnp.float32), struct((256, 512), jnp.bfloat16)
    )
    stacked = re.search(r"= bf16\[24,512,512\]\S* convert\(", traced.lower().compile().as_text())
    assert bool(stacked) == all_at_once
