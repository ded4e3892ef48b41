"""The engine in process: coroutines hand in requests, one thread owns the device.

`generate` checks requests, queues them and awaits futures; the thread takes what is queued and
turns the scheduler. Does not batch (scheduler.py) or compute (programs.py).
"""

from __future__ import annotations

import asyncio
import atexit
import collections
import concurrent.futures
import contextlib
import dataclasses
import threading
from collections.abc import Sequence

import jax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from transformers import PreTrainedTokenizerBase

from o1jax.engine.interface import Completion, Request
from o1jax.engine.jobs import Job, Shape, pool_size
from o1jax.engine.requests import check, token_limit
from o1jax.engine.scheduler import Scheduler
from o1jax.engine.stopping import Stop
from o1jax.engine.weights import placed
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
    `params` are copied, in `dtype` (None: the config's compute dtype), as are activations and cache.
    `prefix_cache_mb` bounds the prompt chunks that stay on the device.
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
            wanted = f"a multiple of chunk ({chunk}), at most the model's {config.max_context}"
            raise InputError(f"engine context {context}: wanted {wanted}")
        self.max_context, self._config = context, config
        pool_chunks = pool_size(config, context, chunk, prefill_rows, prefix_cache_mb)
        self.shape = Shape(slots, context, chunk, prefill_rows, block, pool_chunks)
        mesh = make_mesh(devices=[device or jax.local_devices()[0]])
        graphdef, self._abstract = abstract_params(config, mesh)
        self._scheduler = Scheduler(
            config, graphdef, tokenizer, self.shape, NamedSharding(mesh, PartitionSpec())
        )
        self._scheduler.swap(placed(params, self._abstract), version)
        self._eos = -1 if tokenizer.eos_token_id is None else tokenizer.eos_token_id
        self._device_ids: dict[Stop, tuple[int, ...]] = {}
        self._inbox: collections.deque[Job | Load] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="jax_engine", daemon=True)
        self._thread.start()
        atexit.register(self._stop)

    async def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """See Engine.generate; RuntimeError after close, or after the engine's thread has failed."""
        check(requests, self.max_context, self._config.vocab_size)
        jobs = [self._job(request) for request in requests]
        self._hand_in(jobs)
        return list(await asyncio.gather(*(asyncio.wrap_future(job.result) for job in jobs)))

    async def load_params(self, params: nnx.State, version: int) -> None:
        """See Engine.load_params; InputError, and the old weights stay, where a shape differs."""
        load = Load(params, version, concurrent.futures.Future())
        self._hand_in([load])
        await asyncio.wrap_future(load.result)

    def stats(self) -> dict[str, float]:
        """Beside the interface's: wasted_tokens (sampled past a stop, or of cancelled requests),
        decode_steps, prefill_rounds, and the prefix cache's hits, misses and evictions in chunks."""
        counters, prefixes = self._scheduler.counters, self._scheduler.prompts.prefixes
        tokens = ("generated_tokens", "prefill_tokens", "reused_tokens", "wasted_tokens")
        slot_steps = counters["decode_steps"] * self.shape.slots
        return {
            **{name: float(counters[name]) for name in (*tokens, "decode_steps", "prefill_rounds", "busy_s")},
            "slot_occupancy": counters["slot_steps"] / slot_steps if slot_steps else 0.0,
            "prefix_hits": float(prefixes.hits),
            "prefix_misses": float(prefixes.misses),
            "prefix_evictions": float(prefixes.evictions),
        }

    async def close(self) -> None:
        """See Engine.close; closing twice does nothing."""
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        atexit.unregister(self._stop)
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _job(self, request: Request) -> Job:
        strings = tuple(text.encode() for text in request.stop)
        stop = Stop(self._eos, frozenset(request.stop_ids), strings)
        if stop not in self._device_ids:
            self._device_ids[stop] = stop.device_ids(self._scheduler.table, self.shape.stop_ids)
        limit = token_limit(request, self.max_context)
        return Job(request, limit, stop, self._device_ids[stop], concurrent.futures.Future())

    def _hand_in(self, items: Sequence[Job | Load]) -> None:
        with self._changed:
            if self._failure is not None:
                raise RuntimeError(f"the engine stopped: {self._failure}") from self._failure
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._inbox.extend(items)
            self._changed.notify()

    def _serve(self) -> None:
        """The thread's whole life: take what is queued, turn the scheduler, sleep when idle."""
        with contextlib.ExitStack() as ending:
            ending.push(self._end)
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
                self._scheduler.prompts.waiting.append(self._inbox.popleft())
            load = self._inbox[0] if self._inbox and self._scheduler.idle else None
        if load is not None and not self._closed:
            self._load(load)
            self._inbox.popleft()  # only now: were loading to fail, its caller is still found there
        return not self._closed

    def _load(self, load: Load) -> None:
        if load.result.cancelled():
            return
        refusal = None
        try:
            self._scheduler.swap(placed(load.params, self._abstract), load.version)
        except InputError as error:  # the caller's tree is wrong; the engine goes on
            refusal = error
        if load.result.set_running_or_notify_cancel():
            load.result.set_result(None) if refusal is None else load.result.set_exception(refusal)

    def _end(self, kind, failure: BaseException | None, trace) -> bool:
        """Tells everybody who waits that the thread ends: closed, or failed at `failure`."""
        with self._changed:
            self._failure = failure
            waiting = [*self._inbox, *self._scheduler.jobs()]
            self._inbox.clear()
        for item in waiting:
            if failure is None:
                item.result.cancel()
            elif item.result.set_running_or_notify_cancel():
                item.result.set_exception(failure)
        return True  # the failure is handed to the callers, those to come included
