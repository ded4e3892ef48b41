"""Signs of life: how processes of one stage learn that another was killed.

Each process rewrites beats/beat.<index> in the stage's directory every few seconds, with who it is and a
count. Who looks on sees, by its own clock alone, for how long the count has stood still: clocks of hosts are
never compared. A count that stood still for LOST_S makes that process lost, and beats/lost.<index> says so to
all. Process 0 looks at all others, and they at process 0; where the first are lost, the next one looks at
all. So 256 processes read 511 small files in a round, not 65,000.

A loss is known within LOST_S and three rounds, and what the file system's cache adds. A process that was
killed before this one began looks like one that has yet to begin. Knows nothing of what is waited for
(together.py), nor of shares (leases.py).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import threading
import time

from etils import epath

from o1jax.parallel.processes import this_process
from o1jax.records import InputError
from o1jax.writing import write_whole

# Seconds without a sign after which a process is lost. Longer where a file system or a host may stand still
# for a minute: O1JAX_LOST_S.
LOST_S = float(os.environ.get("O1JAX_LOST_S", "60"))
ROUND_S = LOST_S / 6
# Exit code of a process that ends because another one is gone: "try again" in sysexits.h, so that a scheduler
# can tell it from wrong input (2). The same command goes on from what is written.
TRY_AGAIN = 75


class OtherFailed(InputError):
    """Another process failed; the line says which one, and why."""


class PeerLost(OtherFailed):
    """Another process was killed, or its host is gone; the line says which one."""


class Beats(threading.Thread):
    """This process's own signs, and its look at the others', until `stop`."""

    def __init__(self, out: epath.Path):
        super().__init__(name="beats", daemon=True)
        self.directory = out / "beats"
        self.index, self.count, _ = this_process()
        self.owner = f"{self.index}@{socket.gethostname()}:{os.getpid()}:{time.time_ns()}"
        # Set by a process of one JAX program, from before it joins the others: a loss ends it, wherever it
        # stands.
        self.ends_with_others = threading.Event()
        self._ended, self._rounds = threading.Event(), 0
        # Of each other process: what its file said, when that was new, and whether it ever changed since.
        self._seen: dict[int, tuple[str, float, bool]] = {}
        self._loss = ""  # the line of the first that this process knows to be lost
        self._begin_or_wake()
        self._began_at = (self.directory / f"beat.{self.index}").stat().mtime  # by the file system's clock

    def run(self) -> None:
        while not self._ended.wait(ROUND_S):
            # A disk that is away for a moment must not end the signs: the next round tries again.
            with contextlib.suppress(OSError, InputError):
                self._begin_or_wake()
                self._look()

    def stop(self) -> None:
        """Ends the signs: this process is done, and not lost."""
        self._ended.set()
        self.join()
        with contextlib.suppress(OSError):
            (self.directory / f"beat.{self.index}").unlink(missing_ok=True)

    def loss_within(self, seconds: float) -> str:
        """The line of the process that is found to be lost within so long; "" for none."""
        end = time.monotonic() + seconds
        while not self._loss and time.monotonic() < end:
            time.sleep(ROUND_S / 4)
        return self._loss

    def _begin_or_wake(self) -> None:
        """A sign of life; an earlier word of a loss, of this try or one before, is no longer true."""
        self._beat()
        (self.directory / f"lost.{self.index}").unlink(missing_ok=True)

    def _beat(self) -> None:
        self._rounds += 1
        write_whole(self.directory / f"beat.{self.index}", f"{self.owner} {self._rounds} {self._loss}")

    def _look(self) -> None:
        for other in range(self.count):
            if other != self.index and self._is_alive(other) and other < self.index:
                break  # it looks at all those behind it, and says which are lost
        if self._loss and self.ends_with_others.is_set():
            self._beat()  # where the others read it
            # The main thread may hang in a collective from which nothing but the end frees it.
            print(f"error: {self._loss}", file=sys.stderr, flush=True)
            os._exit(TRY_AGAIN)

    def _is_alive(self, other: int) -> bool:
        path, now = self.directory / f"beat.{other}", time.monotonic()
        content = read(path)
        if other not in self._seen:
            self._seen[other] = (content, now, bool(content) and path.stat().mtime >= self._began_at)
        before, since, changed = self._seen[other]
        if content != before:
            before, since, changed = content, now, True
        self._seen[other] = (before, since, changed)
        if not content:  # it has not begun, or has ended by itself
            failed = read(self.directory.parent / f"failed.{other}") if changed else ""
            if failed and now - since > LOST_S:  # so long for this process to end by itself, and in order
                self._loss = self._loss or f"process {other} failed: {failed}"
            return False
        owner, _, loss = content.split(" ", 2)
        if now - since <= LOST_S:
            if changed and self.ends_with_others.is_set():
                self._loss = self._loss or loss
            return True
        if changed:
            self._loss = self._loss or line_of(owner)
            if read(lost := self.directory / f"lost.{other}") != line_of(owner):
                write_whole(lost, line_of(owner))
        else:
            # Left by an earlier try: its process is not lost but has yet to begin. What it held is free.
            path.unlink(missing_ok=True)
        return False


def line_of(owner: str) -> str:
    """What is said of a lost process, which named itself so."""
    index, _, where = owner.partition("@")
    host, pid = where.split(":")[:2]
    seen = f"process {index} was lost: no sign of life for {LOST_S:g} s from pid {pid} on {host}"
    return f"{seen}; the same command goes on from what is written"


def read(path: epath.Path) -> str:
    """A small file's text; "" where there is none."""
    # Opened, not asked for its time of change: NFS answers that from a cache, but asks anew at each open. One
    # that is replaced while it is read may be a stale handle there; the next open finds the new one.
    for again in (True, True, False):
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        except OSError as error:
            if error.errno != errno.ESTALE or not again:
                raise
    return ""


def owner_now(out: epath.Path, index: int) -> str:
    """How process `index` names itself now; "" where it has not begun, has ended or is lost."""
    if (out / "beats" / f"lost.{index}").exists():
        return ""
    return read(out / "beats" / f"beat.{index}").partition(" ")[0]


def leads(out: epath.Path) -> bool:
    """Whether this process is the first of those that are alive."""
    return not any(owner_now(out, other) for other in range(this_process().index))
