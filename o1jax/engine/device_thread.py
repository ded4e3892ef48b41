"""One thread owns a device: coroutines hand in items and await their futures, the thread takes turns (D1).

DeviceThread turns whatever it is given, a step scorer too; serving_thread turns an engine's scheduler, which
gets requests as they come and new weights when nothing runs. Knows nothing of what a turn computes.
"""

from __future__ import annotations

import asyncio
import atexit
import collections
import concurrent.futures
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from o1jax.engine.jobs import Job
from o1jax.records import InputError


class Item(Protocol):
    """What is handed in."""

    result: concurrent.futures.Future


T = TypeVar("T", bound=Item)


class DeviceThread(Generic[T]):
    """Calls `turn` until it returns False, which it does once `closed` is set; begins with `start`.

    A turn takes from `inbox`, and waits for more, under `changed`; `running` tells what it has taken and not
    yet answered. What a turn raises ends the thread, and is raised to all who wait and to those to come.
    `owner` is who they hear has stopped.
    """

    def __init__(self, owner: str, turn: Callable[[], bool], running: Callable[[], Iterable[T]]):
        self.inbox: collections.deque[T] = collections.deque()
        self.changed = threading.Condition()
        self.closed = False
        self._owner, self._turn, self._running = owner, turn, running
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name=owner, daemon=True)

    def start(self) -> None:
        """Begins; the interpreter's end closes it."""
        self._thread.start()
        # A thread inside XLA while the interpreter is taken down aborts the process: wait for its turn.
        atexit.register(self._stop)

    async def results(self, items: Sequence[T]) -> list[Any]:
        """What the items' futures get, in order; RuntimeError after close, or after a turn has failed."""
        with self.changed:
            if self._failure is not None:
                raise RuntimeError(f"the {self._owner} stopped: {self._failure}") from self._failure
            if self.closed:
                raise RuntimeError(f"the {self._owner} is closed")
            self.inbox.extend(items)
            self.changed.notify()
        # concurrent futures, wrapped here: the thread may set them, for callers of any event loop.
        return list(await asyncio.gather(*(asyncio.wrap_future(item.result) for item in items)))

    async def close(self) -> None:
        """Ends the thread after its turn; what still waits is cancelled. Closing twice does nothing."""
        await asyncio.to_thread(
            self._stop
        )  # a turn is a block on the device: the event loop goes on meanwhile

    def _stop(self) -> None:
        atexit.unregister(self._stop)
        with self.changed:
            self.closed = True
            self.changed.notify()
        self._thread.join()

    def _serve(self) -> None:
        # As an exit callback and not `except`: whatever a turn raises, nobody may be left waiting for ever.
        with contextlib.ExitStack() as ending:
            ending.push(self._end)
            while self._turn():
                pass

    def _end(self, kind, failure: BaseException | None, trace) -> bool:
        """Answers everybody who waits when the thread ends: closed, or failed at `failure`."""
        with self.changed:
            self._failure = failure
            waiting = [*self.inbox, *self._running()]
            self.inbox.clear()
        for item in waiting:
            if failure is None:
                item.result.cancel()
            elif item.result.set_running_or_notify_cancel():
                item.result.set_exception(failure)
        return True  # the failure is handed to the callers, those to come included


class Scheduler(Protocol):
    """It holds the jobs that it was given until it has finished them, turn by turn."""

    @property
    def idle(self) -> bool: ...

    def add(self, job: Job) -> None: ...

    def step(self) -> None: ...

    def jobs(self) -> list[Job]:
        """Every job whose caller still waits, once."""
        ...


@dataclasses.dataclass(eq=False)
class Load:
    """New weights, in the queue behind the requests that still get the old ones."""

    params: Any
    version: int
    result: concurrent.futures.Future = dataclasses.field(default_factory=concurrent.futures.Future)


def serving_thread(scheduler: Scheduler, swap: Callable[[Any, int], None]) -> DeviceThread[Job | Load]:
    """A thread, started, that turns a scheduler until it is closed.

    `swap(params, version)` gives the idle scheduler new weights; an InputError of it is the caller's, any
    other failure ends the thread and is raised to all who wait.
    """

    def turn() -> bool:
        inbox = thread.inbox
        with thread.changed:
            while scheduler.idle and not inbox and not thread.closed:
                thread.changed.wait()
            # Up to new weights, which wait until all before them has finished: one version a completion (D5).
            while inbox and isinstance(inbox[0], Job):
                scheduler.add(inbox.popleft())
            load = inbox[0] if inbox and scheduler.idle else None
        if thread.closed:
            return False
        if load is not None:
            swap_for(load, swap)
            inbox.popleft()  # only now: were loading to fail, `_end` still meets its caller there
        if not scheduler.idle:
            scheduler.step()
        return True

    thread: DeviceThread[Job | Load] = DeviceThread("engine", turn, scheduler.jobs)
    thread.start()
    return thread


def swap_for(load: Load, swap: Callable[[Any, int], None]) -> None:
    """Swaps the weights, and answers the caller."""
    if load.result.cancelled():
        return
    refusal = None
    try:
        swap(load.params, load.version)
    except InputError as error:  # the caller's tree is wrong; the engine goes on with the old weights
        refusal = error
    if load.result.set_running_or_notify_cancel():
        load.result.set_result(None) if refusal is None else load.result.set_exception(refusal)
