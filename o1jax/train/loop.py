"""The one training loop: step, log, evaluate, save, stop; resumed to the same curve, bit for bit.

What a stage calls is `fit`. Knows no objective and no model; does not write the policy directory.
Metrics are fetched two steps late, so that the device never waits for the host.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import jax
from etils import epath
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from o1jax.batches.stream import Batches
from o1jax.model.init import NO_PARAMS
from o1jax.parallel.mesh import OwnRows, own_rows, place_batch
from o1jax.parallel.processes import agreed, barrier, is_leader
from o1jax.records import InputError
from o1jax.train.checkpoint import Checkpoints
from o1jax.train.metrics import MetricsLog, ProgressLine
from o1jax.train.objectives import Objective
from o1jax.train.optimizer import OptimizerSettings, make_optimizer, make_schedule
from o1jax.train.step import TrainState, abstract_state, init_state, make_train_step, struct

# SIGTERM and Ctrl-C: noted, answered between two steps; SIGTERM by all processes after the same one.
#
# Saves nothing itself; loop.py does.


class Preempted(SystemExit):
    """SIGTERM or Ctrl-C came and the state is saved. Uncaught, it ends the process with status 143."""

    def __init__(self):
        super().__init__(143)


@contextlib.contextmanager
def sigterm_noted() -> Iterator[threading.Event]:
    """An event that SIGTERM, or a first Ctrl-C, sets instead of ending the process; only the main thread can
    note it.

    Of several processes none sets it: a handler here would take the place of JAX's own, which
    jax.distributed installed, and `preempted` would never hear of the signal.
    """
    noted = threading.Event()
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(number: int, frame: object) -> None:
        noted.set()
        signal.signal(number, before[number])

    found = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    before = {number: handler for number, handler in found.items() if handler not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def preempted(step: int, sigterm: threading.Event) -> bool:
    """Whether to stop after this step; several processes agree on it through JAX's coordinator."""
    if jax.process_count() > 1:
        return multihost_utils.reached_preemption_sync_point(step)
    return sigterm.is_set()


# The settings of a fit, where it stands, and what makes it this run and not another.
#
# Plain numbers, that go into a checkpoint's meta as JSON; knows no devices and no files.


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """`patience` evaluations without a loss lower by `min_improvement` end the run, and the best
    parameters are the result; 0 runs to `max_steps`, and the last ones are. Checkpoints come every
    `checkpoint_every` steps and `checkpoint_every_s` seconds (0: never); of several processes, the first
    one's clock counts, and is asked every AGREE_EVERY steps."""

    max_steps: int
    evaluate_every: int = 0
    patience: int = 0
    min_improvement: float = 0.0
    checkpoint_every: int = 0
    checkpoint_every_s: float = 120.0
    log_every: int = 1
    micro_batches: int = 1


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands; saved with every checkpoint. `tokens` counts all but padding."""

    step: int = 0
    tokens: int = 0
    best_step: int = 0
    best_loss: float | None = None
    stale_evaluations: int = 0


def check(settings: FitSettings, *, evaluates: bool) -> None:
    """InputError for settings that ask for what cannot be."""
    if settings.patience and not (evaluates and settings.evaluate_every):
        raise InputError(
            f"patience {settings.patience} needs evaluate and evaluate_every; give both, or patience 0"
        )


def judged(progress: Progress, loss: float, min_improvement: float) -> Progress:
    """The progress after an evaluation with this loss."""
    if progress.best_loss is None or loss < progress.best_loss - min_improvement:
        return dataclasses.replace(progress, best_step=progress.step, best_loss=loss, stale_evaluations=0)
    return dataclasses.replace(progress, stale_evaluations=progress.stale_evaluations + 1)


def identity_of(batches: Batches, optimizer: OptimizerSettings, settings: FitSettings) -> dict[str, Any]:
    """What a checkpoint must have in common with the run that resumes it, as JSON: optimizer, data, and the
    settings that decide the curve. Not the objective, the model's config or the parameters begun with: who
    calls gives the same ones in the same directory."""
    names = ("evaluate_every", "patience", "min_improvement", "micro_batches")
    return {
        "optimizer": dataclasses.asdict(optimizer),
        "data": batches.digest(),
        **{name: getattr(settings, name) for name in names},
    }


def refuse_other(directory: epath.PathLike, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """InputError unless a directory's checkpoint, of identity `old`, is of this run."""
    if old != new:
        raise InputError(
            f"{directory} holds a run of other settings or data ({changed(old, new)}); "
            "use another directory, or delete that one"
        )


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The names under which two identities differ."""
    return ", ".join(name for name in new if old.get(name) != new[name])


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
