"""A log file a process: what it says on stderr, what is logged, and how it ended."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from typing import TextIO

from etils import epath

from o1jax.parallel.processes import this_process
from o1jax.train.throughput import ONLY_LOGGED
from o1jax.writing import GrowingFile


class Copied(io.TextIOBase):
    """A stream of which every whole line goes to a log too. A bar that redraws itself does not."""

    def __init__(self, stream: TextIO, log: GrowingFile):
        self._stream, self._log, self._line = stream, log, ""

    def write(self, text: str) -> int:
        *whole, self._line = (self._line + text).split("\n")
        for line in whole:
            if kept := line.rpartition("\r")[2].strip():
                log_line(self._log, kept)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


class ToLog(logging.Handler):
    """What is logged."""

    def __init__(self, log: GrowingFile):
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        log_line(self._log, record.getMessage())


def log_line(log: GrowingFile, text: str) -> None:
    """One line, with the time before it."""
    log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


@contextlib.contextmanager
def process_log(out: epath.Path) -> Iterator[None]:
    """Within it, <out>/logs/process_<index>.log gets what this process says."""
    log = GrowingFile(out / "logs" / f"process_{this_process().index:05d}.log")
    handler, stderr, loggers = ToLog(log), sys.stderr, (logging.getLogger(), ONLY_LOGGED)
    for logger in loggers:
        logger.addHandler(handler)
    sys.stderr = Copied(stderr, log)
    try:
        log_line(log, f"begins, as process {this_process().index} of {this_process().count}")
        yield
        log_line(log, "ended")
    except BaseException:  # noted, and raised again: Ctrl-C and SIGTERM too
        log_line(log, traceback.format_exc())
        raise
    finally:
        sys.stderr = stderr
        for logger in loggers:
            logger.removeHandler(handler)
        log.close()
