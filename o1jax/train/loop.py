"""The one training loop: step, log, evaluate, save, stop; resumed to the same curve, bit for bit.

What a stage calls is `fit`. Knows no objective and no model; does not write the policy directory. What makes
it resumable is resumable.py.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Literal

import jax
from etils import epath
from flax import nnx
from jax.sharding import Mesh

from o1jax.batches.stream import Batches
from o1jax.model.init import NO_PARAMS
from o1jax.parallel.mesh import OwnRows, own_rows, place_batch
from o1jax.parallel.processes import barrier, is_leader, reporting_slow
from o1jax.records import InputError
from o1jax.train.metrics import MetricsLog, ProgressLine
from o1jax.train.objectives import Objective
from o1jax.train.optimizer import OptimizerSettings, make_optimizer, make_schedule
from o1jax.train.resumable import open_resumable
from o1jax.train.step import abstract_state, check_finite, make_train_step
from o1jax.train.throughput import Profiler, Throughput, flops_per_token

LAG = 2  # steps between dispatch and fetching metrics, so that the device never waits for the host
AGREE_EVERY = 16  # steps; several processes agree on the clock by a collective, which waits for the device
Evaluate = Callable[[nnx.State], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """How long to train, and when to evaluate and save."""

    max_steps: int  # the run ends after as many, if not before
    evaluate_every: int = 0  # steps; 0: after the last one only
    patience: int = 0  # evaluations without a better loss that end the run, with the best parameters; 0: none
    checkpoint_every: int = 0  # steps; 0: by the clock alone
    checkpoint_every_s: float = 120.0  # seconds; 0: never
    micro_batches: int = 1  # parts of a batch whose gradients are added up: less memory, the same step


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0  # finished steps
    tokens: int = 0  # trained on so far, without padding
    best_step: int = 0  # of the best evaluation
    best_loss: float | None = None
    stale_evaluations: int = 0  # since the best one


def judged(progress: Progress, loss: float) -> Progress:
    """The progress after an evaluation with this loss."""
    if progress.best_loss is None or loss < progress.best_loss:  # NaN never is
        return dataclasses.replace(progress, best_step=progress.step, best_loss=loss, stale_evaluations=0)
    return dataclasses.replace(progress, stale_evaluations=progress.stale_evaluations + 1)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A finished run."""

    params: nnx.State  # the best ones with patience, else the last
    progress: Progress
    stopped: Literal["max_steps", "plateau"]
    seconds: float  # of this call, compilation included


def fit(
    directory: epath.PathLike,
    graphdef: nnx.GraphDef,
    params: nnx.State,
    objective: Objective,
    batches: Batches,
    optimizer: OptimizerSettings,
    settings: FitSettings,
    *,
    mesh: Mesh,
    evaluate: Evaluate | None = None,
    title: str = "train",
    frozen: nnx.State = NO_PARAMS,
) -> Fitted:
    """Trains `params` on `batches`, or resumes what `directory` holds, and keeps checkpoints/,
    metrics.jsonl and tensorboard/ there.

    `params` are gone when this returns, as donated ones are: nobody holds a second copy during the run.
    `frozen`: the model's other parameters, which are neither trained nor saved.
    `evaluate` maps parameters to figures, of which `loss` decides; it runs every `evaluate_every` steps and
    after the last, and may use the parameters only until it returns: the next step takes their buffers.
    Raises NonFiniteLoss, Preempted, and InputError if `directory` is damaged or of another run.
    """
    if settings.patience and not (evaluate and settings.evaluate_every):
        raise InputError(
            f"patience {settings.patience} needs evaluate and evaluate_every; give both, or patience 0"
        )
    began = time.monotonic()
    # What a resumed run must have in common, as JSON: all that decides the curve. Not the objective, the
    # model's config or the parameters begun with: who calls gives the same ones in the same directory.
    identity = {"optimizer": dataclasses.asdict(optimizer), "data": batches.digest()}
    decisive = ("evaluate_every", "patience", "micro_batches")
    identity |= {name: dataclasses.asdict(settings)[name] for name in decisive}
    clock = {"every": settings.checkpoint_every, "every_s": settings.checkpoint_every_s}
    with open_resumable(directory, identity, **clock, agree_every=AGREE_EVERY) as resumable:
        run = Run(
            resumable, graphdef, params, objective, batches, optimizer, settings, mesh, evaluate, frozen
        )
        with (
            MetricsLog(directory, run.progress.step, writes=is_leader()) as log,
            contextlib.closing(Throughput(directory, title)) as run.throughput,
            contextlib.closing(Profiler(directory)) as run.profiler,
        ):
            run.until_done(log, ProgressLine(title, settings.max_steps, writes=is_leader()))
        stopped = "plateau" if run.at_plateau() else "max_steps"
        return Fitted(run.result(), run.progress, stopped, time.monotonic() - began)


