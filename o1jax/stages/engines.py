"""The engine that a stage's settings name, with a policy's weights in it.

The engines' own modules are imported where one is opened: vLLM and an HTTP client need not be installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import Literal

from o1jax.engine.interface import Engine
from o1jax.engine.jax_engine import JaxEngine
from o1jax.engine.vllm_settings import is_here
from o1jax.parallel.processes import place
from o1jax.records import InputError
from o1jax.train.checkpoint import Policy


@dataclasses.dataclass(frozen=True)
class EngineSettings:
    """The engine and its shape: `slots` samples at once, of at most `context` tokens each, in `dtype` (empty:
    the policy's compute dtype). The JAX engine is split over `tensor` of the process's devices and keeps
    `prefix_cache_mb` of prompts' keys and values, at least those that it prefills at once; a search is
    faster where its trees' prefixes fit (stats: prefix_evictions). `endpoints` are the servers of
    vllm_server, whose dtype is their own; a request waits `patience_s` for any of them to be there, and
    weights go to them by `transfer`: files, or vLLM's nccl (servers on other GPUs than the trainer) or ipc
    (on the same). Programs are judged `judge_slots` at once, and may import `judge_packages`."""

    name: Literal["jax", "vllm", "vllm_server"] = "jax"
    slots: int = 64
    context: int = 384
    judge_slots: int = 2
    judge_packages: tuple[str, ...] = ()
    dtype: str = ""
    tensor: int = 1
    prefix_cache_mb: float = 64.0
    endpoints: tuple[str, ...] = ()
    patience_s: float = 120.0
    transfer: Literal["files", "nccl", "ipc"] = "files"

    def __post_init__(self):
        if self.dtype not in ("", "float32", "bfloat16"):
            raise InputError(f"engine.dtype: saw {self.dtype!r}, wanted 'float32', 'bfloat16' or ''")
        if self.tensor != 1 and self.name != "jax":
            raise InputError(
                f"engine.tensor: saw {self.tensor} with engine.name {self.name!r}; leave it at 1, or take "
                "'jax' (servers are split by launch/serve.py --gpus)"
            )
        if bool(self.endpoints) != (self.name == "vllm_server"):
            raise InputError(
                f"engine.endpoints: saw {list(self.endpoints)} with engine.name {self.name!r}; "
                "give the servers' URLs with 'vllm_server', and none with another"
            )
        if self.transfer != "files" and self.name != "vllm_server":
            raise InputError(
                f"engine.transfer: saw {self.transfer!r} with engine.name {self.name!r}; "
                "leave it at 'files', or take 'vllm_server'"
            )


async def open_engine(policy: Policy, settings: EngineSettings) -> Engine:
    """The engine, running, with the policy's weights as version 0. InputError where it cannot be."""
    shape = {"slots": settings.slots, "context": settings.context}
    if settings.name == "vllm_server":
        return await open_servers(policy, settings)
    if settings.name == "vllm":
        if not is_here():
            raise InputError(
                "engine.name 'vllm': vLLM is not installed in this environment; run make install-vllm, then "
                "this script with .venv-vllm/bin/python, or take engine.name 'jax'"
            )
        from o1jax.engine.vllm_engine import VllmEngine

        return await asyncio.to_thread(
            lambda: VllmEngine(
                policy.config, policy.params, policy.tokenizer, dtype=settings.dtype or None, **shape
            )
        )
    return JaxEngine(
        policy.config,
        policy.params,
        policy.tokenizer,
        dtype=settings.dtype or None,
        tensor=settings.tensor,
        prefix_cache_mb=settings.prefix_cache_mb,
        **shape,
    )


async def open_servers(policy: Policy, settings: EngineSettings) -> Engine:
    """The servers, which get the policy's weights whatever they had; of several processes each has its own.
    InputError if they are fewer than the processes."""
    index, count, _ = place()
    endpoints = settings.endpoints[index::count]
    if not endpoints:
        raise InputError(
            f"engine.endpoints: saw {len(settings.endpoints)} servers for {count} processes, wanted one for "
            "each at least; start more with launch/serve.py"
        )
    from o1jax.engine.vllm_server import VllmServers

    transfer = None
    if settings.transfer != "files":
        check_vllm_here(settings.transfer)
        from o1jax.engine.weight_transfer import WeightTransfer

        transfer = WeightTransfer(settings.transfer, policy.config)
    engine = VllmServers(
        policy.config,
        policy.tokenizer,
        endpoints,
        slots=settings.slots,
        context=settings.context,
        patience_s=settings.patience_s,
        transfer=transfer,
    )
    async with contextlib.AsyncExitStack() as on_failure:
        on_failure.push_async_callback(engine.close)
        await engine.open()
        await engine.load_params(policy.params, 0)
        on_failure.pop_all()
    return engine


def check_vllm_here(transfer: str) -> None:
    """InputError unless the trainer's environment has vLLM, which sends its weights."""
    if not is_here():
        raise InputError(
            f"engine.transfer {transfer!r}: vLLM is not installed in this environment, where the trainer "
            "runs; install it (third_party/constraints/vllm-gpu.txt), or take engine.transfer 'files'"
        )
