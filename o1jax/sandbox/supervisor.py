"""A supervisor process: the slots of a wide judge, apart from the process that asks.

Started by supervisor_process.py with a socket; reads jobs and cancellations, answers with verdicts.
Both ends are this project's own, so messages are pickles; nothing of a candidate's is ever in one but
its text.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
import sys

from o1jax.records import InputError
from o1jax.sandbox.interface import Job, SandboxError
from o1jax.sandbox.jail import kernel
from o1jax.sandbox.slots import Slots, SlotSettings

LENGTH = struct.Struct("<I")


def packed(message: object) -> bytes:
    data = pickle.dumps(message)
    return LENGTH.pack(len(data)) + data


async def read_message(reader: asyncio.StreamReader) -> object:
    """The next message. Raises asyncio.IncompleteReadError where the other end is gone."""
    (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    return pickle.loads(await reader.readexactly(size))


async def serve(connection: socket.socket) -> None:
    """Judges what is asked until the other end hangs up."""
    reader, writer = await asyncio.open_connection(sock=connection)
    settings = await read_message(reader)
    assert isinstance(settings, SlotSettings)
    slots = Slots(settings)
    tasks: dict[int, asyncio.Task] = {}
    try:
        failure = await _started(slots)
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


async def _started(slots: Slots) -> Exception | None:
    try:
        await slots.start()
    except Exception as error:  # noqa: BLE001 - raised again where it was asked, in another process
        return _told(error)
    return None


async def _answer(slots: Slots, writer: asyncio.StreamWriter, number: int, job: Job) -> None:
    try:
        answer: object = await slots.judge(job)
    except Exception as error:  # noqa: BLE001 - raised again where it was asked, in another process
        answer = _told(error)
    writer.write(packed((number, answer, (slots.lost, slots.replaced, slots.executions))))
    await writer.drain()


def _told(error: Exception) -> Exception:
    """An error as whoever asked gets it: one of this project's own."""
    if isinstance(error, InputError):
        return error
    return SandboxError(str(error) if isinstance(error, SandboxError) else repr(error))


def main() -> None:
    kernel.die_with_parent(int(sys.argv[2]))
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()
