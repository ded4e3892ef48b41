"""A push of weights into an engine, with the measure of what it is worth: how far the engine's log-probs are
from the trainer's on the same weights (promise 2).

Trains nothing; the importance weights that make up for a difference are losses/policy_gradient.py's.
"""

from __future__ import annotations

import asyncio

import jax
import numpy as np
from flax import nnx

from o1jax.batches.encode import Example
from o1jax.batches.stream import Batches
from o1jax.engine.interface import Completion, Engine, Request
from o1jax.parallel.mesh import make_mesh, own_devices
from o1jax.train.checkpoint import Policy
from o1jax.train.reference import log_probs_program, token_values

PROBE = "print(1)"  # what is sampled after, in tokens of the policy
TOKENS = 32


class Pushes:
    """Pushes parameters of the policy's model. Holds a compiled forward pass and no parameters. Of several
    processes each has an engine, and its own copy of the parameters (mesh.own_copy)."""

    def __init__(self, policy: Policy):
        self._mesh = make_mesh() if jax.process_count() == 1 else own_devices()
        self._program = log_probs_program(policy.graphdef, self._mesh)
        prompt_ids = policy.tokenizer.encode(PROBE, add_special_tokens=False)
        self._request = Request(tuple(prompt_ids), max_tokens=TOKENS, reuse_prefix=False)

    async def push(self, engine: Engine, params: nnx.State, version: int) -> float:
        """Loads the parameters, which the engine then samples with; returns `difference`."""
        await engine.load_params(params, version)
        return await self.difference(engine, params)

    async def difference(self, engine: Engine, params: nnx.State) -> float:
        """The largest |engine's log-prob - trainer's| over a sample of up to TOKENS tokens, in nats."""
        ((sample,),) = await engine.generate([self._request])
        return await asyncio.to_thread(self._largest, params, sample)

    def _largest(self, params: nnx.State, sample: Completion) -> float:
        ids = self._request.prompt_ids + sample.token_ids
        rows = self._mesh.devices.size
        row_length = len(self._request.prompt_ids) + TOKENS
        example = Example("probe", ids, (0.0,) * len(ids))
        batches = Batches([example], row_length=row_length, rows_per_batch=rows, seed=0)
        (values_T,) = token_values(self._program, params, batches, self._mesh)
        trainers_T = values_T[len(self._request.prompt_ids) - 1 : len(ids) - 1]
        return float(np.abs(trainers_T - np.array(sample.log_probs)).max())
