"""What a stage that plays holds open: a policy in an engine, a judge, and their counters.

One process, one engine on its local devices, one judge (D1). Does not search or sample.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator

from transformers import PreTrainedTokenizerFast

from o1jax.engine.interface import Engine
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Judge
from o1jax.stages.engines import EngineSettings, open_engine
from o1jax.stages.pushes import Pushes
from o1jax.train.checkpoint import Policy


@dataclasses.dataclass(frozen=True)
class Workers:
    """Open for the length of a stage."""

    engine: Engine
    judge: Judge
    tokenizer: PreTrainedTokenizerFast
    opened: float  # time.monotonic()
    push_difference: float | None = None  # of vLLM's log-probs from the trainer's, when it was opened

    def timings(self) -> dict[str, float]:
        """The engine's counters, with its busy share of the wall time since it was opened."""
        stats = self.engine.stats()
        wall_s = time.monotonic() - self.opened
        kept = {key: round(value, 4) for key, value in stats.items()}
        return {
            **kept,
            "play_seconds": round(wall_s, 2),
            "engine_busy_share": round(stats["busy_s"] / wall_s, 4),
            **({} if self.push_difference is None else {"push_difference": self.push_difference}),
        }


@contextlib.asynccontextmanager
async def open_workers(policy: Policy, settings: EngineSettings) -> AsyncIterator[Workers]:
    """Opens an engine with the policy's weights and a judge; closes both.

    Raises InputError for an engine that cannot be opened.
    """
    engine = await open_engine(policy, settings)
    judge = ForkJudge(slots=settings.judge_slots, packages=settings.judge_packages)
    try:
        difference = None
        if settings.name != "jax":
            difference = await Pushes(policy).difference(engine, policy.params)
        yield Workers(engine, judge, policy.tokenizer, time.monotonic(), difference)
    finally:
        await engine.close()
        await judge.close()
