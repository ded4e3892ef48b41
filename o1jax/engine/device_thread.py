"""One thread owns a device: coroutines hand in items and await their futures, the thread takes turns.

Knows nothing of what a turn does: serving_thread.py turns an engine's scheduler, rewards/process.py scores.
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

from o1jax.engine.interface import Completion
from o1jax.engine.jobs import Job
from o1jax.records import InputError


class Item(Protocol):
    """What is handed in."""

    result: concurrent.futures.Future


T = TypeVar("T", bound=Item)


class DeviceThread(Generic[T]):
    """After `start`, calls `turn` until it returns False, which it does once `closed` is set.

    A turn takes from `inbox`, and waits for more, under `changed`; `running` tells what it has taken and not
    yet answered. What a turn raises ends the thread and is told to all who wait, and to those to come.
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
        return list(await asyncio.gather(*(asyncio.wrap_future(item.result) for item in items)))

    async def close(self) -> None:
        """Ends the thread after its turn; what still waits is cancelled. Closing twice does nothing."""
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        atexit.unregister(self._stop)
        with self.changed:
            self.closed = True
            self.changed.notify()
        self._thread.join()

    def _serve(self) -> None:
        with contextlib.ExitStack() as ending:
            ending.push(self._end)
            while self._turn():
                pass

    def _end(self, kind, failure: BaseException | None, trace) -> bool:
        """Tells everybody who waits that the thread ends: closed, or failed at `failure`."""
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


# A scheduler in a device's thread: requests are added as they come, new weights when nothing runs.
#
# Knows nothing of what a scheduler does in a turn, and leaves futures to device_thread.py.


class Turning(Protocol):
    """A scheduler: it holds the jobs that it was given until it has finished them, turn by turn."""

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
    result: concurrent.futures.Future


class ServingThread:
    """Runs a scheduler until `close`. `swap(params, version)` gives the idle scheduler new weights; an
    InputError of it is the caller's, any other failure ends the thread and is told to all who wait."""

    def __init__(self, scheduler: Turning, swap: Callable[[Any, int], None]):
        self._scheduler, self._swap = scheduler, swap
        self._thread: DeviceThread[Job | Load] = DeviceThread("engine", self._turn, scheduler.jobs)
        self._thread.start()

    async def completions(self, jobs: Sequence[Job]) -> list[list[Completion]]:
        """What the jobs give, in order; RuntimeError after close, or after the thread has failed."""
        return await self._thread.results(jobs)

    async def load(self, params: Any, version: int) -> None:
        """Returns when the weights are swapped: after all that was handed in before."""
        await self._thread.results([Load(params, version, concurrent.futures.Future())])

    async def close(self) -> None:
        """Ends the thread; what still runs is cancelled. Closing twice does nothing."""
        await self._thread.close()

    def _turn(self) -> bool:
        """Takes what is queued and turns the scheduler once, unless it is idle."""
        if not self._take():
            return False
        if not self._scheduler.idle:
            self._scheduler.step()
        return True

    def _take(self) -> bool:
        """Moves requests to the scheduler, up to new weights, which wait until it is idle.

        False when the engine closes. Sleeps while there is nothing to do.
        """
        thread, inbox = self._thread, self._thread.inbox
        with thread.changed:
            while self._scheduler.idle and not inbox and not thread.closed:
                thread.changed.wait()
            while inbox and isinstance(inbox[0], Job):
                self._scheduler.add(inbox.popleft())
            load = inbox[0] if inbox and self._scheduler.idle else None
        if load is not None and not thread.closed:
            self._load(load)
            inbox.popleft()  # only now: were loading to fail, its caller is still found there
        return not thread.closed

    def _load(self, load: Load) -> None:
        if load.result.cancelled():
            return
        refusal = None
        try:
            self._swap(load.params, load.version)
        except InputError as error:  # the caller's tree is wrong; the engine goes on
            refusal = error
        if load.result.set_running_or_notify_cancel():
            load.result.set_result(None) if refusal is None else load.result.set_exception(refusal)
