"""vLLM servers, one or many, as one engine over HTTP.

Samples are asked for one by one, and again of another server when one fails; weights go as safetensors into
the served model's directory, which this process and the servers must both see. Which server is asked, and
whether it lives, is fleet.py's business; what is said to it replica.py's; launch/serve.py starts them.
One engine owns its servers: two would take turns at replacing each other's weights.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import hashlib
import secrets
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import httpx2
from etils import epath
from flax import nnx
from transformers import PreTrainedTokenizerBase

from o1jax.engine.interface import Completion, Request
from o1jax.engine.jobs import Intake, Job, Sample, token_bytes
from o1jax.engine.vllm_engine.fleet import Fleet, ServersDown
from o1jax.engine.vllm_engine.replica import Answer, OtherWeights, Push, Replica, ReplicaFault
from o1jax.engine.vllm_engine.settings import MOST_STOP_IDS, check_temperature
from o1jax.engine.vllm_engine.weights import written
from o1jax.model.config import ModelConfig
from o1jax.model.hf.config import config_from_hf
from o1jax.model.hf.files import read_json
from o1jax.model.init import abstract_params, check_shapes
from o1jax.parallel.mesh import own_devices
from o1jax.parallel.processes import barrier
from o1jax.prompts.chat import size
from o1jax.records import InputError

# What a server's config must have in common with the policy's, for it to take its weights.
SAME = ("family", "vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_ff")
PUSHED = "pushed_weights_"  # directories in the served model's, then the servers' names, then the label


def check_served(url: str, root: epath.Path, context: int, config: ModelConfig, wanted: int) -> None:
    """InputError unless the server at `url`, whose model is in the directory `root` and whose context holds
    `context` tokens, can take weights of `config` and serve `wanted` tokens. Looks at no weights."""
    if not (root / "config.json").exists():
        raise InputError(f"{url} serves {root}, which is not seen from here: weights go by that path")
    theirs = dataclasses.asdict(config_from_hf(read_json(root / "config.json"), config.param_dtype))
    ours = dataclasses.asdict(config) | {"vocab_size": config.token_rows}
    for name in SAME:
        if theirs[name] != ours[name]:
            raise InputError(
                f"{url} serves a model with {name} {theirs[name]}, the policy has {ours[name]}: serve that, "
                "as launch/serve.py writes it"
            )
    if theirs["tie_embeddings"]:
        raise InputError(
            f"{url} serves a model with tied embeddings, which new weights would not wholly reach: "
            "serve the untied copy that launch/serve.py writes"
        )
    if context < wanted:
        raise InputError(f"{url} holds {context} tokens, engine.context is {wanted}: serve more")


class VllmServers:
    """Implements Engine (interface.py has the promises) over servers of the model `config`.

    First `await open()`, then `load_params`: before it, nobody knows what weights the servers have. Tokens
    are those of VllmEngine. `slots` and `context` are each server's; `patience_s`: how long a request waits
    for any server to be there; `answer_s`: how long one may take to say that it lives, and `work_s` for a
    sample or a push; `tries`: how often a sample is asked for.
    """

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: PreTrainedTokenizerBase,
        endpoints: Sequence[str],
        *,
        slots: int = 64,
        context: int = 256,
        patience_s: float = 120.0,
        answer_s: float = 20.0,
        work_s: float = 600.0,
        watch_s: float = 1.0,
        tries: int = 8,
    ):
        for url in endpoints or ("",):
            if not url.startswith(("http://", "https://")):
                raise InputError(f"engine.endpoints: saw {url!r}, wanted URLs such as http://host:8000")
        config = config.with_tokens(size(tokenizer))
        self.max_context, self._config, self._tokenizer = context, config, tokenizer
        self._slots, self._tries = slots, tries
        _, self._abstract = abstract_params(config, own_devices())
        self._table = token_bytes(tokenizer, config.token_rows)
        self._intake = Intake(tokenizer, self._table, context, config.token_rows, MOST_STOP_IDS)
        at_once = 2 * slots  # samples a server; the other connections are for what is asked beside them
        limits = httpx2.Limits(max_connections=(at_once + 4) * len(endpoints))
        self._client = httpx2.AsyncClient(limits=limits, trust_env=False)
        replicas = [Replica(url, self._client, answer_s, work_s, at_once) for url in endpoints]
        self._fleet = Fleet(replicas, self._check, patience_s, watch_s)
        self._root: epath.Path | None = None  # a served model's directory; pushed weights are in it
        names = hashlib.sha256("\n".join(sorted(endpoints)).encode()).hexdigest()
        self._pushed = f"{PUSHED}{names[:8]}_"  # other engines push to other servers of this model
        self._push: Push | None = None
        self._counters: collections.Counter[str] = collections.Counter()
        self._tasks: set[asyncio.Task] = set()  # of samples
        self._idle, self._loaded, self._one_load = asyncio.Event(), asyncio.Event(), asyncio.Lock()
        self._idle.set()
        self._closed = False

    async def open(self) -> None:
        """Begins to watch the servers; returns when one of them answers. InputError where its model is
        another, its context shorter, or its directory not seen from here; ServersDown after patience_s."""
        await self._fleet.open()

    async def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """See Engine.generate; ServersDown when no server was there for patience_s, or a sample failed
        `tries` times; RuntimeError after close."""
        jobs = self._intake.jobs(requests)
        check_temperature(requests)
        if self._closed:
            raise RuntimeError("the engine is closed")
        while not self._loaded.is_set():  # again: the next load may have begun before we were woken
            await self._loaded.wait()
        if self._closed:
            raise asyncio.CancelledError("the engine was closed")
        samples = iter(await self._all([self._sample(job, i) for job in jobs for i in range(job.request.n)]))
        return [[next(samples) for _ in range(job.request.n)] for job in jobs]

    async def load_params(self, params: nnx.State, version: int) -> None:
        """See Engine.load_params; returns when every server that is there has the weights.

        InputError, and the old weights stay, where a shape differs; ServersDown where none is there.
        """
        check_shapes(params, self._abstract)
        async with self._one_load:
            self._loaded.clear()
            try:
                await self._idle.wait()
                await self._replace(params, version)
            finally:  # also after a failure: `generate` then says what is wrong, and does not wait for ever
                self._loaded.set()

    def stats(self) -> dict[str, float]:
        """The interface's, of all servers (what servers do not say was reused counts as prefill),
        and retries, stale_completions, pushes and push_s."""
        counters = self._counters
        names = ("generated_tokens", "prefill_tokens", "reused_tokens", "busy_s")
        totals = {name: float(counters[name]) for name in (*names, "retries", "stale_completions")}
        slots_s = counters["busy_s"] * self._slots * len(self._fleet.replicas)
        occupancy = min(1.0, counters["sample_s"] / slots_s) if slots_s else 0.0
        pushes = {"pushes": float(self._fleet.pushes), "push_s": self._fleet.push_s}
        return totals | pushes | {"slot_occupancy": occupancy}

    async def close(self) -> None:
        """See Engine.close; closing twice does nothing. The servers go on, with the last weights."""
        if not self._closed:
            self._closed = True
            self._loaded.set()  # who waits for weights waits in vain
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._fleet.close()
            await self._client.aclose()
            self._forget(keep=None)

    def _check(self, url: str, root: epath.Path, context: int) -> None:
        """Looks at what a server serves when it is first seen."""
        check_served(url, root, context, self._config, self.max_context)
        self._root = self._root or root

    async def _all(self, samples: Sequence[Coroutine[Any, Any, Completion]]) -> list[Completion]:
        """All of them at once; the first failure, or being cancelled, cancels the others."""
        tasks = [asyncio.create_task(sample) for sample in samples]
        if not self._tasks:
            self._busy_since = time.monotonic()
        self._tasks.update(tasks)
        self._idle.clear()
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._tasks.difference_update(tasks)
            if not self._tasks:
                self._counters["busy_s"] += time.monotonic() - self._busy_since
                self._idle.set()

    async def _sample(self, job: Job, index: int) -> Completion:
        """One sample, of whichever server can give it."""
        push, begin = self._push, time.monotonic()
        key = job.request.problem or repr(job.request.prompt_ids)
        # Asked again, of the same server or another, it is the same sample: the seed is in the request.
        for _ in range(self._tries):
            replica = await self._fleet.choose(key)
            try:
                completion = self._completion(job, index, await replica.sample(job, index, push.label), push)
            except ReplicaFault as fault:
                self._counters["retries"] += 1
                self._counters["stale_completions"] += isinstance(fault, OtherWeights)
                self._fleet.blame(replica, fault)
                last = fault
            else:
                replica.strikes = 0
                self._counters["sample_s"] += time.monotonic() - begin
                return completion
        raise ServersDown(
            f"a sample failed {self._tries} times, at last so: {last}; look at the servers' logs"
        )

    def _completion(self, job: Job, index: int, answer: Answer, push: Push) -> Completion:
        sample = Sample(job, index)
        reason = sample.extend(answer.token_ids, answer.log_probs, self._table)
        if reason is None:  # a stop that the server knows and we do not, or an answer that was cut
            raise ReplicaFault(f"a sample of {len(answer.token_ids)} tokens ends where nothing ends it")
        self._counters["generated_tokens"] += len(sample.token_ids)
        self._counters["reused_tokens"] += answer.cached_tokens
        self._counters["prefill_tokens"] += len(job.request.prompt_ids) - answer.cached_tokens
        return sample.completion(self._tokenizer, reason, push.version)

    async def _replace(self, params: nnx.State, version: int) -> None:
        """New weights beside the old ones' files, then to all servers, then the old files go."""
        label = f"{version}_{secrets.token_hex(4)}"  # another run's version of this number is another
        own = self._root / f"{self._pushed}{label}"
        directory = await asyncio.to_thread(written, own, self._config, params)
        self._push = Push(directory, label, version)
        await self._fleet.install(self._push)
        await asyncio.to_thread(barrier, "weights are installed")  # other processes' servers read them too
        self._forget(keep=directory)

    def _forget(self, keep: epath.Path | None) -> None:
        """Removes weights that were pushed to these servers, also by an engine that was killed."""
        for directory in self._root.glob(f"{self._pushed}*") if self._root else ():
            if directory != keep:
                directory.rmtree()
