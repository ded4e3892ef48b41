"""SIGTERM: noted, answered between two steps, by all processes after the same one.

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
    """SIGTERM came and the state is saved. Uncaught, it ends the process with status 143."""

    def __init__(self):
        super().__init__(143)


@contextlib.contextmanager
def sigterm_noted() -> Iterator[threading.Event]:
    """An event that SIGTERM sets instead of ending the process; only the main thread can note it."""
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = signal.signal(signal.SIGTERM, lambda *_: noted.set())
    try:
        yield noted
    finally:
        signal.signal(signal.SIGTERM, before)


def preempted(step: int, sigterm: threading.Event) -> bool:
    """Whether to stop after this step; several processes agree on it through JAX's coordinator."""
    if jax.process_count() > 1:
        return multihost_utils.reached_preemption_sync_point(step)
    return sigterm.is_set()
