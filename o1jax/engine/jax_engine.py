"""The engine in process: coroutines hand in requests, one thread owns the device.

`generate` checks requests, queues them and awaits futures; the thread takes what is queued and
turns the scheduler. Does not batch (scheduler.py) or compute (programs.py).
"""

from __future__ import annotations

import asyncio
import atexit
import collections
import concurrent.futures
import dataclasses
import threading
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from transformers import PreTrainedTokenizerBase

from o1jax.engine.interface import Completion, Request
from o1jax.engine.requests import check, token_limit
from o1jax.engine.scheduler import Job, Scheduler, Shape
from o1jax.engine.stopping import Stop
from o1jax.model.config import ModelConfig
from o1jax.model.init import abstract_params
from o1jax.parallel.mesh import make_mesh
from o1jax.records import InputError


@dataclasses.dataclass(eq=False)
class Load:
    """New weights, in the queue behind the requests that still get the old ones."""

    params: nnx.State
    version: int
    result: concurrent.futures.Future


class JaxEngine:
    """Implements Engine on one local device (see interface.py for the promises).

    A sample's bits depend on (weights, prompt_ids, seed, index, sampling settings) and on the fixed
    shape (slots, context, chunk, prefill_rows), not on what runs beside it, before it or is cached.
    Requests handed in before load_params finish under the old weights, later ones get the new.
    `prefix_cache_mb` bounds the prompt chunks that are kept on the device. `dtype`: of weights,
    activations and cache; None is the config's compute dtype.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: nnx.State,
        tokenizer: PreTrainedTokenizerBase,
        *,
        slots: int = 64,
        context: int = 256,
        chunk: int = 32,
        prefill_rows: int = 8,
        block: int = 8,
        prefix_cache_mb: float = 64,
        dtype: str | None = None,
        version: int = 0,
        device: jax.Device | None = None,
    ):
        dtype = dtype or config.compute_dtype
        config = dataclasses.replace(config, compute_dtype=dtype, param_dtype=dtype)
        if context % chunk or context > config.max_context:
            raise InputError(
                f"context {context}: wanted a multiple of chunk ({chunk}), "
                f"at most the model's {config.max_context}"
            )
        mesh = make_mesh(devices=[device or jax.local_devices()[0]])
        graphdef, self._abstract = abstract_params(config, mesh)
        self.max_context, self._config = context, config
        if problem := self._misfit(params):
            raise InputError(problem)
        pool_chunks = pool_size(config, context, chunk, prefill_rows, prefix_cache_mb)
        self.shape = Shape(slots, context, chunk, prefill_rows, block, pool_chunks)
        self._scheduler = Scheduler(config, graphdef, self._placed(params), tokenizer, self.shape)
        self._scheduler.version = version
        self._eos = -1 if tokenizer.eos_token_id is None else tokenizer.eos_token_id
        self._stops: dict[tuple[tuple[str, ...], tuple[int, ...]], tuple[Stop, tuple[int, ...]]] = {}
        self._inbox: collections.deque[Job | Load] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="jax_engine", daemon=True)
        self._thread.start()
        atexit.register(self._stop)

    async def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        check(requests, self.max_context, self._config.vocab_size)
        jobs = [self._job(request) for request in requests]
        self._hand_in(jobs)
        return list(await asyncio.gather(*(asyncio.wrap_future(job.result) for job in jobs)))

    async def load_params(self, params: nnx.State, version: int) -> None:
        load = Load(params, version, concurrent.futures.Future())
        self._hand_in([load])
        await asyncio.wrap_future(load.result)

    def stats(self) -> dict[str, float]:
        """Beside the interface's: wasted_tokens (sampled past a stop, or of cancelled requests),
        decode_steps, and the prefix cache's hits, misses and evictions in chunks."""
        counters, prefixes = self._scheduler.counters, self._scheduler.prefixes
        names = (
            "generated_tokens",
            "prefill_tokens",
            "reused_tokens",
            "wasted_tokens",
            "decode_steps",
            "busy_s",
        )
        slot_steps = counters["decode_steps"] * self.shape.slots
        return {
            **{name: float(counters[name]) for name in names},
            "slot_occupancy": counters["slot_steps"] / slot_steps if slot_steps else 0.0,
            "prefix_hits": float(prefixes.hits),
            "prefix_misses": float(prefixes.misses),
            "prefix_evictions": float(prefixes.evictions),
        }

    async def close(self) -> None:
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        atexit.unregister(self._stop)
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _job(self, request: Request) -> Job:
        stop, stop_ids = self._stop_of(request)
        limit = token_limit(request, self.max_context)
        return Job(request, limit, stop, stop_ids, concurrent.futures.Future())

    def _stop_of(self, request: Request) -> tuple[Stop, tuple[int, ...]]:
        """What ends the request's samples, and the part of it that the device can see."""
        key = (request.stop, request.stop_ids)
        if key not in self._stops:
            stop = Stop(self._eos, frozenset(request.stop_ids), tuple(s.encode() for s in request.stop))
            scheduler = self._scheduler
            self._stops[key] = stop, stop.device_ids(scheduler.table, self.shape.stop_ids)
        return self._stops[key]

    def _hand_in(self, items: Sequence[Job | Load]) -> None:
        with self._changed:
            if self._failure is not None:
                raise RuntimeError("the engine stopped at an earlier failure") from self._failure
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._inbox.extend(items)
            self._changed.notify()

    def _serve(self) -> None:
        """The thread's whole life: take what is queued, turn the scheduler, sleep when idle."""
        with Ending(self):
            while self._take():
                if not self._scheduler.idle:
                    self._scheduler.step()

    def _take(self) -> bool:
        """Moves requests to the scheduler, up to new weights, which wait until it is idle.

        False when the engine closes. Sleeps while there is nothing to do.
        """
        with self._changed:
            while self._scheduler.idle and not self._inbox and not self._closed:
                self._changed.wait()
            while self._inbox and isinstance(self._inbox[0], Job):
                self._scheduler.queued.append(self._inbox.popleft())
            load = self._inbox[0] if self._inbox and self._scheduler.idle else None
        if load is not None:
            self._load(load)
            self._inbox.popleft()  # only now: were it to fail, its caller is still found there
        return not self._closed

    def _load(self, load: Load) -> None:
        """Swaps the weights; a tree of another shape is refused and changes nothing."""
        if load.result.cancelled():
            return
        if problem := self._misfit(load.params):
            outcome = InputError(problem)
        else:
            self._scheduler.swap(self._placed(load.params), load.version)
            outcome = None
        if load.result.set_running_or_notify_cancel():
            load.result.set_result(None) if outcome is None else load.result.set_exception(outcome)

    def _misfit(self, params: nnx.State) -> str:
        """How the parameter tree differs from the model's; empty when it fits."""
        wanted, seen = (
            {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)}
            for tree in (self._abstract, params)
        )
        wrong = sorted(name for name in wanted.keys() | seen.keys() if wanted.get(name) != seen.get(name))
        if not wrong:
            return ""
        name = wrong[0]
        return f"parameter {name} has shape {seen.get(name)}, the model config wants {wanted.get(name)}"

    def _placed(self, params: nnx.State) -> nnx.State:
        """A copy of `params` in the engine's dtype, on its device."""
        return jax.tree.map(
            lambda leaf, like: jnp.array(jax.device_put(leaf, like.sharding), like.dtype, copy=True),
            params,
            self._abstract,
        )


class Ending:
    """Tells everybody who waits when the engine's thread ends, also when it fails."""

    def __init__(self, engine: JaxEngine):
        self.engine = engine

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, failure: BaseException | None, trace) -> bool:
        engine, scheduler = self.engine, self.engine._scheduler
        with engine._changed:
            engine._failure = failure
            waiting = [*engine._inbox, *scheduler.jobs()]
            engine._inbox.clear()
        for item in waiting:
            if failure is None:
                item.result.cancel()
            elif item.result.set_running_or_notify_cancel():
                item.result.set_exception(failure)
        return True


def pool_size(config: ModelConfig, context: int, chunk: int, rows: int, megabytes: float) -> int:
    """Chunks in the pool: what `megabytes` hold, and at least one prefill round's whole prompts."""
    itemsize = 2 if config.compute_dtype == "bfloat16" else 4
    chunk_bytes = 2 * config.n_layers * chunk * config.n_kv_heads * config.head_dim * itemsize
    return max(rows * (context // chunk), int(megabytes * 2**20 / chunk_bytes))
