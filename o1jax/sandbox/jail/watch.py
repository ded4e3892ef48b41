"""An execution on the kernel's clocks: waits for it, reads its answers, ends it when its time is over.

CPU time decides where it can: past the wall time a test is over only if it does not want the processor
either, so that a machine with too much to do changes no verdict.
"""

import os
import select
import signal
import time

import kernel

WALL, OUTPUT, OWN, CPU = 1, 2, 3, 4  # what an execution is over; OWN: a time limit that it gave itself
MOST_WALLS = 16  # times the wall time: there a test ends that uses the processor now and then
LEAST_SHARE = 1 / 64  # of a processor in the last window: what wants one gets more, with 60 others beside it
WINDOW_S = 1.0
TICK_S = 0.004  # between looks at answers: the time of a test in call form is exact to this
SHORT_S = 0.01  # a shorter execution reached no limit of CPU time: the least is a second, of all its threads
CHUNK = 1 << 16  # all that a pipe holds


class Watch:
    """One execution and what runs `beside` it, which uses the same time. `cpu_s` and `wall_s` are a test's;
    `limit_s` lies below the limit of CPU time that the execution was given for all of its tests."""

    __slots__ = (
        "_pid", "_cpu_s", "_wall_s", "_limit_s", "_beside", "_handle", "_poller", "_window", "_used",
        "_ended", "_born", "_mark", "_start", "_next", "_seen",
    )  # fmt: skip

    def __init__(self, pid, cpu_s, wall_s, limit_s, beside=None):
        self._pid, self._beside, self._cpu_s, self._wall_s = pid, beside, cpu_s, wall_s
        self._limit_s = limit_s
        self._handle = os.pidfd_open(pid)
        self._poller = select.poll()
        self._poller.register(self._handle, select.POLLIN)
        self._window = min(WINDOW_S, wall_s / 4)
        self._used, self._ended = 0.0, False
        self._begin()
        self._born = self._start

    def wait(self):
        """Waits for the end, or brings it about; returns as `follow`."""
        # Most end before there is anything to look at: then every page that is not touched is time won.
        self._ended, over = bool(self._poller.poll(self._patience_ms(self._cpu_s))), 0
        while not over and not self._ended:
            over = self._look(self._patience_ms(self._cpu_s))
        return self._reaped(over)

    def follow(self, pipe, answers):
        """Reads answers until the end, or until no more are wanted; returns (wait status, what the execution
        is over, CPU seconds of its last test)."""
        os.set_blocking(pipe, False)
        answers.begin()
        over, flows = 0, False  # whether the pipe fills within a tick
        while not (over or self._ended) and answers.wanted:
            over, began = self._look(self._patience_ms(TICK_S)), self._start
            flowed, flows = flows, self._drain(pipe, answers, to_the_end=over or self._ended)
            if self._start != began and over:  # it did answer, in the time between two looks
                over = 0
            over = answers.over or over
            if flows != flowed:
                self._poller.register(pipe, select.POLLIN) if flows else self._poller.unregister(pipe)
        return self._reaped(over)

    def _begin(self):
        """The next test's time starts."""
        self._mark, self._start = self._used, time.monotonic()
        self._next, self._seen = self._start + self._wall_s - self._window, self._used

    def _look(self, patience_ms):
        """Waits that long, or for the end, and looks: CPU or WALL where the test's time is over, else 0."""
        self._ended = any(file == self._handle for file, _ in self._poller.poll(patience_ms))
        self._used, now = self._clock(), time.monotonic()
        if self._ended:
            return 0
        if self._used - self._mark >= self._cpu_s:
            return CPU
        if now < self._next:
            return 0
        # A window that this process itself could not keep says nothing of the other.
        idle = self._used - self._seen < self._window * LEAST_SHARE and now - self._next < self._window
        waited = now - self._start
        if waited >= self._wall_s and (idle or waited >= MOST_WALLS * self._wall_s):
            return WALL
        self._next, self._seen = now + self._window, self._used
        return 0

    def _clock(self):
        return kernel.cpu_seconds(self._pid) + (kernel.cpu_seconds(self._beside) if self._beside else 0.0)

    def _patience_ms(self, most_s):
        left = min(self._cpu_s - (self._used - self._mark), self._next - time.monotonic(), most_s)
        return 1 + 1000 * max(0.0, left)

    def _drain(self, pipe, answers, to_the_end):
        """Reads what the pipe holds; says whether it was full."""
        while answers.wanted and not answers.over:
            try:
                data = os.read(pipe, CHUNK)
            except BlockingIOError:
                return False
            if answers.take(data, self._used - self._mark):
                self._begin()
            if not to_the_end or not data:
                return len(data) == CHUNK
        return False

    def _reaped(self, over):
        if not self._ended:
            os.kill(self._pid, signal.SIGKILL)
        elif not over and time.monotonic() - self._born > SHORT_S:
            over = OWN if kernel.killed_by_own_limit(self._pid, self._limit_s) else 0
        _, status, usage = os.wait4(self._pid, 0)
        os.close(self._handle)
        used = self._used if self._beside else max(self._used, usage.ru_utime + usage.ru_stime)
        return status, over, used - self._mark  # rusage rounds down


def has_ended(pid, seconds):
    """Whether a process ends within so many seconds."""
    handle = os.pidfd_open(pid)
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)
