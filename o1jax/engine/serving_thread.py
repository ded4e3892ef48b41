"""One thread owns a scheduler and its device: coroutines hand in requests and weights, and await futures.

The thread takes what is queued and turns the scheduler; weights wait until it is idle. Knows nothing of
what a scheduler does in a turn.
"""

from __future__ import annotations

import asyncio
import atexit
import collections
import concurrent.futures
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from o1jax.engine.interface import Completion
from o1jax.engine.jobs import Job
from o1jax.records import InputError


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

    def __init__(self, name: str, scheduler: Turning, swap: Callable[[Any, int], None]):
        self._scheduler, self._swap = scheduler, swap
        self._inbox: collections.deque[Job | Load] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()
        atexit.register(self._stop)

    async def completions(self, jobs: Sequence[Job]) -> list[list[Completion]]:
        """What the jobs give, in order; RuntimeError after close, or after the thread has failed."""
        self._hand_in(jobs)
        return list(await asyncio.gather(*(asyncio.wrap_future(job.result) for job in jobs)))

    async def load(self, params: Any, version: int) -> None:
        """Returns when the weights are swapped: after all that was handed in before."""
        load = Load(params, version, concurrent.futures.Future())
        self._hand_in([load])
        await asyncio.wrap_future(load.result)

    async def close(self) -> None:
        """Ends the thread; what still runs is cancelled. Closing twice does nothing."""
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        atexit.unregister(self._stop)
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _hand_in(self, items: Sequence[Job | Load]) -> None:
        with self._changed:
            if self._failure is not None:
                raise RuntimeError(f"the engine stopped: {self._failure}") from self._failure
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._inbox.extend(items)
            self._changed.notify()

    def _serve(self) -> None:
        """The thread's whole life: take what is queued, turn the scheduler, sleep when idle."""
        with contextlib.ExitStack() as ending:
            ending.push(self._end)
            while self._take():
                if not self._scheduler.idle:
                    self._scheduler.step()

    def _take(self) -> bool:
        """Moves requests to the scheduler, up to new weights, which wait until it is idle.

        False when the engine closes. Sleeps while there is nothing to do.
        """
        with self._changed:
            while self._scheduler.idle and not self._inbox and not self._closed:
                self._changed.wait()
            while self._inbox and isinstance(self._inbox[0], Job):
                self._scheduler.add(self._inbox.popleft())
            load = self._inbox[0] if self._inbox and self._scheduler.idle else None
        if load is not None and not self._closed:
            self._load(load)
            self._inbox.popleft()  # only now: were loading to fail, its caller is still found there
        return not self._closed

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

    def _end(self, kind, failure: BaseException | None, trace) -> bool:
        """Tells everybody who waits that the thread ends: closed, or failed at `failure`."""
        with self._changed:
            self._failure = failure
            waiting = [*self._inbox, *self._scheduler.jobs()]
            self._inbox.clear()
        for item in waiting:
            if failure is None:
                item.result.cancel()
            elif item.result.set_running_or_notify_cancel():
                item.result.set_exception(failure)
        return True  # the failure is handed to the callers, those to come included
