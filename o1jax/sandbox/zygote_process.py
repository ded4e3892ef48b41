"""The supervisor's end of one warm parent: start it, hand it a job, read its records, kill it.

Nothing here blocks the event loop and no thread is started. The warm parent dies with the thread that
started it (the kernel's rule), so that is the event loop's. What a record means is verdicts.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable

from o1jax.sandbox.cgroup import Cgroup
from o1jax.sandbox.interface import SandboxError
from o1jax.sandbox.jail import kernel

SCRIPT = pathlib.Path(__file__).parent / "jail" / "zygote.py"
START_S = 300.0  # generous: a loaded machine is no failure
FIRST_UID = 0x70000000  # and the process's number: users that own nothing, one a living slot
ANSWER = struct.Struct("<ii")  # as in jail/zygote.py


class ZygoteDied(SandboxError):
    """The warm parent, or the process of the program, is gone or stuck: an infrastructure failure."""


@dataclasses.dataclass(frozen=True)
class Isolation:
    """How a slot is to be jailed."""

    highest: str = "T2"  # the tier to try for: T0, T1 or T2 (jail/isolation.py)
    packages: tuple[str, ...] = ()  # imported beforehand from this interpreter's path, for programs to use


class Zygote:
    """One warm parent process. Start it with `await Zygote.start(...)`."""

    def __init__(self, process: subprocess.Popen, control: socket.socket, log: int):
        self._process, self._control, self._log = process, control, log
        self._busy = self._dead = False
        self._jobs = 0
        self.isolation, self.sealed = "", False
        self.names: list[str] = []
        self.missing: dict[str, str] = {}
        self.executions = 0

    @classmethod
    async def start(cls, wanted: Isolation, cgroup: Cgroup | str = "") -> Zygote:
        """A jailed, warm interpreter that has said hello. `cgroup` is its own, or why it has none. Raises
        ZygoteDied where it cannot start."""
        try:
            zygote = cls(*_launched())
        except OSError as error:
            raise ZygoteDied(f"a sandbox process could not be started: {error!r}") from error
        try:
            await zygote._greet(wanted, cgroup)
        except BaseException:
            await zygote.kill()
            raise
        return zygote

    async def _greet(self, wanted: Isolation, cgroup: Cgroup | str) -> None:
        joined = isinstance(cgroup, Cgroup)
        try:
            if joined:
                cgroup.join(self._process.pid)
            told = {
                "highest": wanted.highest,
                "packages": wanted.packages,
                "path": [path for path in sys.path if path] if wanted.packages else [],
                "uid": FIRST_UID + self._process.pid if os.geteuid() == 0 else 0,
                "cgroup": "joined" if joined else cgroup,
            }
            self._control.send(json.dumps(told).encode())
        except OSError as error:
            raise ZygoteDied(f"a sandbox process could not be told how to start: {error!r}") from error
        try:
            hello = asyncio.get_running_loop().sock_recv(self._control, 1 << 16)
            data = await asyncio.wait_for(hello, START_S)
        except (TimeoutError, OSError) as error:
            raise ZygoteDied(f"a sandbox process did not start: {error!r}") from error
        if not data:
            raise ZygoteDied(f"a sandbox process died at its start: {self._complaint()}")
        said = json.loads(data)
        self.sealed, self.missing, self.names = said["sealed"], said["missing"], said["names"]
        self.isolation = f"{said['tier']} ({' '.join(self.names)})"

    @contextlib.asynccontextmanager
    async def run(
        self, payload: Iterable[bytes], checks: bytes, deadline_s: float
    ) -> AsyncIterator[tuple[int, int]]:
        """Runs one job: (wait status of the program's process, the file of its records, open meanwhile).
        `checks` is for its checker alone. Raises ZygoteDied."""
        files: list[int] = []
        try:
            yield await self._run(payload, checks, deadline_s, files), files[1]
        finally:
            for file in files:
                os.close(file)

    async def _run(self, payload: Iterable[bytes], checks: bytes, deadline_s: float, files: list[int]) -> int:
        self._busy = True
        try:
            for data in (payload, (), (checks,)):  # the second is for the records
                files.append(os.memfd_create("job", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
                with open(files[-1], "wb", closefd=False) as file:
                    file.writelines(data)
            kernel.seal(files[0], kernel.READ_ONLY)  # an execution of functions reads its inputs there
            socket.send_fds(self._control, [b"J"], files)
            async with asyncio.timeout(deadline_s):
                return await self._answer()
        except (OSError, TimeoutError) as error:
            raise ZygoteDied(repr(error)) from error
        finally:
            self._busy = False
            if self._dead:
                self._control.close()

    async def _answer(self) -> int:
        """The wait status of the program's process."""
        number, self._jobs = self._jobs, self._jobs + 1
        while data := await asyncio.get_running_loop().sock_recv(self._control, ANSWER.size):
            job, status = ANSWER.unpack(data)
            if job == number:  # a process that dies after its answer makes another one
                return status
        raise ZygoteDied(f"the warm parent died {self._complaint()}")

    def _complaint(self) -> str:
        """The last line that the jail's own code wrote on its standard error, if any."""
        lines = os.pread(self._log, 1 << 16, 0).decode("utf-8", "replace").strip().splitlines()
        return " | ".join(lines[-6:]) if lines else "without a word"

    async def kill(self) -> None:
        """Kills the warm parent and all below it; returns when its process is reaped. A `run` under way
        raises ZygoteDied."""
        self._dead = True
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # its own session, hence its own group
        while self._process.poll() is None:
            await asyncio.sleep(0.002)
        os.close(self._log)
        if not self._busy:  # closed under a waiting reader, it would never wake
            self._control.close()


def _launched() -> tuple[subprocess.Popen, socket.socket, int]:
    """A new process, this end of its socket, and what it complains to. Raises OSError, with nothing open."""
    # Not -I, which would ignore PYTHONHASHSEED: -s and -P are the rest of it, and the
    # environment holds nothing else (the loader's path is needed where Python is a shared library).
    command = [sys.executable, "-s", "-P", "-S", "-B", "-W", "ignore", "-X", "utf8", str(SCRIPT)]
    environment = {
        "PYTHONHASHSEED": "0",
        "LD_BIND_NOW": "1",  # what is bound at its first use would be bound again by every fork
        "OPENBLAS_NUM_THREADS": "1",  # only one thread may fork
        "MALLOC_ARENA_MAX": "1",  # 64 MiB of address space for every thread's own is most of a limit
    }
    if "LD_LIBRARY_PATH" in os.environ:
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    with contextlib.ExitStack() as undo:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(ours.close)
        ours.setblocking(False)
        with theirs:
            log = os.memfd_create("log", os.MFD_CLOEXEC)
            undo.callback(os.close, log)
            process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=[theirs.fileno()],
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        undo.pop_all()
    return process, ours, log
