"""The process reward model at work: scores of all steps of a path in one forward pass.

Coroutines hand in paths and await futures; one thread owns each device and takes what waits for it, up to
`slots` paths a pass. Lengths are rounded up to a few buckets, so that few programs are compiled. Does
not train a scorer (train/objectives.py) or weigh scores against outcomes (rewards/phi.py).
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from o1jax.engine.device_thread import DeviceThread
from o1jax.losses.logprobs import token_log_probs
from o1jax.losses.prm import calibrated, log_likelihoods, prompt_logits, step_logits
from o1jax.model.config import ModelConfig
from o1jax.model.init import merge, placed, shapes_on
from o1jax.parallel.mesh import own_devices
from o1jax.prompts.chat import Tokenizer, encode
from o1jax.records import InputError

SHORTEST_BUCKET = 32  # tokens; with the powers of two above it, a pass is padded to at most twice its paths
GOOD, BAD = " +", " -"


class Path(NamedTuple):
    """A prompt with its answer."""

    token_ids: tuple[int, ...]
    # Of every step, the first included, the index in token_ids of its last token: a score is calibrated by
    # the step's number.
    step_ends: tuple[int, ...]
    is_program: tuple[bool, ...]  # of every step
    prompt_tokens: int  # of the prompt, with which token_ids begins: 1 at least


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """A path that waits for its scores."""

    path: Path
    bucket: int  # its padded length
    result: concurrent.futures.Future  # of the logits of its steps


def score_ids(tokenizer: Tokenizer) -> tuple[int, int]:
    """The ids of the good and the bad token, " +" and " -"; InputError where one is not a single token."""
    good, bad = (encode(tokenizer, text) for text in (GOOD, BAD))
    if not len(good) == len(bad) == 1 or good == bad:
        raise InputError(
            f"tokenizer {tokenizer.name_or_path!r} encodes {GOOD!r} and {BAD!r} as {[good, bad]}; a step "
            "scorer needs one token for each: use a tokenizer that has them"
        )
    return good[0], bad[0]


def buckets_of(context: int) -> tuple[int, ...]:
    """The padded lengths: powers of two below `context`, and `context`."""
    powers = (SHORTEST_BUCKET << i for i in range(context.bit_length()))
    return (*(length for length in powers if length < context), context)


def make_program(
    config: ModelConfig, graphdef: nnx.GraphDef, good_id: int, bad_id: int
) -> Callable[..., jax.Array]:
    """(params, tokens_BT, lengths_B, prompt_ends_B, step_tokens_BT, weights_BT) -> logits_BT, float32;
    compiled once a shape.

    prompt_ends_B: the index of the prompt's last token (a model with score_prompt reads it). At a step's last
    token, step_tokens_BT: how many it has, and weights_BT: what its log-likelihood weighs."""
    by_likelihood = bool(config.score_likelihood or config.score_step_likelihood)

    @jax.jit
    def logits(
        params: nnx.State,
        tokens_BT: jax.Array,
        lengths_B: jax.Array,
        prompt_ends_B: jax.Array,
        step_tokens_BT: jax.Array,
        weights_BT: jax.Array,
    ) -> jax.Array:
        model = merge(graphdef, params)
        positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
        segment_ids_BT = (positions_BT < lengths_B[:, None]).astype(jnp.int32)
        hidden_BTD = model(tokens_BT, positions_BT, segment_ids_BT)
        targets_BT, head_DV = jnp.roll(tokens_BT, -1, axis=1), model.padded_head_DV()
        if config.score_prompt:
            logits_BT = prompt_logits(hidden_BTD, prompt_ends_B, config.score_prompt)
        else:
            logits_BT = step_logits(hidden_BTD, head_DV, good_id, bad_id)
        if not by_likelihood:
            return logits_BT
        # At all tokens, though only steps' ends are asked for: how many those are is not part of the shape.
        n_tokens = model.config.token_rows
        log_probs_BT = token_log_probs(hidden_BTD, head_DV, targets_BT, n_tokens=n_tokens)
        return logits_BT + weights_BT * log_likelihoods(log_probs_BT, step_tokens_BT)

    return logits


class StepScorer:
    """Scores steps on all of this process's devices, for any number of coroutines at once: each device has a
    copy of the model, and takes the next path where it has least to do.

    A score does not depend, to the bit, on what is scored beside it or on which device: a pass has one shape
    for each class of lengths, and takes paths of one class only. `params` are copied, so that a trainer may
    donate its own; with `owned` they are deleted as they are. `context` is the longest path in tokens,
    `slots` how many paths a forward pass takes.
    """

    def __init__(
        self,
        config: ModelConfig,
        graphdef: nnx.GraphDef,
        params: nnx.State,
        good_id: int,
        bad_id: int,
        *,
        slots: int = 16,
        context: int = 256,
        owned: bool = False,
    ):
        if not 0 < context <= config.max_context:
            raise InputError(f"scorer context {context}: wanted 1 to the model's {config.max_context}")
        if not {good_id, bad_id} <= set(range(config.vocab_size)):
            raise InputError(f"score tokens {good_id} and {bad_id}: wanted ids below {config.vocab_size}")
        self.context, self.slots, self._vocab_size = context, slots, config.vocab_size
        self._calibration = config.score_calibration
        weights = config.score_likelihood, config.score_step_likelihood
        devices = [own_devices(replica=replica) for replica in range(jax.local_device_count())]
        self.params = placed(params, [shapes_on(params, device) for device in devices], owned=owned)
        program = make_program(config, graphdef, good_id, bad_id)
        self._lanes = [Lane(functools.partial(program, copy), slots, weights) for copy in self.params]
        self._buckets = buckets_of(context)

    async def score(self, paths: Sequence[Path]) -> list[tuple[float, ...]]:
        """A score in (0, 1) for every step of every path, in order, calibrated as the model's config says.

        Raises as `logits` does.
        """
        found = await self.logits(paths)
        return [
            tuple(calibrated(logits, np.arange(1, len(logits) + 1), self._calibration).tolist())
            for logits in found
        ]

    async def logits(self, paths: Sequence[Path]) -> list[tuple[float, ...]]:
        """The logit of every step of every path, in order, without the calibration.

        Raises InputError, before anything runs, for a path that is empty, longer than the context or
        with a step end outside it; RuntimeError after close, or after the device has failed.
        """
        for index, path in enumerate(paths):
            self._check(index, path)
        buckets = [next(size for size in self._buckets if len(path.token_ids) <= size) for path in paths]
        jobs = [Job(*pair, concurrent.futures.Future()) for pair in zip(paths, buckets, strict=True)]
        shares: dict[Lane, list[Job]] = {}
        for job in jobs:
            lane = min(self._lanes, key=lambda lane: lane.waiting)
            lane.waiting += 1
            shares.setdefault(lane, []).append(job)
        try:
            await asyncio.gather(*(lane.thread.results(share) for lane, share in shares.items()))
        finally:
            for lane, share in shares.items():
                lane.waiting -= len(share)
        return [job.result.result() for job in jobs]

    def stats(self) -> dict[str, float]:
        """Totals: paths, their tokens, forward passes; and the seconds those took, the devices' mean."""
        names = ("paths", "tokens", "passes", "busy_s")
        totals = {name: float(sum(lane.counters[name] for lane in self._lanes)) for name in names}
        return totals | {"busy_s": totals["busy_s"] / len(self._lanes)}

    async def close(self) -> None:
        """Ends the threads after their forward pass; what still waits is cancelled. Twice does nothing."""
        await asyncio.gather(*(lane.thread.close() for lane in self._lanes))

    def _check(self, index: int, path: Path) -> None:
        length = len(path.token_ids)
        if not 0 < length <= self.context:
            raise InputError(f"path {index} has {length} tokens, the scorer takes 1 to {self.context}")
        if not all(0 <= end < length for end in path.step_ends):
            raise InputError(f"path {index}: step ends {path.step_ends} outside its {length} tokens")
        starts = (path.prompt_tokens - 1, *path.step_ends)
        if len(path.is_program) != len(path.step_ends) or not 0 < path.prompt_tokens <= length:
            raise InputError(
                f"path {index}: {path.is_program} say which of {len(path.step_ends)} steps are programs, "
                f"after a prompt of {path.prompt_tokens} of {length} tokens; wanted one a step, and a prompt"
            )
        if any(end < start for start, end in itertools.pairwise(starts)):
            raise InputError(f"path {index}: steps end at {path.step_ends}, not one after the other")
        if not 0 <= min(path.token_ids) <= max(path.token_ids) < self._vocab_size:
            raise InputError(f"path {index}: token ids outside the vocabulary of {self._vocab_size}")


