"""JAX engines on all of a process's devices, as one engine: each has a copy of the weights on devices of its
own, and a thread of its own.

Chooses which engine serves a request, and gives all of them the same weights. Does not batch: that is each
engine's (jax_engine/). Servers of vLLM are chosen among by vllm_engine/fleet.py.
"""

from __future__ import annotations

import asyncio
import collections
import threading
from collections.abc import Sequence

import jax
from flax import nnx

from o1jax.engine.interface import Completion, Request
from o1jax.engine.jax_engine.engine import JaxEngine, NewWeights
from o1jax.engine.jobs import Job
from o1jax.records import InputError

REMEMBERED = 10_000  # problems; one that is forgotten may go to another engine, which lacks its prefixes


def count_of(tensor: int, wanted: int = 0) -> int:
    """How many engines split over `tensor` devices each: `wanted`, or (0) as many as this process's devices
    hold. InputError where there are not so many."""
    devices = jax.local_device_count()
    if wanted * tensor > devices:
        raise InputError(
            f"engine.replicas: saw {wanted} of engine.tensor {tensor}, wanted at most {devices // tensor} on "
            f"this process's {devices} devices, or 0 for as many as they hold"
        )
    return wanted or max(1, devices // tensor)


class Replicas:
    """Implements Engine over JAX engines of one shape, made without weights: `load_params` comes first.

    All that is asked about one problem goes to one engine, which has its prefixes; a problem that is new, and
    a request about none, to the one that has least to do. Which one it was shows in no bit of an answer.
    """

    def __init__(self, engines: Sequence[JaxEngine]):
        self.engines, self.max_context = list(engines), engines[0].max_context
        self._samples = [0] * len(engines)  # that each has been asked for and has not given yet
        self._asked = [0] * len(engines)  # samples that each was ever asked for
        self._chosen: collections.OrderedDict[str, int] = collections.OrderedDict()  # by problem

    async def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """See Engine.generate; the first engine's failure cancels what the others were asked for."""
        jobs = self.engines[0].jobs(requests)  # checked whole, before any engine begins
        shares: dict[int, list[Job]] = {}
        for job in jobs:
            number = self._choose(job.request)
            shares.setdefault(number, []).append(job)
            self._samples[number] += job.request.n
            self._asked[number] += job.request.n
        # Tasks begin in the order in which they are made, here and in load_params: what was asked for before
        # new weights stands before them in every engine's queue.
        tasks = [asyncio.create_task(self.engines[i].results(share)) for i, share in shares.items()]
        try:
            found = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            for number, share in shares.items():
                self._samples[number] -= sum(job.request.n for job in share)
        done = {
            id(job): completions
            for share, answers in zip(shares.values(), found, strict=True)
            for job, completions in zip(share, answers, strict=True)
        }
        return [done[id(job)] for job in jobs]

    async def load_params(self, params: nnx.State, version: int, *, owned: bool = False) -> None:
        """See Engine.load_params; with `owned` the parameters are deleted as they are copied. Where several
        processes train, all call it: they gather the weights together."""
        weights = NewWeights(params, [engine.abstract for engine in self.engines], owned=owned)
        loads = [
            asyncio.create_task(engine.load(weights.of(i), version)) for i, engine in enumerate(self.engines)
        ]
        # Shielded: were one load taken back, its engine would keep the old weights, and the others wait.
        await asyncio.shield(asyncio.create_task(_all_of(loads, weights)))

    def stats(self) -> dict[str, float]:
        """See Engine.stats and JaxEngine.stats: sums, and means of seconds and slot_occupancy."""
        stats = [engine.stats() for engine in self.engines]
        totals = {name: sum(seen[name] for seen in stats) for name in stats[0]}
        # By steps: an engine that nobody asks has no slots, in use or not.
        in_use = sum(seen["slot_occupancy"] * seen["decode_steps"] for seen in stats)
        return totals | {
            **{name: totals[name] / len(stats) for name in ("busy_s", "device_s", "host_s")},
            "slot_occupancy": in_use / max(1.0, totals["decode_steps"]),
        }

    async def close(self) -> None:
        """See Engine.close; closing twice does nothing."""
        await asyncio.gather(*(engine.close() for engine in self.engines))

    def _choose(self, request: Request) -> int:
        """The number of the engine that serves it."""
        number = self._chosen.pop(request.problem, None)
        if number is None:
            number = min(range(len(self.engines)), key=lambda i: (self._samples[i], self._asked[i], i))
        if request.problem:
            self._chosen[request.problem] = number
            if len(self._chosen) > REMEMBERED:
                self._chosen.popitem(last=False)
        return number


async def _all_of(loads: Sequence[asyncio.Task], weights: NewWeights) -> None:
    """Returns when all engines have the weights; raises what kept one of them from it."""
    done, _ = await asyncio.wait(loads, return_when=asyncio.FIRST_EXCEPTION)
    if any(task.exception() for task in done):
        weights.give_up()  # or the engines that are well would wait for ever for the one that is not
    found = await asyncio.gather(*loads, return_exceptions=True)
    failures = [failure for failure in found if failure is not None]
    for failure in sorted(failures, key=lambda failure: isinstance(failure, threading.BrokenBarrierError)):
        raise failure  # the first cause: who only waited comes last
