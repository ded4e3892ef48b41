"""What a stage that samples holds open: an engine with the policy's weights, a judge, a step scorer.

One process, one engine on its local devices, one judge (D1). Does not search, sample or train. vLLM and its
client are imported where an engine of theirs is opened: they need not be installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Mapping
from typing import Literal

import jax
import numpy as np
from etils import epath
from flax import nnx
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from transformers import PreTrainedTokenizerFast

from o1jax.batches.encode import Example
from o1jax.batches.stream import Batches
from o1jax.engine.interface import Completion, Engine, Request
from o1jax.engine.jax_engine.engine import JaxEngine
from o1jax.engine.replicas import Replicas, count_of
from o1jax.engine.step_scorer import StepScorer, score_ids
from o1jax.engine.vllm_engine.settings import is_here
from o1jax.parallel.mesh import from_all, make_mesh, own_devices
from o1jax.parallel.processes import this_process
from o1jax.prompts.chat import Tokenizer, begin
from o1jax.records import InputError
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Judge
from o1jax.stages.training import open_policy
from o1jax.train.checkpoint import Policy
from o1jax.train.reference import log_probs_program, token_values
from o1jax.train.throughput import say_every_minute

PROBE = "print(1)"  # the prompt of the sample by which engine and trainer are compared
PROBE_TOKENS = 32


@dataclasses.dataclass(frozen=True)
class EngineSettings:
    """The engine that samples, its shape, and the judge of what it writes."""

    name: Literal["jax", "vllm", "vllm_server"] = "jax"
    slots: PositiveInt = 64  # samples at once, of each replica or server where there are several
    context: PositiveInt = 384  # tokens of a prompt and its answer together, at most
    judge_slots: PositiveInt = 2  # programs judged at once
    judge_packages: tuple[str, ...] = ()  # what programs may import beside the standard library
    dtype: Literal["", "float32", "bfloat16"] = ""  # "": the policy's compute dtype; servers have theirs
    # Of the JAX engine, 0: as suits the device (jax_engine/engine.py). Another chunk or number of rows gives
    # other last bits, and so now and then another sample.
    chunk: NonNegativeInt = 0  # tokens of a prompt that are prefilled, kept and shared as one
    prefill_rows: NonNegativeInt = 0  # chunks that are prefilled at once
    block: NonNegativeInt = 0  # tokens a slot that are decoded between two looks of the host
    # Of the JAX engine: what a token's attention reads of the context, all or (on one GPU) what is in use.
    decode_attention: Literal["whole", "live"] = "whole"
    tensor: PositiveInt = 1  # devices of this process that a JAX engine is split over
    # JAX engines of this process, each with the weights, slots and prefix cache on devices of its own; 0: as
    # many as its devices hold. Answers do not depend on it.
    replicas: NonNegativeInt = 0
    # Of prompts' keys and values that the JAX engine keeps, MiB, at least what it prefills at once. A search
    # is faster where its trees' prefixes fit (stats: prefix_evictions).
    prefix_cache_mb: NonNegativeFloat = 64.0
    endpoints: tuple[str, ...] = ()  # URLs of vllm_server's servers, as launch/serve.py prints them
    patience_s: NonNegativeFloat = 120.0  # how long a request waits for any server to be there

    def __post_init__(self):
        for name, seen, neutral in (("tensor", self.tensor, 1), ("replicas", self.replicas, 0)):
            if seen != neutral and self.name != "jax":
                raise InputError(
                    f"engine.{name}: saw {seen} with engine.name {self.name!r}; leave it at {neutral}, or "
                    "take 'jax' (servers are split by launch/serve.py --gpus)"
                )
        if bool(self.endpoints) != (self.name == "vllm_server"):
            raise InputError(
                f"engine.endpoints: saw {list(self.endpoints)} with engine.name {self.name!r}; "
                "give the servers' URLs with 'vllm_server', and none with another"
            )


async def open_engine(policy: Policy, settings: EngineSettings, owned: bool = False) -> Engine:
    """The engine, running, with the policy's weights as version 0; with `owned` the JAX engine makes the
    policy's parameters its own. InputError where it cannot be opened."""
    shape = {"slots": settings.slots, "context": settings.context}
    if settings.name == "vllm_server":
        return await open_servers(policy, settings)
    if settings.name == "vllm":
        if not is_here():
            raise InputError(
                "engine.name 'vllm': vLLM is not installed in this environment; run make install-vllm, then "
                "this script with .venv-vllm/bin/python, or take engine.name 'jax'"
            )
        from o1jax.engine.vllm_engine.in_process import VllmEngine

        return await asyncio.to_thread(
            lambda: VllmEngine(
                policy.config, policy.params, policy.tokenizer, dtype=settings.dtype or None, **shape
            )
        )
    shape |= {"chunk": settings.chunk, "prefill_rows": settings.prefill_rows, "block": settings.block}
    shape |= {"tensor": settings.tensor, "prefix_cache_mb": settings.prefix_cache_mb}
    shape |= {"decode_attention": settings.decode_attention}
    engine = Replicas(
        [
            JaxEngine(
                policy.config, None, policy.tokenizer, dtype=settings.dtype or None, replica=replica, **shape
            )
            for replica in range(count_of(settings.tensor, settings.replicas))
        ]
    )
    async with contextlib.AsyncExitStack() as on_failure:
        on_failure.push_async_callback(engine.close)
        await engine.load_params(policy.params, 0, owned=owned)
        on_failure.pop_all()
    return engine


