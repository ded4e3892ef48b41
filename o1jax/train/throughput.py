"""What a person watches and profiles a pod by: where a process's time goes, a line a minute, and traces.

Changes no result: profiles are asked for by the environment, which launch/'s flags set, and by no stage's
settings.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Protocol

import jax
from etils import epath
from flax import nnx
from tqdm import tqdm

from o1jax.buckets import copy_files, is_bucket
from o1jax.parallel.chips import chip_of_kind
from o1jax.parallel.processes import this_process
from o1jax.records import InputError
from o1jax.writing import GrowingFile

FILE = "throughput.jsonl"
EVERY_S = 60.0
ONLY_LOGGED = logging.getLogger("o1jax.only_logged")  # for a process's log file alone
ONLY_LOGGED.setLevel(logging.INFO)
ONLY_LOGGED.propagate = False
STEPS, HOSTS, PORT = "O1JAX_PROFILE_STEPS", "O1JAX_PROFILE_HOSTS", "O1JAX_PROFILER_PORT"


class Counting(Protocol):
    """What an engine has that samples."""

    def stats(self) -> dict[str, float]: ...


class Throughput:
    """Tokens, operations and seconds by what they went into, of one process. Every minute, and at the end, a
    line to its log, and of process 0 to stderr and, as JSON, to throughput.jsonl in `directory`."""

    def __init__(self, directory: epath.PathLike, title: str):
        index = this_process().index
        self.title = title
        self._file = GrowingFile(epath.Path(directory) / FILE) if index == 0 else None
        devices = jax.local_devices()
        chip = chip_of_kind(devices[0].device_kind)
        self._peak = chip.flops * len(devices) if chip else None  # a second
        self._begin()

    def _begin(self) -> None:
        self._since = time.monotonic()
        self._tokens, self._flops, self._seconds = 0.0, 0.0, {}

    def spent(self, kind: str, seconds: float, *, tokens: float = 0, flops: float = 0) -> None:
        """Counts seconds of this process's time as `kind` (sampling, judging, training), and what its devices
        did in them; says the line if a minute is over."""
        self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds
        self._tokens, self._flops = self._tokens + tokens, self._flops + flops
        if time.monotonic() - self._since >= EVERY_S:
            self.say()

    def figures(self) -> dict[str, float]:
        """Since the last line: seconds, tokens_per_s, mfu where the device's peak is known, and the share of
        each kind; what is left of the time is `waiting`."""
        seconds = max(time.monotonic() - self._since, 1e-9)
        shares = {kind: min(spent / seconds, 1.0) for kind, spent in self._seconds.items()}
        mfu = {} if self._peak is None else {"mfu": self._flops / seconds / self._peak}
        waiting = {"waiting": max(0.0, 1 - sum(shares.values()))}
        rounded = {name: round(share, 4) for name, share in (mfu | shares | waiting).items()}
        return {"seconds": round(seconds, 2), "tokens_per_s": round(self._tokens / seconds, 1)} | rounded

    def say(self) -> None:
        """Says the line, and counts anew."""
        figures = self.figures()
        say(f"{self.title}: {in_words(figures)}")
        if self._file is not None:
            self._file.write(json.dumps({"at": round(time.time()), **figures}) + "\n")
        self._begin()

    def close(self) -> None:
        """Says the rest; call it once, at the end."""
        if self._seconds:
            self.say()
        if self._file is not None:
            self._file.close()


def say(line: str) -> None:
    """A line for this process's log, and of process 0 on stderr, which goes there too."""
    if this_process().index:
        ONLY_LOGGED.info(line)
    else:
        tqdm.write(line, file=sys.stderr)


async def say_every_minute(engine: Counting) -> None:
    """Until it is cancelled: what an engine samples, by its own counters."""
    before = engine.stats()
    while True:
        await asyncio.sleep(EVERY_S)
        after = engine.stats()
        tokens, busy_s = (after[name] - before[name] for name in ("generated_tokens", "busy_s"))
        busy = min(busy_s / EVERY_S, 1.0)
        figures = {"tokens_per_s": tokens / EVERY_S, "sampling": busy, "judging or waiting": 1 - busy}
        say(f"engine: {in_words(figures)}")
        before = after


def in_words(figures: Mapping[str, float]) -> str:
    """Throughput.figures as a line."""
    shares = [name for name in figures if name not in ("seconds", "tokens_per_s", "mfu", "at")]
    mfu = f", MFU {figures['mfu']:.1%}" if "mfu" in figures else ""
    said = ", ".join(f"{name} {figures[name]:.0%}" for name in shares)
    return f"{figures['tokens_per_s']:,.0f} tokens/s{mfu}; {said}"


def flops_per_token(params: nnx.State, frozen: nnx.State) -> float:
    """Of a train step, forward and backward: 6 a parameter that takes part in a product, 4 where it is
    frozen; attention's own products are not counted. The embedding is a table, unless it is the head too."""
    trained, others = (
        # A quantized array is a tree, of its values and their scales.
        {
            ".".join(map(str, path)): sum(array.size for array in jax.tree.leaves(leaf.get_value()))
            for path, leaf in nnx.to_flat_state(state)
        }
        for state in (params, frozen)
    )
    if any("untied_head" in name for name in trained | others):
        trained, others = (
            {name: size for name, size in of.items() if not name.startswith("embed")}
            for of in (trained, others)
        )
    return 6.0 * sum(trained.values()) + 4.0 * sum(others.values())


class Profiler:
    """The trace of steps `first` to `last` of this run (`last` is not in it), by jax.profiler, in
    <directory>/profile, as TensorBoard and xprof read it; of the processes that O1JAX_PROFILE_HOSTS names."""

    def __init__(self, directory: epath.PathLike, env: Mapping[str, str] = os.environ):
        self._into, self._here = epath.Path(directory) / "profile", ""
        self._first, self._last = profile_steps(env)
        if str(this_process().index) not in env.get(HOSTS, "0").split(",") and env.get(HOSTS) != "all":
            self._last = 0

    def before(self, step: int) -> None:
        """To be called before every step; `step` counts those that are finished."""
        if self._here and step >= self._last:
            self.close()
        if not self._here and self._first <= step < self._last:
            self._here = tempfile.mkdtemp(prefix="o1jax_") if is_bucket(self._into) else str(self._into)
            jax.profiler.start_trace(self._here)

    def close(self) -> None:
        """Ends a trace that is under way."""
        if not self._here:
            return
        jax.profiler.stop_trace()
        if is_bucket(self._into):
            copy_files(epath.Path(self._here), self._into)
        say(f"profiled: tensorboard --logdir={self._into}")
        self._here, self._last = "", 0


def profile_steps(env: Mapping[str, str]) -> tuple[int, int]:
    """(first, last) of O1JAX_PROFILE_STEPS, "10,13"; (0, 0) without. InputError for anything else."""
    given = env.get(STEPS, "")
    if not given:
        return 0, 0
    parts = given.strip("()").replace(" ", "").split(",")
    if len(parts) != 2 or not all(part.isdigit() for part in parts) or int(parts[0]) >= int(parts[1]):
        raise InputError(
            f"profile_steps: saw {given!r}, wanted the first step and the one after the last, as 10,13"
        )
    return int(parts[0]), int(parts[1])


def start_profiler_server(env: Mapping[str, str] = os.environ) -> None:
    """Where O1JAX_PROFILER_PORT is set, process i serves the profiler on that port + i: xprof and TensorBoard
    take a trace of a running stage there."""
    if port := env.get(PORT, ""):
        jax.profiler.start_server(int(port) + this_process().index)
