"""What vLLM is started with, in process and as a server: its environment and its arguments.

On a CPU every line is needed. Imports no vLLM, which only in_process.py does, so that servers can be asked
from an environment without it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from typing import Any

from o1jax.engine.interface import Request
from o1jax.engine.jobs import Job
from o1jax.model.config import ModelConfig
from o1jax.parallel.seeds import fold_seed
from o1jax.records import InputError

ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}  # nothing leaves the machine
CPU_ENVIRONMENT = {
    "TORCH_COMPILE_DISABLE": "1",  # it takes minutes
    "OMP_NUM_THREADS": "1",  # another server, or the trainer, has the other cores
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else every server is bound to the same cores
}
PROCESSED = "processed_logprobs"  # under the distribution sampled from; vLLM's default is before temperature
# Tokens whose keys and values are reused together, on a CPU. Its default, 128, is never full on short
# prompts, and what is not full is never reused.
BLOCK = 32
LOWEST_TEMPERATURE = 0.01  # vLLM raises one between 0 and this to this
# Stop tokens that vLLM is given. Where a stop string is in more of them, samples are aborted from here.
MOST_STOP_IDS = 4096
CACHE_MB = 64  # on a CPU, for prompts to reuse, beside the slots


def is_here() -> bool:
    """Whether vLLM is installed in this environment."""
    return importlib.util.find_spec("vllm") is not None


def is_cpu_build() -> bool:
    """Whether the vLLM of this environment computes on the CPU: a package of that name, or that version."""
    versions = {package.name: package.version for package in importlib.metadata.distributions()}
    return "vllm-cpu" in versions or "cpu" in versions.get("vllm", "")


def environment(cpu: bool) -> dict[str, str]:
    """Variables that are read where torch and vLLM are imported."""
    return ENVIRONMENT | (CPU_ENVIRONMENT if cpu else {})


def arguments(
    config: ModelConfig, *, slots: int, context: int, dtype: str, cpu: bool
) -> dict[str, str | int | bool]:
    """vLLM's EngineArgs beside `model`. InputError for a model or a context that vLLM does not serve."""
    check_servable(config, context)
    chosen = {
        "dtype": dtype,
        "max_model_len": context,
        "max_num_seqs": slots,
        "logprobs_mode": PROCESSED,
        "enable_prefix_caching": True,
        "generation_config": "vllm",  # no sampling settings of the model's own directory
    }
    if cpu:
        chosen |= {
            "enforce_eager": True,
            "block_size": BLOCK,
            "kv_cache_memory_bytes": cache_bytes(config, slots, context, dtype),
            "enable_chunked_prefill": False,  # with it a seeded request crashes, on a CPU
            "max_num_batched_tokens": max(8192, context),  # a whole prompt at once, then
        }
    return chosen


def check_temperature(requests: Sequence[Request]) -> None:
    """InputError for a request whose temperature vLLM would raise."""
    for index, request in enumerate(requests):
        if 0 < request.temperature < LOWEST_TEMPERATURE:
            raise InputError(
                f"request {index}: temperature {request.temperature}, which vLLM would raise to "
                f"{LOWEST_TEMPERATURE}: give 0 (greedy), or that at least"
            )


def check_servable(config: ModelConfig, context: int) -> None:
    """InputError for what vLLM would refuse in many lines, or read differently from us."""
    if context > config.max_context:
        raise InputError(f"engine context {context}: wanted at most the model's {config.max_context}")
    # Whatever config.json says of head_dim: such a model would be served, and be another one.
    if config.family == "qwen2" and config.n_heads * config.head_dim != config.d_model:
        raise InputError(
            f"a qwen2 of width {config.d_model} with {config.n_heads} heads of {config.head_dim}: vLLM takes "
            "a head to be width / heads; use the JAX engine, or another model"
        )
    if config.head_dim % 16 or config.head_dim < 32:
        raise InputError(
            f"heads of {config.head_dim}: vLLM wants a multiple of 16, 32 at least; use the JAX engine"
        )


def cache_bytes(config: ModelConfig, slots: int, context: int, dtype: str) -> int:
    """Room for the keys and values of every slot's whole context, and CACHE_MB more."""
    itemsize = 4 if dtype == "float32" else 2
    token = 2 * config.n_layers * config.n_kv_heads * config.head_dim * itemsize
    rounded = -(-context // BLOCK) * BLOCK
    return slots * rounded * token + CACHE_MB * 2**20


def sampling(job: Job, index: int) -> dict[str, Any]:
    """vLLM's SamplingParams for sample `index` of the job, in process or over HTTP, but for stop strings."""
    request = job.request
    greedy = request.temperature == 0  # whose log-probs are before any filter
    return {
        "temperature": request.temperature,
        "top_p": 1.0 if greedy else request.top_p,
        "top_k": 0 if greedy else request.top_k,
        "seed": fold_seed(request.seed, request.first + index),
        "max_tokens": job.limit,
        "stop_token_ids": list(job.stop_ids),
        "ignore_eos": True,  # the tokenizer's ends are stop ids: so they are sampled, kept and counted
        "logprobs": 0,  # of the sampled token alone
    }
