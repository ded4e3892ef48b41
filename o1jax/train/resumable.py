"""What makes a training run one that may be killed: it saves, stops in order, and goes on to the same curve.

Both trainers run on it, train/loop.py and rl/policy_rl.py. Knows no batch, no loss and no metric; what a
checkpoint is on disk, checkpoint.py says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import optax
from etils import epath
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from o1jax.parallel.processes import agreed
from o1jax.records import InputError
from o1jax.train.checkpoint import Checkpoints
from o1jax.train.step import TrainState, init_state

LONG_SAVE_S = 10.0  # a third of the grace that schedulers give between SIGTERM and SIGKILL
Progress = TypeVar("Progress")  # a frozen dataclass of plain numbers: where a run stands


class Preempted(SystemExit):
    """SIGTERM or Ctrl-C came and the state is saved. Uncaught, it ends the process with status 143."""

    def __init__(self):
        super().__init__(143)


@dataclasses.dataclass
class Resumable:
    """The checkpoints of one run, when they are due, and the signals that end it early."""

    checkpoints: Checkpoints
    sigterm: threading.Event
    identity: Mapping[str, Any]  # all that decides the curve, as JSON: a checkpoint of another is refused
    every: int  # steps from one checkpoint to the next; 0: by the clock alone
    every_s: float  # seconds, by the first process's clock; 0: by steps alone
    agree_every: int = 1  # steps after which several processes ask that clock
    saved_at: float = dataclasses.field(default_factory=time.monotonic)

    def begin(
        self,
        like: TrainState,
        progress: Progress,
        params: nnx.State,
        optimizer: optax.GradientTransformation,
        mesh: Mesh,
    ) -> tuple[TrainState, Progress]:
        """The latest checkpoint's state, as `like` lies, and its progress; or `progress` and step 0 of
        training `params`. Those are deleted: nobody holds a second copy during the run. InputError if the
        directory is another run's, or damaged."""
        fresh = self.checkpoints.latest is None
        state = init_state(params, optimizer, mesh) if fresh else None
        if state is not None and like.average is not None:
            state = dataclasses.replace(state, average=jax.tree.map(jnp.copy, state.params))
        for leaf in jax.tree.leaves(params):  # before a checkpoint's state takes as much room again
            leaf.delete()
        return (state, progress) if fresh else self._restored(like, type(progress))

    def _restored(self, like: TrainState, progress: type[Progress]) -> tuple[TrainState, Progress]:
        steps = self.checkpoints.steps()
        meta = self.checkpoints.meta(steps[-1])
        if meta["identity"] != self.identity:
            changed = [name for name in self.identity if meta["identity"].get(name) != self.identity[name]]
            raise InputError(
                f"{self.checkpoints.directory} holds a run of other settings or data "
                f"({', '.join(changed)}); use another directory, or delete that one"
            )
        items = self.checkpoints.restore(steps[-1], items_of(like))
        state = TrainState(items["params"], *items["optimizer"], items.get("average"))
        return state, progress(**meta["progress"])

    def save(self, step: int, state: TrainState, progress: Any, keep: tuple[int, ...] = ()) -> None:
        """Begins to save the state after `step`, once; `keep`: earlier steps that are still needed."""
        if step != self.checkpoints.latest:
            meta = {"progress": dataclasses.asdict(progress), "identity": self.identity}
            self.checkpoints.save(step, items_of(state), meta, keep)
        self.saved_at = time.monotonic()

    def between_steps(self, step: int, save: Callable[[], None], *, wanted: bool = False) -> None:
        """To be called after every step, by all processes: calls `save` if it is due, or `wanted`; where a
        signal came, saves and raises Preempted."""
        if self._preempted(step):
            self.stop(save)
        if wanted or self._is_due(step):
            save()
        self.checkpoints.settle()

    def stop(self, save: Callable[[], None]) -> NoReturn:
        """Saves, and ends the process in order. Where a save is under way that takes LONG_SAVE_S yet, it does
        alone: a second one would not end before the grace is over."""
        began = time.monotonic()
        self.checkpoints.wait()
        if not agreed(time.monotonic() - began > LONG_SAVE_S):
            save()
            self.checkpoints.wait()
        raise Preempted()

    def _preempted(self, step: int) -> bool:
        # Several processes must stop after the same step, or the others would wait for ever in the next
        # step's collectives: JAX's coordinator finds the step that all of them reach.
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.sigterm.is_set()

    def _is_due(self, step: int) -> bool:
        by_clock = bool(self.every_s) and time.monotonic() - self.saved_at >= self.every_s
        # On a disk slower than the clock a save would wait for the last one, and training with it.
        by_clock = by_clock and not self.checkpoints.pending
        by_clock = step % self.agree_every == 0 and agreed(by_clock) if jax.process_count() > 1 else by_clock
        return by_clock or bool(self.every and step % self.every == 0)


@contextlib.contextmanager
def open_resumable(
    directory: epath.PathLike, identity: Mapping[str, Any], **due: float
) -> Iterator[Resumable]:
    """A Resumable on directory/checkpoints; `due`: its every, every_s and agree_every. Within it signals wait
    for the end of a step; leaving it waits until the last checkpoint is whole."""
    with Checkpoints(epath.Path(directory) / "checkpoints") as checkpoints, sigterm_noted() as sigterm:
        yield Resumable(checkpoints, sigterm, identity, **due)


@contextlib.contextmanager
def sigterm_noted() -> Iterator[threading.Event]:
    """An event that SIGTERM, or a first Ctrl-C, sets instead of ending the process; only the main thread can
    note it."""
    noted = threading.Event()
    # Of several processes none notes it: a handler here would take the place of JAX's own, which
    # jax.distributed installed, and reached_preemption_sync_point would never hear of the signal.
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(number: int, frame: object) -> None:
        noted.set()
        signal.signal(number, before[number])  # the second one ends the process: who asks twice won't wait

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    # A shell's background job ignores Ctrl-C, and so does this; None is a handler that Python did not set.
    before = {n: handler for n, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def items_of(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds: `params` can be restored without `optimizer`."""
    items = {"params": state.params, "optimizer": (state.opt_state, state.step)}
    return items if state.average is None else items | {"average": state.average}
