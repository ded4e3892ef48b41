"""The one training loop: step, log, evaluate, save, stop; resumed to the same curve, bit for bit.

What a stage calls is `fit`. Knows no objective and no model; does not write the policy directory.
Metrics are fetched two steps late, so that the device never waits for the host.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
from etils import epath
from flax import nnx
from jax.sharding import Mesh

from o1jax.batches.stream import Batches
from o1jax.model.init import NO_PARAMS
from o1jax.parallel.mesh import OwnRows, own_rows, place_batch
from o1jax.parallel.processes import agreed, barrier, is_leader
from o1jax.train.checkpoint import Checkpoints
from o1jax.train.metrics import MetricsLog, ProgressLine
from o1jax.train.objectives import Objective
from o1jax.train.optimizer import OptimizerSettings, make_optimizer, make_schedule
from o1jax.train.preemption import Preempted, preempted, sigterm_noted
from o1jax.train.progress import FitSettings, Progress, check, identity_of, judged, refuse_other
from o1jax.train.state import TrainState, abstract_state, init_state, struct
from o1jax.train.step import make_train_step

LAG = 2  # steps between dispatch and fetching metrics
AGREE_EVERY = 16  # steps; asking the first process waits for the device
Evaluate = Callable[[nnx.State], Mapping[str, float]]


class NonFiniteLoss(FloatingPointError):
    """The loss or the gradient is NaN or infinite: the message names the step and its examples."""


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A finished run: parameters (the best ones with patience, else the last), and how it went."""

    params: nnx.State
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
    `evaluate` maps parameters to figures, of which `loss` decides (step.validation makes one); it
    runs every `evaluate_every` steps and after the last, and may use the parameters only until it
    returns: the next step takes their buffers. Raises NonFiniteLoss, Preempted, and
    InputError if `directory` is damaged or of another run.
    """
    check(settings, evaluates=evaluate is not None)
    began = time.monotonic()
    with Checkpoints(epath.Path(directory) / "checkpoints") as checkpoints, sigterm_noted() as sigterm:
        run = Run(
            checkpoints, graphdef, params, objective, batches, optimizer, settings, mesh, evaluate, frozen
        )
        with MetricsLog(directory, run.progress.step, writes=is_leader()) as log:
            line = ProgressLine(title, settings.max_steps, writes=is_leader())
            run.until_done(log, line, sigterm)
        stopped = "plateau" if run.at_plateau() else "max_steps"
        return Fitted(run.result(), run.progress, stopped, time.monotonic() - began)


class Run:
    """The state of one fit: the train state, the progress, and metrics still on the device."""

    def __init__(
        self, checkpoints, graphdef, params, objective, batches, optimizer, settings, mesh, evaluate, frozen
    ):
        self.checkpoints, self.batches, self.settings, self.mesh = checkpoints, batches, settings, mesh
        self.evaluate = evaluate
        self.frozen = (frozen,) if frozen else ()
        self.identity = identity_of(batches, optimizer, settings)
        transformation = make_optimizer(optimizer)
        shapes = jax.tree.map(lambda leaf: struct(leaf, leaf.sharding), params)
        self.like = abstract_state(shapes, transformation, mesh)
        self.state, self.progress = self._begin(params, transformation)
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
        self.pending: collections.deque[tuple[int, Mapping[str, jax.Array]]] = collections.deque()
        self.saved_at = time.monotonic()
        self.fetched_at = time.monotonic()

    def _begin(self, params: nnx.State, transformation) -> tuple[TrainState, Progress]:
        """The latest checkpoint's state, or step 0; the parameters are let go of."""
        steps = self.checkpoints.steps()
        state = None if steps else init_state(params, transformation, self.mesh)
        for leaf in jax.tree.leaves(params):
            leaf.delete()
        if state is not None:
            return state, Progress()
        meta = self.checkpoints.meta(steps[-1])
        refuse_other(self.checkpoints.directory, meta["identity"], self.identity)
        items = self.checkpoints.restore(steps[-1], items_of(self.like))
        return TrainState(items["params"], *items["optimizer"]), Progress(**meta["progress"])

    def until_done(self, log: MetricsLog, line: ProgressLine, sigterm: threading.Event) -> None:
        """Steps until max_steps or the plateau; Preempted after saving if SIGTERM came."""
        own = own_rows(self.batches.rows_per_batch, self.mesh)
        while self.progress.step < self.settings.max_steps and not self.at_plateau():
            self._advance(own)
            self._fetch(log, line, keep=LAG)
            improved = self._evaluate_if_due(log, line)
            if preempted(self.progress.step, sigterm):
                self._save(log, line)
                self.checkpoints.wait()
                raise Preempted()
            if improved or self._save_is_due():
                self._save(log, line)
            self.checkpoints.settle()
        self._save(log, line)
        line.show(self.progress.step, "done", now=True)

    def _advance(self, own: OwnRows) -> None:
        """Dispatches one step."""
        step = self.progress.step
        batch = place_batch(self.batches.at(step, own.indices), self.mesh, own)
        self.state, metrics = self.step(self.state, batch, *self.frozen)
        tokens = self.progress.tokens + self.batches.tokens_at(step)
        self.progress = dataclasses.replace(self.progress, step=step + 1, tokens=tokens)
        self.pending.append((step + 1, metrics))

    def _fetch(self, log: MetricsLog, line: ProgressLine, keep: int) -> None:
        """Logs all pending metrics but the latest `keep`; NonFiniteLoss if one is not finite."""
        while len(self.pending) > keep:
            step, metrics = self.pending.popleft()
            figures = {name: float(value) for name, value in jax.device_get(metrics).items()}
            if not math.isfinite(figures["loss"]) or not math.isfinite(figures["grad_norm"]):
                raise NonFiniteLoss(describe_non_finite(step, figures, self.batches.ids_at(step - 1)))
            now = time.monotonic()
            figures["tokens_per_s"] = figures["tokens"] / (now - self.fetched_at)
            self.fetched_at = now
            if step % self.settings.log_every == 0:
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
        figures = self.evaluate(self.state.params)
        log.write(step, {f"validation_{name}": value for name, value in figures.items()})
        line.show(step, f"validation loss {figures['loss']:.4f}", now=True)
        self.fetched_at = time.monotonic()
        self.progress = judged(self.progress, figures["loss"], settings.min_improvement)
        return bool(settings.patience) and self.progress.best_step == step

    def at_plateau(self) -> bool:
        return 0 < self.settings.patience <= self.progress.stale_evaluations

    def _save_is_due(self) -> bool:
        every, seconds = self.settings.checkpoint_every, self.settings.checkpoint_every_s
        by_step = every and self.progress.step % every == 0
        by_clock = bool(seconds) and time.monotonic() - self.saved_at >= seconds
        by_clock = by_clock and not self.checkpoints.pending  # else saving would wait for a slow disk
        if jax.process_count() > 1:
            by_clock = self.progress.step % AGREE_EVERY == 0 and agreed(by_clock)
        return bool(by_step or by_clock)

    def _save(self, log: MetricsLog, line: ProgressLine) -> None:
        """Saves this step, once; metrics are fetched first, so a state that is not finite never is."""
        self._fetch(log, line, keep=0)
        if self.progress.step != self.checkpoints.latest:
            meta = {"progress": dataclasses.asdict(self.progress), "identity": self.identity}
            self.checkpoints.save(
                self.progress.step, items_of(self.state), meta, keep=(self.progress.best_step,)
            )
        self.saved_at = time.monotonic()
        self.fetched_at = time.monotonic()

    def result(self) -> nnx.State:
        """The last parameters, or with patience those of the best evaluation. The state is let go of."""
        best, last = self.progress.best_step, self.state.params
        del self.state
        if not self.settings.patience or best == self.progress.step:
            return last
        del last
        self.checkpoints.wait()
        barrier(f"result {self.checkpoints.directory}")  # the first process seals
        return self.checkpoints.restore(best, {"params": self.like.params})["params"]


def items_of(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds: `params` can be restored without `optimizer`."""
    return {"params": state.params, "optimizer": (state.opt_state, state.step)}


def describe_non_finite(step: int, figures: Mapping[str, float], ids: list[str]) -> str:
    """One line with the step, the figures and the examples of its batch."""
    shown = ", ".join(ids[:16]) + (f" and {len(ids) - 16} more" if len(ids) > 16 else "")
    return f"step {step}: loss {figures['loss']}, gradient norm {figures['grad_norm']}; its examples: {shown}"
