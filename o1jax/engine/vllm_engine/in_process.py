"""vLLM in process: jobs become its requests, and the trainer's arrays its weights, in place.

Needs the environment of `make install-vllm`. Stops are found here, on tokens (jobs.py): vLLM would cut
the text and not the ids. jobs.py checks, device_thread.py turns the scheduler. Speaks to no server.
"""

from __future__ import annotations

import os

from o1jax.engine.vllm_engine.settings import (
    MOST_STOP_IDS,
    arguments,
    check_temperature,
    environment,
    is_cpu_build,
    sampling,
)

# Before torch and vLLM are imported, which is when they read these. In one process, or the weights' iterator,
# which holds the trainer's arrays, would have to be pickled to another.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR"}  # else three lines a push
for name, value in (environment(is_cpu_build()) | QUIET).items():
    os.environ.setdefault(name, value)

import collections
import tempfile
import time
from collections.abc import Iterator, Sequence

import jax
import torch
from flax import nnx
from transformers import PreTrainedTokenizerBase
from vllm import EngineArgs, LLMEngine, RequestOutput, SamplingParams
from vllm.sampling_params import RequestOutputKind

from o1jax.engine.device_thread import Load, serving_thread
from o1jax.engine.interface import Completion, Request
from o1jax.engine.jobs import Intake, Job, Sample, token_bytes
from o1jax.model.config import ModelConfig
from o1jax.model.hf import checkpoint as hf
from o1jax.model.hf.names import hf_tensors, untied
from o1jax.model.init import abstract_params, check_shapes
from o1jax.parallel.mesh import own_devices
from o1jax.prompts.chat import size
from o1jax.records import InputError


class VllmScheduler:
    """Turns vLLM's engine. Holds the samples in flight, by vLLM's request ids, and the counters.

    vLLM itself stops at tokens that end a sample whatever came before; samples that end otherwise are
    aborted. `table`: jobs.token_bytes.
    """

    def __init__(self, engine: LLMEngine, tokenizer: PreTrainedTokenizerBase, table: list[bytes], slots: int):
        self.engine, self.tokenizer, self.table, self.slots = engine, tokenizer, table, slots
        self.version = 0
        self.counters: collections.Counter[str] = collections.Counter()
        self._samples: dict[str, Sample] = {}
        self._added = 0

    @property
    def idle(self) -> bool:
        return not self._samples

    def jobs(self) -> list[Job]:
        """Every request whose caller still waits, once."""
        return list(dict.fromkeys(sample.job for sample in self._samples.values()))

    def add(self, job: Job) -> None:
        """Hands the samples of a request to vLLM, which keeps a prefix that they share once."""
        # One request a sample and not vLLM's n: each has a seed of its own, and can be aborted alone.
        prompt = {"prompt_token_ids": list(job.request.prompt_ids)}
        for index in range(job.request.n):
            self._added += 1
            try:
                params = SamplingParams(
                    **sampling(job, index), detokenize=False, output_kind=RequestOutputKind.DELTA
                )
                self.engine.add_request(str(self._added), prompt, params)
            except ValueError as error:  # what our checks let pass: this request's fault, nobody else's
                fail(job, InputError(f"vLLM refuses the request: {' '.join(str(error).split())}"))
                return
            self._samples[str(self._added)] = Sample(job, index)

    def step(self) -> None:
        """One turn: a token for every sample that runs."""
        begin = time.perf_counter()
        # Of callers that have gone, and of jobs that have failed: the other samples of them run for nobody.
        self._abort([key for key, sample in self._samples.items() if sample.job.result.done()])
        self.counters["turns"] += 1
        self.counters["slot_turns"] += min(len(self._samples), self.slots)
        for output in self.engine.step():
            self._take(output)
        self.counters["busy_s"] += time.perf_counter() - begin

    def _take(self, output: RequestOutput) -> None:
        """Gives a sample its new tokens, and its job the sample where they end it."""
        key, sample, (new,) = output.request_id, self._samples[output.request_id], output.outputs
        if not sample.token_ids:  # the first tokens: vLLM says then how much of the prompt it had
            cached = output.num_cached_tokens or 0
            self.counters["reused_tokens"] += cached
            self.counters["prefill_tokens"] += len(sample.job.request.prompt_ids) - cached
        log_probs = [entry[token].logprob for token, entry in zip(new.token_ids, new.logprobs, strict=True)]
        reason = sample.extend(new.token_ids, log_probs, self.table)
        if reason is not None:
            self.counters["generated_tokens"] += len(sample.token_ids)
            sample.job.finish(sample.index, sample.completion(self.tokenizer, reason, self.version))
        elif output.finished:
            fail(sample.job, RuntimeError(f"vLLM ended a sample, {new.finish_reason}, where nothing ends it"))
        if output.finished:  # aborting a request that vLLM has ended itself is an error
            del self._samples[key]
        elif reason is not None:
            self._abort([key])

    def _abort(self, keys: list[str]) -> None:
        """Lets go of samples that vLLM still runs."""
        if keys:
            self.engine.abort_request(keys)
        for key in keys:
            del self._samples[key]