class Lane:
    """One device's forward passes, in a thread of its own. `program` takes make_program's arrays but for the
    parameters; `weights`: of the log-likelihood of a step that is a program, and of one that is not;
    `waiting`: paths that it was given and has not scored yet."""

    def __init__(self, program: Callable[..., jax.Array], slots: int, weights: tuple[float, float]):
        self.counters: collections.Counter[str] = collections.Counter()
        self.waiting = 0
        self._program, self._slots, self._weights = program, slots, weights
        self._running: list[Job] = []
        self.thread: DeviceThread[Job] = DeviceThread("step scorer", self._turn, lambda: self._running)
        self.thread.start()

    def _turn(self) -> bool:
        """Scores up to `slots` of the jobs that wait; False when the scorer closes.

        They are the oldest one and those of its class of lengths that came after it.
        """
        # A short path among long ones would be padded to their length, and another shape has other bits (D2):
        # a search would score a step by who came along.
        thread = self.thread
        with thread.changed:
            while not thread.inbox and not thread.closed:
                thread.changed.wait()
            if thread.closed:
                return False
            bucket = thread.inbox[0].bucket
            self._running = [job for job in thread.inbox if job.bucket == bucket][: self._slots]
            for job in self._running:  # the others stay, in order
                thread.inbox.remove(job)
        self._pass()
        return True

    def _pass(self) -> None:
        """One forward pass over the running jobs; their callers get the logits."""
        began = time.monotonic()
        tokens_BT = np.zeros((self._slots, self._running[0].bucket), np.int32)
        step_tokens_BT, weights_BT = np.zeros_like(tokens_BT), np.zeros(tokens_BT.shape, np.float32)
        lengths_B, prompt_ends_B = np.zeros((2, self._slots), np.int32)
        for row, job in enumerate(self._running):
            lengths_B[row] = len(job.path.token_ids)
            prompt_ends_B[row] = job.path.prompt_tokens - 1
            tokens_BT[row, : lengths_B[row]] = job.path.token_ids
            ends = list(job.path.step_ends)
            step_tokens_BT[row, ends] = np.diff([prompt_ends_B[row], *ends])
            weights_BT[row, ends] = np.where(job.path.is_program, *self._weights)
        logits_BT = np.asarray(self._program(tokens_BT, lengths_B, prompt_ends_B, step_tokens_BT, weights_BT))
        logits = [tuple(logits_BT[b, list(j.path.step_ends)].tolist()) for b, j in enumerate(self._running)]
        self.counters.update(paths=len(self._running), tokens=int(lengths_B.sum()), passes=1)
        self.counters["busy_s"] += time.monotonic() - began
        for job, values in zip(self._running, logits, strict=True):
            if job.result.set_running_or_notify_cancel():
                job.result.set_result(values)
        self._running = []
