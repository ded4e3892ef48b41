"""SIGTERM and Ctrl-C: noted, answered between two steps; SIGTERM by all processes after the same one.

Saves nothing itself; loop.py does.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils


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