def fail(job: Job, error: Exception) -> None:
    """Tells the caller, if it still waits."""
    if not job.result.done() and job.result.set_running_or_notify_cancel():
        job.result.set_exception(error)


class VllmEngine:
    """Implements Engine (interface.py has the promises) with vLLM's own batching and prefix cache.

    A sample's tokens in float32 depend on (weights, prompt_ids, seed, index, sampling settings); the last
    bits of its log-probs also on what runs beside it. `reuse_prefix` is not heeded: every prompt's whole
    blocks are kept while there is room (`prefix_cache`: off to measure it). `params` are copied, in `dtype`
    (None: the config's compute dtype).
    """

    def __init__(
        self,
        config: ModelConfig,
        params: nnx.State,
        tokenizer: PreTrainedTokenizerBase,
        *,
        slots: int = 64,
        context: int = 256,
        dtype: str | None = None,
        version: int = 0,
        prefix_cache: bool = True,
    ):
        config = config.with_tokens(size(tokenizer))
        self.max_context, self._config = context, config
        # vLLM's bfloat16 attention uses AMX tiles, which Linux lets a process use that has asked. vLLM asks
        # in its worker processes, of which there is none here: without this the process ends by SIGILL.
        if is_cpu_build() and torch.cpu._is_amx_tile_supported():
            torch.cpu._init_amx()
        _, self._abstract = abstract_params(config, own_devices())
        chosen = arguments(
            config, slots=slots, context=context, dtype=dtype or config.compute_dtype, cpu=is_cpu_build()
        )
        chosen["enable_prefix_caching"] = prefix_cache
        with tempfile.TemporaryDirectory(prefix="o1jax_vllm_") as directory:
            hf.export(directory, *untied(config, params))
            # Tokens go in and come out: vLLM needs no tokenizer.
            args = EngineArgs(model=directory, skip_tokenizer_init=True, disable_log_stats=True, **chosen)
            self._vllm = LLMEngine.from_engine_args(args)
        table = token_bytes(tokenizer, config.token_rows)
        self._scheduler = VllmScheduler(self._vllm, tokenizer, table, slots)
        self._scheduler.version = version
        self._intake = Intake(tokenizer, table, context, config.token_rows, MOST_STOP_IDS)
        self._thread = serving_thread(self._scheduler, self._swap)

    async def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """See Engine.generate; RuntimeError after close, or after the engine's thread has failed."""
        jobs = self._intake.jobs(requests)
        check_temperature(requests)
        return await self._thread.results(jobs)

    async def load_params(self, params: nnx.State, version: int) -> None:
        """See Engine.load_params; InputError, and the old weights stay, where a shape differs."""
        await self._thread.results([Load(params, version)])

    def stats(self) -> dict[str, float]:
        """See Engine.stats."""
        counters = self._scheduler.counters
        names = ("generated_tokens", "prefill_tokens", "reused_tokens", "busy_s")
        slot_turns = counters["turns"] * self._scheduler.slots
        return {
            **{name: float(counters[name]) for name in names},
            "slot_occupancy": counters["slot_turns"] / slot_turns if slot_turns else 0.0,
        }

    async def close(self) -> None:
        """See Engine.close; closing twice does nothing."""
        await self._thread.close()
        self._vllm.engine_core.shutdown()

    def _swap(self, params: nnx.State, version: int) -> None:
        """New weights, and nothing that was cached of the old ones."""
        check_shapes(params, self._abstract)
        tensors = torch_tensors(*untied(self._config, params))
        self._vllm.collective_rpc("reload_weights", kwargs={"weights_iterator": tensors})
        # Reloading leaves the prefix cache as it was: keys of the old weights gave answers that were wrong.
        if not self._vllm.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache, though nothing ran")
        self._scheduler.version = version


def torch_tensors(config: ModelConfig, params: nnx.State) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor on the CPU) of every tensor of the checkpoint, one at a time, from arrays that may be
    sharded over this process's devices; one that is there whole is not copied."""
    host = jax.local_devices(backend="cpu")[0]
    for name, array in hf_tensors(config, params):
        yield name, torch.from_dlpack(jax.device_put(array, host))
