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
from o1jax.engine.jax_engine import JaxEngine
from o1jax.records import InputError
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Judge
from o1jax.train.checkpoint import Policy


@dataclasses.dataclass(frozen=True)
class EngineSettings:
    """The engine and its shape: `slots` samples at once, of at most `context` tokens each. Programs are
    judged `judge_slots` at once, and may import `judge_packages`."""

    name: str = "jax"
    slots: int = 64
    context: int = 384
    judge_slots: int = 2
    judge_packages: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Workers:
    """Open for the length of a stage."""

    engine: Engine
    judge: Judge
    tokenizer: PreTrainedTokenizerFast
    opened: float  # time.monotonic()

    def timings(self) -> dict[str, float]:
        """The engine's counters, with its busy share of the wall time since it was opened."""
        stats = self.engine.stats()
        wall_s = time.monotonic() - self.opened
        kept = {key: round(value, 4) for key, value in stats.items()}
        return {
            **kept,
            "play_seconds": round(wall_s, 2),
            "engine_busy_share": round(stats["busy_s"] / wall_s, 4),
        }


@contextlib.asynccontextmanager
async def open_workers(policy: Policy, settings: EngineSettings) -> AsyncIterator[Workers]:
    """Opens an engine with the policy's weights and a judge; closes both.

    Raises InputError for an engine that is not there.
    """
    if settings.name != "jax":
        raise InputError(f"engine.name: saw {settings.name!r}, wanted 'jax'")
    engine = JaxEngine(
        policy.config, policy.params, policy.tokenizer, slots=settings.slots, context=settings.context
    )
    judge = ForkJudge(slots=settings.judge_slots, packages=settings.judge_packages)
    try:
        yield Workers(engine, judge, policy.tokenizer, time.monotonic())
    finally:
        await engine.close()
        await judge.close()