class Run:
    """The state of one fit: the train state, the progress, and metrics still on the device."""

    def __init__(
        self, resumable, graphdef, params, objective, batches, optimizer, settings, mesh, evaluate, frozen
    ):
        self.resumable, self.batches, self.settings, self.mesh = resumable, batches, settings, mesh
        self.evaluate = evaluate
        self.frozen = (frozen,) if frozen else ()
        self.flops_per_token = flops_per_token(params, frozen)
        transformation = make_optimizer(optimizer)
        self.like = abstract_state(params, transformation, mesh)
        self.state, self.progress = resumable.begin(self.like, Progress(), params, transformation, mesh)
        self.step = make_train_step(
            graphdef,
            objective,
            transformation,
            self.like,
            mesh,
            schedule=make_schedule(optimizer),
            micro_batches=settings.micro_batches,
            frozen=frozen,
            gradient_dtype=optimizer.gradient_dtype,
        )
        self.first = self.progress.step  # whose dispatch compiles
        self.pending: collections.deque[tuple[int, Mapping[str, jax.Array]]] = collections.deque()
        self.fetched_at = time.monotonic()

    def until_done(self, log: MetricsLog, line: ProgressLine) -> None:
        """Steps until max_steps or the plateau; Preempted after saving if SIGTERM came."""
        own = own_rows(self.batches.rows_per_batch, self.mesh)
        save = functools.partial(self._save, log, line)
        while self.progress.step < self.settings.max_steps and not self.at_plateau():
            self.profiler.before(self.progress.step)
            self._advance(own)
            self._fetch(log, line, keep=LAG)
            improved = self._evaluate_if_due(log, line)
            self.resumable.between_steps(self.progress.step, save, wanted=improved)
        save()
        line.show(self.progress.step, "done", now=True)

    def _advance(self, own: OwnRows) -> None:
        """Dispatches one step."""
        step = self.progress.step
        batch = place_batch(self.batches.at(step, own.indices), self.mesh, own)
        with reporting_slow("compiled the train step", says=is_leader() and step == self.first):
            self.state, metrics = self.step(self.state, batch, *self.frozen)
        tokens = self.progress.tokens + self.batches.tokens_at(step)
        self.progress = dataclasses.replace(self.progress, step=step + 1, tokens=tokens)
        self.pending.append((step + 1, metrics))

    def _fetch(self, log: MetricsLog, line: ProgressLine, keep: int) -> None:
        """Logs all pending metrics but the latest `keep`; NonFiniteLoss if one is not finite."""
        while len(self.pending) > keep:
            step, metrics = self.pending.popleft()
            figures = {name: float(value) for name, value in jax.device_get(metrics).items()}
            check_finite(step, figures, self.batches.ids_at(step - 1))
            now = time.monotonic()
            figures["tokens_per_s"] = figures["tokens"] / (now - self.fetched_at)
            flops = figures["tokens"] * self.flops_per_token / jax.process_count()
            self.throughput.spent("training", now - self.fetched_at, tokens=figures["tokens"], flops=flops)
            self.fetched_at = now
            log.write(step, figures)
            line.show(step, f"loss {figures['loss']:.4f}, {figures['tokens_per_s']:,.0f} tokens/s")

    def _evaluate_if_due(self, log: MetricsLog, line: ProgressLine) -> bool:
        """Evaluates; True if the loss is the best so far and the best parameters are wanted."""
        step, settings = self.progress.step, self.settings
        last = step == settings.max_steps
        if self.evaluate is None or not (
            last or settings.evaluate_every and step % settings.evaluate_every == 0
        ):
            return False
        self._fetch(log, line, keep=0)
        began = time.monotonic()
        figures = self.evaluate(self.state.params)
        self.throughput.spent("evaluating", time.monotonic() - began)
        log.write(step, {f"validation_{name}": value for name, value in figures.items()})
        line.show(step, f"validation loss {figures['loss']:.4f}", now=True)
        self.fetched_at = time.monotonic()
        self.progress = judged(self.progress, figures["loss"])
        return bool(settings.patience) and self.progress.best_step == step

    def at_plateau(self) -> bool:
        return 0 < self.settings.patience <= self.progress.stale_evaluations

    def _save(self, log: MetricsLog, line: ProgressLine) -> None:
        """Saves this step, once; metrics are fetched first, so a state that is not finite never is."""
        self._fetch(log, line, keep=0)
        log.flush()
        self.resumable.save(self.progress.step, self.state, self.progress, keep=(self.progress.best_step,))
        self.fetched_at = time.monotonic()

    def result(self) -> nnx.State:
        """The last parameters, or with patience those of the best evaluation. The state is let go of."""
        best, last = self.progress.best_step, self.state.params
        del self.state
        if not self.settings.patience or best == self.progress.step:
            return last
        del last
        checkpoints = self.resumable.checkpoints
        checkpoints.wait()
        barrier(f"result {checkpoints.directory}")
        return checkpoints.restore(best, {"params": self.like.params})["params"]
