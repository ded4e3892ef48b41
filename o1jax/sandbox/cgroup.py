"""A cgroup (version 2) for a slot: one cap on the processes and the memory of everything in it.

Made by the supervisor, kept while the slot lives, removed with it. Needs the right to write below the
supervisor's own cgroup, and the controllers for memory and processes there.
"""

from __future__ import annotations

import errno
import itertools
import os
import pathlib

CONTROLLERS = ("memory", "pids")
MOST_PROCESSES = 256
SPARE_MB = 256  # beyond one execution's memory: its parents, and what it prints
PREFIX = "o1jax-"


def own_cgroup() -> pathlib.Path:
    """The directory of this process's cgroup. Raises OSError where no cgroup2 is mounted."""
    mounts = (
        line.split() for line in pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    )
    points = [fields[4] for fields in mounts if fields[fields.index("-") + 1] == "cgroup2"]
    lines = pathlib.Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    names = [line.removeprefix("0::") for line in lines if line.startswith("0::")]
    if not points or not names:
        raise OSError(errno.ENOENT, "no cgroup2 is mounted")
    return pathlib.Path(points[0] + names[0])


class Cgroup:
    """One slot's. `Cgroup(parent)` makes a directory of its own; raises OSError where the kernel refuses."""

    def __init__(self, parent: pathlib.Path):
        there = (parent / "cgroup.controllers").read_text(encoding="utf-8").split()
        if not set(CONTROLLERS) <= set(there):
            raise OSError(errno.ENOTSUP, f"{parent} controls {there}, not {' and '.join(CONTROLLERS)}")
        for path in parent.glob(f"{PREFIX}*-*"):  # directories of supervisors that are no more
            if not pathlib.Path(f"/proc/{path.name.split('-')[1]}").exists():
                _remove(path)
        (parent / "cgroup.subtree_control").write_text(
            " ".join(f"+{name}" for name in CONTROLLERS), encoding="utf-8"
        )
        # The first of this process's that is not there: its other slots and judges have theirs.
        paths = (parent / f"{PREFIX}{os.getpid()}-{number}" for number in itertools.count())
        self._path = next(path for path in paths if not path.exists())
        self._path.mkdir()
        self._memory_mb = 0
        (self._path / "pids.max").write_text(str(MOST_PROCESSES), encoding="utf-8")

    def join(self, pid: int) -> None:
        """Moves a process here; what it forks stays here."""
        (self._path / "cgroup.procs").write_text(str(pid), encoding="utf-8")

    def cap(self, memory_mb: int) -> None:
        """Caps the memory of all processes together at that of one execution and SPARE_MB."""
        if memory_mb != self._memory_mb:
            (self._path / "memory.max").write_text(str((memory_mb + SPARE_MB) << 20), encoding="utf-8")
            self._memory_mb = memory_mb

    def remove(self) -> None:
        """Removes the directory; a process not yet reaped keeps it, for the next start to remove."""
        _remove(self._path)


def _remove(path: pathlib.Path) -> None:
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOENT):
            raise