async def open_servers(policy: Policy, settings: EngineSettings) -> Engine:
    """The servers, which get the policy's weights whatever they had; of several processes each has its own.
    InputError if they are fewer than the processes."""
    index, count, _ = this_process()
    endpoints = settings.endpoints[index::count]
    if not endpoints:
        raise InputError(
            f"engine.endpoints: saw {len(settings.endpoints)} servers for {count} processes, wanted one for "
            "each at least; start more with launch/serve.py"
        )
    from o1jax.engine.vllm_engine.servers import VllmServers

    engine = VllmServers(
        policy.config,
        policy.tokenizer,
        endpoints,
        slots=settings.slots,
        context=settings.context,
        patience_s=settings.patience_s,
    )
    async with contextlib.AsyncExitStack() as on_failure:
        on_failure.push_async_callback(engine.close)
        await engine.open()
        await engine.load_params(policy.params, 0)
        on_failure.pop_all()
    return engine


class WeightSync:
    """Pushes parameters of a policy's model into an engine, and measures how far the engine's log-probs are
    from the trainer's then (promise 2). Holds a compiled forward pass and no parameters. Of several processes
    that train the policy together all push, each into an engine of its own."""

    def __init__(self, policy: Policy):
        self._mesh = make_mesh()
        self._program = log_probs_program(policy.graphdef, self._mesh)
        self._request = Request(begin(policy.tokenizer, PROBE), max_tokens=PROBE_TOKENS, reuse_prefix=False)

    async def push(self, engine: Engine, params: nnx.State, version: int) -> float:
        """Loads the parameters, which the engine then samples with; returns `difference`."""
        await engine.load_params(params, version)
        return await self.difference(engine, params)

    async def difference(self, engine: Engine, params: nnx.State) -> float:
        """The largest |engine's log-prob - trainer's| over a sample of up to PROBE_TOKENS tokens, in nats; of
        several processes over each engine's sample, the same in all."""
        ((sample,),) = await engine.generate([self._request])
        return await asyncio.to_thread(self._largest, params, sample)

    def _largest(self, params: nnx.State, sample: Completion) -> float:
        # The trainer's pass is over all its devices, so that every process must have every sample.
        mine = np.zeros((2, PROBE_TOKENS), np.float32)  # ids below 2**24 are whole numbers in float32
        mine[0], mine[0, : len(sample.token_ids)] = -1, sample.token_ids
        mine[1, : len(sample.log_probs)] = sample.log_probs
        samples = [values[:, values[0] >= 0] for values in from_all(mine)]
        prompt_ids = self._request.prompt_ids
        examples = [
            Example("probe", ids, (0.0,) * len(ids))
            for ids in ((*prompt_ids, *map(int, ids_T)) for ids_T, _ in samples)
        ]
        rows, split = self._mesh.devices.size, self._mesh.shape["context"] * self._mesh.shape["tensor"]
        row_length = -(-(len(prompt_ids) + PROBE_TOKENS) // split) * split  # which the mesh's axes divide
        batches = Batches(examples, row_length=row_length, rows_per_batch=rows, seed=0)
        values = token_values(self._program, params, batches, self._mesh)
        return max(
            float(np.abs(values_T[len(prompt_ids) - 1 : -1] - log_probs_T).max())
            for values_T, (_, log_probs_T) in zip(values, samples, strict=True)
        )


@dataclasses.dataclass(frozen=True)
class Workers:
    """Open for the length of a stage."""

    engine: Engine
    judge: Judge
    tokenizer: PreTrainedTokenizerFast
    opened: float  # time.monotonic()
    push_difference: float | None = None  # of vLLM's log-probs from the trainer's, when it was opened

    def timings(self) -> dict[str, float]:
        """The engine's counters, with shares of the wall time since it was opened (Engine.stats: busy, and of
        the JAX engine device and host), and how many programs the judge lost."""
        stats = self.engine.stats()
        wall_s = time.monotonic() - self.opened
        kept = {key: round(value, 4) for key, value in stats.items()}
        return {
            **kept,
            "play_seconds": round(wall_s, 2),
            **{
                f"engine_{name}_share": round(stats[f"{name}_s"] / wall_s, 4)
                for name in ("busy", "device", "host")
                if f"{name}_s" in stats
            },
            "judge_jobs_lost": self.judge.jobs_lost,
            **({} if self.push_difference is None else {"push_difference": self.push_difference}),
        }


@contextlib.asynccontextmanager
async def open_workers(
    policy: Policy, settings: EngineSettings, *, owned: bool = False
) -> AsyncIterator[Workers]:
    """Opens an engine with the policy's weights and a judge; closes both. With `owned` the policy's
    parameters are the engine's from then on, and nobody else's.

    Raises InputError for an engine that cannot be opened.
    """
    engine = await open_engine(policy, settings, owned)
    saying = asyncio.create_task(say_every_minute(engine))
    judge = ForkJudge(slots=settings.judge_slots, packages=settings.judge_packages)
    try:
        difference = None
        if settings.name != "jax":
            difference = await WeightSync(policy).difference(engine, policy.params)
            for leaf in jax.tree.leaves(policy.params) if owned else ():
                leaf.delete()
        yield Workers(engine, judge, policy.tokenizer, time.monotonic(), difference)
    finally:
        saying.cancel()
        await engine.close()
        await judge.close()


@contextlib.asynccontextmanager
async def sampling_workers(directory: epath.Path, settings: EngineSettings) -> AsyncIterator[Workers]:
    """open_workers of the policy in a directory, for a stage that samples and does not train: its weights are
    held once, in the engine's dtype."""
    mesh = None
    if settings.name == "jax":  # as the engines have them: a model that is split fits no device whole
        number = count_of(settings.tensor, settings.replicas)
        devices = jax.local_devices()[: number * own_devices(settings.tensor).size]
        mesh = make_mesh({"data": number, "tensor": settings.tensor}, devices)
    policy = open_policy(directory, mesh, settings.dtype or "compute")
    async with open_workers(policy, settings, owned=True) as workers:
        yield workers


@contextlib.asynccontextmanager
async def open_scorer(
    inputs: Mapping[str, epath.Path], tokenizer: Tokenizer, *, slots: int, context: int
) -> AsyncIterator[StepScorer | None]:
    """The scorer of inputs["prm"], or None without that input; closes it.

    InputError where it reads other tokens than the policy, whose `tokenizer` this is.
    """
    if "prm" not in inputs:
        yield None
        return
    prm = open_policy(inputs["prm"], own_devices())
    if prm.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise InputError(
            f"{inputs['prm']}: this process reward model has another tokenizer than the policy; "
            "give one that was trained from this policy or one with its tokenizer"
        )
    scorer = scorer_of(prm, slots=slots, context=context, owned=True)
    try:
        yield scorer
    finally:
        await scorer.close()


def scorer_of(prm: Policy, *, slots: int, context: int, owned: bool = False) -> StepScorer:
    """A scorer of paths of at most `context` tokens, or of what the model takes; with `owned` the model's
    parameters are the scorer's from then on."""
    return StepScorer(
        prm.config,
        prm.graphdef,
        prm.params,
        *score_ids(prm.tokenizer),
        slots=slots,
        context=min(context, prm.config.max_context),
        owned=owned,
    )


def scorer_timings(scorer: StepScorer | None) -> dict[str, float]:
    """The scorer's counters, named as such."""
    stats = scorer.stats() if scorer is not None else {}
    return {f"scorer_{name}": round(value, 4) for name, value in stats.items()}
