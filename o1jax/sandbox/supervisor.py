"""A supervisor process: the slots of a wide judge, apart from the process that asks.

SupervisorProcess is the asking end: it starts the process, sends it jobs, takes its verdicts, kills it.
`serve` is the other end, which reads jobs and cancellations and answers with verdicts. Both are this
project's own, so messages are pickles; nothing of a candidate's is ever in one but its text. Neither starts a
thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import operator
import os
import pickle
import socket
import struct
import subprocess
import sys

from o1jax.records import InputError, Verdict
from o1jax.sandbox.interface import Job, JobLost, SandboxError
from o1jax.sandbox.jail import kernel
from o1jax.sandbox.slots import ATTEMPTS, PAUSES_S, Slots, SlotSettings

LENGTH = struct.Struct("<I")  # before each message, its bytes
START_S = 300.0  # generous: a loaded machine is no failure


def packed(message: object) -> bytes:
    data = pickle.dumps(message)
    return LENGTH.pack(len(data)) + data


async def read_message(reader: asyncio.StreamReader) -> object:
    """The next message. Raises asyncio.IncompleteReadError where the other end is gone."""
    (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    return pickle.loads(await reader.readexactly(size))


class SupervisorDied(JobLost):
    """The supervisor process is gone, and the jobs it had with it."""


class SupervisorProcess:
    """The slots of one supervisor process, with the methods of Slots; it is started again when it dies. A job
    whose supervisor died is asked again, three times in all."""

    def __init__(self, settings: SlotSettings):
        self.isolation = "not started"
        self.missing: dict[str, str] = {}
        self.lost = self.replaced = self.executions = 0
        self._before = (0, 0, 0)  # these counts, of the processes that are gone
        self._settings = settings
        self._closed = False
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Verdict]] = {}
        self._starting = asyncio.Lock()
        self._process: subprocess.Popen | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task | None = None

    async def start(self) -> None:
        """Starts the process and its warm parents, if they are not there. Raises SandboxError."""
        async with self._starting:
            if self._closed:
                raise SandboxError("the judge is closed")
            if self._process is None:
                await self._start()

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __package__ + ".supervisor", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                start_new_session=True,  # Ctrl-C is for the asking process, which kills this one
            )
        reader, self._writer = await asyncio.open_connection(sock=ours)
        try:
            self._writer.write(packed(self._settings))
            failure, self.isolation, self.missing = await asyncio.wait_for(read_message(reader), START_S)
            if failure is not None:
                raise failure
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            await self._end()
            raise SupervisorDied(f"a supervisor process did not start: {error!r}") from error
        except BaseException:
            await self._end()
            raise
        self._reading = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Hands verdicts to those who wait, until the process is gone."""
        try:
            while True:
                number, answer, counts = await read_message(reader)
                self.lost, self.replaced, self.executions = map(operator.add, self._before, counts)
                waiting = self._waiting.pop(number, None)
                if waiting is None or waiting.done():  # cancelled while its verdict was on the way
                    continue
                if isinstance(answer, Exception):
                    waiting.set_exception(answer)
                else:
                    waiting.set_result(answer)
        except (OSError, asyncio.IncompleteReadError):
            self._reading = None
            await self._end()

    async def judge(self, job: Job) -> Verdict:
        """As Slots.judge."""
        for attempt in range(ATTEMPTS):
            try:
                return await self._ask(job)
            except SupervisorDied:
                if self._closed:
                    raise SandboxError("the judge is closed") from None
                if attempt == ATTEMPTS - 1:
                    raise
            await asyncio.sleep(PAUSES_S[attempt])
        raise AssertionError("unreachable")

    async def _ask(self, job: Job) -> Verdict:
        await self.start()
        number = next(self._numbers)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(packed((number, job)))
            await self._writer.drain()
            return await waiting
        except OSError as error:
            raise SupervisorDied(repr(error)) from error
        except asyncio.CancelledError:
            if self._writer is not None:
                self._writer.write(packed((number, None)))
            raise
        finally:
            self._waiting.pop(number, None)
            if waiting.done() and not waiting.cancelled():
                waiting.exception()  # seen: it may have come while this failed, or was cancelled

    async def close(self) -> None:
        """Kills the process, and by that its warm parents; jobs under way raise SandboxError."""
        self._closed = True
        async with self._starting:
            await self._end()

    async def _end(self) -> None:
        process, self._process = self._process, None
        writer, self._writer = self._writer, None
        reading, self._reading = self._reading, None
        self._before = (self.lost, self.replaced, self.executions)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(SupervisorDied("the supervisor process is gone"))
        if reading is not None:
            reading.cancel()
        if writer is not None:
            writer.close()
        if process is not None:
            process.kill()
            while process.poll() is None:
                await asyncio.sleep(0.002)


async def serve(connection: socket.socket) -> None:
    """Judges what is asked until the other end hangs up."""
    reader, writer = await asyncio.open_connection(sock=connection)
    settings = await read_message(reader)
    assert isinstance(settings, SlotSettings)
    slots = Slots(settings)
    tasks: dict[int, asyncio.Task] = {}
    try:
        failure = None
        try:
            await slots.start()
        except Exception as error:  # noqa: BLE001 - raised again where it was asked, in another process
            failure = _told(error)
        writer.write(packed((failure, slots.isolation, slots.missing)))
        while failure is None:
            number, job = await read_message(reader)
            if job is None and number in tasks:
                tasks[number].cancel()
            elif job is not None:
                tasks[number] = asyncio.create_task(_answer(slots, writer, number, job))
                tasks[number].add_done_callback(lambda _, number=number: tasks.pop(number))
    except asyncio.IncompleteReadError:
        pass
    finally:
        await slots.close()
        writer.close()


async def _answer(slots: Slots, writer: asyncio.StreamWriter, number: int, job: Job) -> None:
    try:
        answer: object = await slots.judge(job)
    except Exception as error:  # noqa: BLE001 - raised again where it was asked, in another process
        answer = _told(error)
    writer.write(packed((number, answer, (slots.lost, slots.replaced, slots.executions))))
    with contextlib.suppress(ConnectionError):  # nobody asks any more
        await writer.drain()


def _told(error: Exception) -> Exception:
    """An error as whoever asked gets it: one of this project's own."""
    # An error of another class may not survive a pickle, and a message that cannot be read ends the process.
    if isinstance(error, InputError):
        return error
    if isinstance(error, JobLost):
        return JobLost(str(error))
    return SandboxError(str(error) if isinstance(error, SandboxError) else repr(error))


if __name__ == "__main__":
    kernel.die_with_parent(int(sys.argv[2]))
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1]))))
