"""One thread owns a device: coroutines hand in items and await their futures, the thread takes turns.

Knows nothing of what a turn does: serving_thread.py turns an engine's scheduler, rewards/process.py scores.
"""

from __future__ import annotations

import asyncio
import atexit
import collections
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar


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
