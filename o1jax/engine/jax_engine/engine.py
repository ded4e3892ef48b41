"""The JAX engine in process: coroutines hand in requests, one thread owns the device.

jobs.py checks, device_thread.py turns the scheduler. Does not batch (scheduler.py) or compute (programs.py).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
from flax import nnx
from transformers import PreTrainedTokenizerBase

from o1jax.engine.device_thread import Load, serving_thread
from o1jax.engine.interface import Completion, Request
from o1jax.engine.jax_engine.decode_attention import check, live_attention
from o1jax.engine.jax_engine.prefill import Shape
from o1jax.engine.jax_engine.programs import STOP_IDS, compiled
from o1jax.engine.jax_engine.scheduler import Scheduler
from o1jax.engine.jobs import Intake, Job
from o1jax.model.attention import cached_attention
from o1jax.model.config import ModelConfig
from o1jax.model.init import abstract_params, check_shapes, placed
from o1jax.model.kv_cache import cache_sharding
from o1jax.parallel.mesh import own_devices
from o1jax.prompts.chat import size
from o1jax.records import InputError


class Default(NamedTuple):
    """What of prefill.Shape suits a kind of device."""

    chunk: int  # tokens, or what divides the context of it
    prefill_rows: int
    block: int
    ahead: int


# A prefill round has to be long enough for the weights that it reads: 256 tokens on a CPU, about 1,000 on an
# accelerator; a short chunk wastes less of a prompt's last one. On a CPU host and device are one, so that a
# block ahead would only be tokens wasted.
WHOLE_PROMPTS = 8  # at most so many, and one a prefill row, have room in the pool whatever its size
SHORTEST_CHUNK = 8  # tokens: what a default may shrink to, to divide the context
DEFAULTS = {"cpu": Default(16, 16, 8, 0), "gpu": Default(64, 16, 8, 1), "tpu": Default(128, 8, 8, 1)}


class JaxEngine:
    """Implements Engine on this process's first `tensor` devices, over which the model and its cache are
    split by heads (see interface.py for the promises).

    A sample's bits depend on (weights, prompt_ids, seed, index, sampling settings) and on the fixed
    shape (slots, context, chunk, prefill_rows, tensor), not on what runs beside it, before it or is cached.
    Requests handed in before load_params finish under the old weights, later ones get the new.
    `params` are copied, in `dtype` (None: the config's compute dtype), as are activations and cache; without
    any (None), load_params or load comes first. `replica` 1 has the next `tensor` devices, and so on.
    `prefix_cache_mb` bounds the prompt chunks that stay on the device. `chunk`, `prefill_rows`, `block` and
    `ahead` are prefill.Shape's; 0, of `ahead` None: as suits the device (DEFAULTS).
    `decode_attention`: "live" reads the keys in use alone (decode_attention.py; one GPU).
    """

    def __init__(
        self,
        config: ModelConfig,
        params: nnx.State | None,
        tokenizer: PreTrainedTokenizerBase,
        *,
        slots: int = 64,
        context: int = 256,
        chunk: int = 0,
        prefill_rows: int = 0,
        block: int = 0,
        ahead: int | None = None,
        decode_attention: Literal["whole", "live"] = "whole",
        prefix_cache_mb: float = 64,
        dtype: str | None = None,
        version: int = 0,
        tensor: int = 1,
        replica: int = 0,
    ):
        dtype = dtype or config.compute_dtype
        config = dataclasses.replace(config, compute_dtype=dtype, param_dtype=dtype)
        mesh = own_devices(tensor, replica)
        platform = mesh.devices.flat[0].platform
        default = DEFAULTS[platform]
        chunk = chunk or max(math.gcd(context, default.chunk), SHORTEST_CHUNK)
        prefill_rows = prefill_rows or default.prefill_rows
        block, ahead = block or default.block, default.ahead if ahead is None else ahead
        if context % chunk or context > config.max_context:
            wanted = f"a multiple of chunk ({chunk}), at most the model's {config.max_context}"
            raise InputError(f"engine context {context}: wanted {wanted}")
        attend = cached_attention
        if decode_attention == "live":
            check(platform, mesh.size, context)
            attend = live_attention
        self.max_context, self._config = context, config
        pool_chunks = pool_size(config, context, chunk, prefill_rows, prefix_cache_mb)
        self.shape = Shape(slots, context, chunk, prefill_rows, block, ahead, pool_chunks)
        _, self._stacked = abstract_params(config, mesh)  # as the trainer has them
        # Layers apart: a loop over tokens would copy every layer's slice of stacked weights at every step.
        graphdef, self.abstract = abstract_params(config, mesh, apart=True)
        structure, sharding = jax.tree.structure(self.abstract), cache_sharding(mesh)
        n_tokens = min(size(tokenizer), config.vocab_size)  # the rest of a padded vocabulary is never sampled
        programs = compiled(graphdef, structure, sharding, block, n_tokens, attend)
        self._scheduler = Scheduler(config, programs, tokenizer, self.shape, sharding)
        if params is not None:
            self._swap(NewWeights(params, [self.abstract]).of(0), version)
        self._intake = Intake(tokenizer, self._scheduler.table, context, config.vocab_size, STOP_IDS)
        self._thread = serving_thread(self._scheduler, self._swap)

    async def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """See Engine.generate; RuntimeError after close, or after the engine's thread has failed."""
        return await self.results(self.jobs(requests))

    def jobs(self, requests: Sequence[Request]) -> list[Job]:
        """The requests, checked, for `results` of this engine or of one of the same shape."""
        return self._intake.jobs(requests)

    async def results(self, jobs: Sequence[Job]) -> list[list[Completion]]:
        """As `generate`."""
        return await self._thread.results(jobs)

    async def load_params(self, params: nnx.State, version: int) -> None:
        """See Engine.load_params; InputError, and the old weights stay, where a shape differs."""
        await self.load(NewWeights(params, [self.abstract]).of(0), version)

    async def load(self, copy: Copy, version: int) -> None:
        """As load_params, of this engine's part of weights that several get."""
        await self._thread.results([Load(copy, version)])

    def stats(self) -> dict[str, float]:
        """Beside the interface's: wasted_tokens (sampled past a stop, or of cancelled requests),
        decode_steps, prefill_rounds, and the prefix cache's hits, misses and evictions in chunks."""
        counters, prefixes = self._scheduler.counters, self._scheduler.prompts.prefixes
        tokens = ("generated_tokens", "prefill_tokens", "reused_tokens", "wasted_tokens")
        seconds = ("busy_s", "device_s", "host_s")
        slot_steps = counters["decode_steps"] * self.shape.slots
        return {
            **{name: float(counters[name]) for name in (*tokens, "decode_steps", "prefill_rounds", *seconds)},
            "slot_occupancy": counters["slot_steps"] / slot_steps if slot_steps else 0.0,
            "prefix_hits": float(prefixes.hits),
            "prefix_misses": float(prefixes.misses),
            "prefix_evictions": float(prefixes.evictions),
        }

    async def close(self) -> None:
        """See Engine.close; closing twice does nothing."""
        await self._thread.close()

    def _swap(self, copy: Copy, version: int) -> None:
        check_shapes(copy.params, self._stacked)  # before anything is let go: the old weights stay then
        self._scheduler.forget()  # before the copy: two sets of weights and caches may not fit a device
        self._scheduler.swap(jax.tree.leaves(copy.take()), version)


class Copy(NamedTuple):
    """What one engine gets of new weights."""

    params: nnx.State  # the trainer's
    take: Callable[[], nnx.State]  # makes the engine's own, or waits for them


class NewWeights:
    """Weights for engines of one shape, made for all of them at once, by the last that has let go of its old
    ones. With `owned` the trainer's are deleted meanwhile."""

    # At once, and by one thread: each layer is gathered from the trainer's devices once and not once an
    # engine, and gathering is collective where several processes train.
    def __init__(self, params: nnx.State, abstracts: Sequence[nnx.State], *, owned: bool = False):
        self._params, self._abstracts, self._owned = params, abstracts, owned
        self._made: list[nnx.State | None] = []
        self._all_wait = threading.Barrier(len(abstracts), self._make)

    def of(self, index: int) -> Copy:
        """Those of the engine whose abstract parameters are abstracts[index]."""
        return Copy(self._params, functools.partial(self._take, index))

    def give_up(self) -> None:
        """Who waits for the others, now or later, gets a BrokenBarrierError."""
        self._all_wait.abort()

    def _take(self, index: int) -> nnx.State:
        self._all_wait.wait()
        made, self._made[index] = self._made[index], None  # nothing else may hold what the engine replaces
        return made

    def _make(self) -> None:
        self._made = placed(self._params, self._abstracts, owned=self._owned)


def pool_size(config: ModelConfig, context: int, chunk: int, rows: int, megabytes: float) -> int:
    """Chunks in the pool: what `megabytes` hold, and at least some whole prompts."""
    itemsize = 2 if config.compute_dtype == "bfloat16" else 4
    chunk_bytes = 2 * config.n_layers * chunk * config.n_kv_heads * config.head_dim * itemsize
    return max(min(rows, WHOLE_PROMPTS) * (context // chunk), int(megabytes * 2**20 / chunk_bytes))
