"""vLLM in process: the trainer's arrays go into its model in place, by the one map of names.

Needs the environment of `make install-vllm`. Puts the parts together: jobs.py checks, serving_thread.py
turns vllm_scheduler.py. Speaks to no server; that is vllm_server.py.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

from o1jax.engine.vllm_settings import (
    MOST_STOP_IDS,
    arguments,
    check_temperature,
    environment,
    is_cpu_build,
)

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR"}  # else three lines a push
for name, value in (environment(is_cpu_build()) | QUIET).items():  # read where torch and vLLM are imported
    os.environ.setdefault(name, value)

import jax
from flax import nnx
from transformers import PreTrainedTokenizerBase
from vllm import EngineArgs, LLMEngine

from o1jax.engine.interface import Completion, Request
from o1jax.engine.jobs import Intake
from o1jax.engine.serving_thread import ServingThread
from o1jax.engine.stopping import token_bytes
from o1jax.engine.vllm_scheduler import VllmScheduler
from o1jax.engine.weight_source import torch_tensors
from o1jax.engine.weights import check_shapes
from o1jax.model import hf
from o1jax.model.config import ModelConfig
from o1jax.model.init import abstract_params
from o1jax.model.untied import untied
from o1jax.parallel.mesh import make_mesh


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
        self.max_context, self._config = context, config
        _, self._abstract = abstract_params(config, make_mesh(devices=jax.local_devices()[:1]))
        chosen = arguments(
            config, slots=slots, context=context, dtype=dtype or config.compute_dtype, cpu=is_cpu_build()
        )
        chosen["enable_prefix_caching"] = prefix_cache
        with tempfile.TemporaryDirectory(prefix="o1jax_vllm_") as directory:
            hf.export(directory, *untied(config, params), tokenizer)
            # Tokens go in and come out: vLLM needs no tokenizer.
            args = EngineArgs(model=directory, skip_tokenizer_init=True, disable_log_stats=True, **chosen)
            self._vllm = LLMEngine.from_engine_args(args)
        table = token_bytes(tokenizer, config.vocab_size)
        self._scheduler = VllmScheduler(self._vllm, tokenizer, table, slots)
        self._scheduler.version = version
        self._intake = Intake(tokenizer, table, context, config.vocab_size, MOST_STOP_IDS)
        self._thread = ServingThread(self._scheduler, self._swap)

    async def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """See Engine.generate; RuntimeError after close, or after the engine's thread has failed."""
        jobs = self._intake.jobs(requests)
        check_temperature(requests)
        return await self._thread.completions(jobs)

    async def load_params(self, params: nnx.State, version: int) -> None:
        """See Engine.load_params; InputError, and the old weights stay, where a shape differs."""
        await self._thread.load(params, version)

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
        """New weights, and nothing that was cached of the old ones: reloading alone would leave it."""
        check_shapes(params, self._abstract)
        host = jax.local_devices(backend="cpu")[0]
        tensors = torch_tensors(*untied(self._config, params), host)
        self._vllm.collective_rpc("reload_weights", kwargs={"weights_iterator": tensors})
        if not self._vllm.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache, though nothing ran")
        self._scheduler.version = version
