"""One program's process: compiles the source, then forks one execution a test (stdin form) or one
for all tests (call and assertion form), with a checker beside it where tests need one, and measures them.

Runs no candidate code itself. Records go to a file in memory that no execution can reach. What a program may
say is capped here, a test and in all; which of it is right is not known here. CPU time decides where it can:
past the wall time a test is over only if it does not want the processor either, so that a machine with too
much to do changes no verdict.

One file of 400 lines, for the protocol and the clocks of an execution are read together.
"""

import fcntl
import gc
import itertools
import marshal
import math
import os
import resource
import select
import signal
import struct
import time

import calls
import checker
import kernel
import leaf

# kind, test, wait status, what it is over (0: nothing), cpu seconds, length of output, of errors
RECORD = struct.Struct("<ciiidII")
LENGTH = struct.Struct("<Q")  # the end of the job's file: the length of what stands before it
WALL, OUTPUT, OWN, CPU = 1, 2, 3, 4  # what an execution is over; OWN: a time limit that it gave itself
MOST_WALLS = 16  # times the wall time: there a test ends that uses the processor now and then
LEAST_SHARE = 1 / 64  # of a processor in the last window: what wants one gets more, with 60 others beside it
WINDOW_S = 1.0
TICK_S = 0.004  # between looks at answers: the time of a test in call form is exact to this
SHORT_S = 0.01  # a shorter execution reached no limit of CPU time: the least is a second, of all its threads
KEPT_ERROR_BYTES = 4096
FILE_BYTES = 16 << 20  # of a file that is written, standard error among them; what is read of it is less
CHUNK = 1 << 16  # all that a pipe holds
INPUTS = 7  # where an execution of functions reads the tests' inputs
NULL = 8  # an execution's own descriptors are below it
GONE_S = 0.2  # from hanging up to being dead, for a candidate that ends by itself
# Executions of functions that end badly cost their test only, and a fresh one goes on: but the tests are not
# run that are left when this many times one test's CPU time was lost so.
MOST_LOST = 8


class Inputs:
    """The tests' inputs, each read from `file` when it is asked for: all of them together would lie under the
    memory limit of every execution."""

    def __init__(self, file, sizes):
        self.file = file
        self._ends = [0, *itertools.accumulate(sizes)]

    def __len__(self):
        return len(self._ends) - 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            return map(self.__getitem__, range(*index.indices(len(self))))
        at, size = self.place(index)
        return os.pread(self.file, size, at).decode("utf-8", "surrogatepass")

    def place(self, index):
        """(where an input begins, its bytes)."""
        return self._ends[index], self._ends[index + 1] - self._ends[index]


def judge(job_file, result_file, checks_file, held):
    """Reads the job, writes records: b"B" before compiling, b"C" compiled or b"E" not, b"T" how an execution
    ended, b"A" an answer of an execution of functions, b"S" tests that are not run. `checks_file`, what a
    checker needs, is not read here: this memory is the candidate's too. `held` are the bytes of the
    interpreter itself, which the program's limit is beside."""
    job = read_job(job_file)
    job["memory_bytes"] += held
    write_record(result_file, b"B")
    code, failure = compiled(job)
    write_record(result_file, b"C" if code else b"E", errors=failure.encode("utf-8", "replace"))
    if code is None:
        return
    if job["form"] == "stdin":
        run_each(job, code, result_file, job_file)
    else:
        run_together(job, code, result_file, checks_file, job_file)


def read_job(file):
    """The job, its inputs left where they are."""
    end = kernel.size(file) - LENGTH.size
    (length,) = LENGTH.unpack(os.pread(file, LENGTH.size, end))
    job = marshal.loads(os.pread(file, length, end - length))
    job["inputs"] = Inputs(INPUTS, job.pop("sizes"))
    return job


def reserve(file):
    """Covers the descriptors from 3 to NULL, that of `file`, which is moved, among them: no file that an
    execution is given lies where it is placed. Returns the number of the moved file."""
    moved = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, NULL + 1)
    for target in range(3, NULL + 1):
        os.dup2(0, target)
    return moved


def compiled(job):
    """(code, "") or (None, why). Under the job's limits: source can be a bomb."""
    unlimited = resource.RLIM_INFINITY
    seconds = max(2, math.ceil(job["cpu_s"]))
    resource.setrlimit(resource.RLIMIT_AS, (job["memory_bytes"], unlimited))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, unlimited))
    try:
        source = job["source"].removeprefix("\ufeff")  # a text's mark of its encoding, which Python skips
        return compile(source, "<program>", "exec", dont_inherit=True), ""
    except Exception as error:  # noqa: BLE001 - whatever untrusted source makes compile() raise
        return None, f"{type(error).__name__}: {error}"[:300]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (unlimited, unlimited))
        resource.setrlimit(resource.RLIMIT_CPU, (unlimited, unlimited))


def record(kind, test=0, status=0, over=0, cpu_s=0.0, output=b"", errors=b""):
    return RECORD.pack(kind, test, status, over, cpu_s, len(output), len(errors)) + output + errors


def write_record(file, kind, **fields):
    kernel.write_all(file, record(kind, **fields))


def run_each(job, code, result_file, job_file):
    """A record T a test. What a program prints is copied to it, until that is `total_bytes` in all.

    Executions are forked several in a row, while another runs, and wait for their turns: what this process
    writes to after a fork is copied, page by page, so it does nothing between.
    """
    leaf.new_module("__main__")  # every execution's own, for each is a copy
    # Apart from the program, whose line numbers and syntax errors are its own.
    prelude = job["prelude"] and compile(job["prelude"], "<prelude>", "exec", dont_inherit=True)

    def forked(most):
        most = min(most, n - index)
        files = [own_files() for _ in range(most)]
        gc.freeze()  # what is not frozen later is the program's: leaf.may_act() looks at that
        limits = job["cpu_s"], max(FILE_BYTES, job["output_bytes"] + 1)
        return [(three, fork(job, three, *limits, leaf.run_stdin, prelude, code)) for three in files]

    n, index, left, waiting = len(job["inputs"]), 0, job["total_bytes"], []
    while index < n:
        files, execution = (waiting or forked(1)).pop(0)
        kernel.fill(files[0], job_file, *job["inputs"].place(index))
        pid = start(execution, len(waiting))
        watch = Watch(pid, job["cpu_s"], job["wall_s"], job["cpu_s"])
        index += 1
        if not waiting and job["sealed"]:  # one that is not could reach those that wait
            waiting = forked(job["forks_ahead"])
        left -= write_result(result_file, index - 1, watch.wait(), files, min(job["output_bytes"], left))


def own_files():
    """Standard input, output and errors of one execution: another's flags, seals and threads reach none."""
    return kernel.unsealed_file("stdin"), kernel.memory_file("stdout"), kernel.memory_file("stderr")


def write_result(result_file, index, ended, files, most):
    """Writes the record T of a test, and closes its files. Returns the bytes of its output; one of more than
    `most` bytes is left away."""
    (status, over, used), (_, output, errors) = ended, files
    size, said = kernel.size(output), kernel.size(errors)
    if size > most:
        size, over = 0, over or OUTPUT
    complained = os.pread(errors, KEPT_ERROR_BYTES, max(0, said - KEPT_ERROR_BYTES))
    head = RECORD.pack(b"T", index, status, over, used, size, len(complained))
    if size <= CHUNK:
        kernel.write_all(result_file, head + os.pread(output, size, 0) + complained)
    else:
        kernel.write_all(result_file, head)
        kernel.copy(output, 0, size, result_file)
        kernel.write_all(result_file, complained)
    for file in files:
        os.close(file)
    return size


def run_together(job, code, result_file, checks_file, job_file):
    """All tests in one execution, a record A an answer; after one that ends badly (a record T for the test it
    was at) a fresh one goes on with the next test."""
    # Opened anew: flags that a program sets stay.
    os.dup2(os.open("/dev/null", os.O_RDWR), NULL)
    execute = checked if job["checked"] else called
    answers, lost = Answers(job, result_file), 0.0
    while answers.wanted:
        if answers.left <= 0 or lost >= MOST_LOST:
            over = OUTPUT if answers.left <= 0 else CPU
            write_record(result_file, b"S", test=answers.next, over=over)
            return
        status, over, used = execute(job, code, answers, checks_file, job_file)
        if answers.wanted:
            write_record(result_file, b"T", test=answers.next, status=status, over=over, cpu_s=used)
            answers.next += 1
            lost += 1.0 if over else min(1.0, used / job["cpu_s"])


class Answers:
    """The lines that executions answer the tests with, each made a record when it is whole."""

    def __init__(self, job, result_file):
        self.next, self.left = 0, job["total_bytes"]
        self._n, self._most, self._file = len(job["inputs"]), job["output_bytes"], result_file
        self._parts, self._size = [], 0  # of the line that is not whole

    @property
    def wanted(self):
        return self.next < self._n

    def begin(self):
        """A fresh execution speaks."""
        self._parts, self._size = [], 0

    def take(self, data, used):
        """Takes what was read after `used` seconds of CPU time; says whether a line ended in it."""
        *ends, rest = data.split(b"\n", self._n - self.next)
        records = []
        for end in ends:
            line = b"".join([*self._parts, end])
            self._parts, self._size = [], 0
            self.left -= len(line)
            if len(line) > self._most or self.left < 0:
                self._size = self._most + 1
                break
            records.append(record(b"A", self.next, cpu_s=used / len(ends), output=line))
            self.next += 1
        else:
            self._parts.append(rest)
            self._size += len(rest)
        kernel.write_all(self._file, b"".join(records))
        return bool(records)

    @property
    def over(self):
        """OUTPUT where the line is longer than a line may be."""
        return OUTPUT if self._size > min(self._most, self.left) else 0


def called(job, code, answers, checks_file, job_file):
    """The candidate answers for itself."""
    found, values = os.pipe()
    seconds = (len(job["inputs"]) - answers.next) * job["cpu_s"]
    files = (NULL, NULL, NULL, values, NULL, NULL, NULL, job_file)
    pid = start(fork(job, files, seconds, FILE_BYTES, calls.run, job, code, answers.next))
    os.close(values)  # a pipe ends when nobody holds its other end
    ended = Watch(pid, job["cpu_s"], job["wall_s"], seconds).follow(found, answers)
    os.close(found)
    return ended


def checked(job, code, answers, checks_file, job_file):
    """The candidate and, in another process, its checker: the checker's answers count, and the
    candidate's end where it ended by itself before the last of them."""
    asked, questions = os.pipe()
    replies, replied = os.pipe()
    found, values = os.pipe()
    seconds = (len(job["inputs"]) - answers.next) * job["cpu_s"]
    files = (NULL, NULL, NULL, replied, asked)
    pid = start(fork(job, files, seconds, FILE_BYTES, calls.serve, job, code))
    files = (NULL, NULL, NULL, values, replies, checks_file, questions, job_file)
    judge = start(fork(job, files, seconds, FILE_BYTES, checker.run, job, answers.next))
    for file in (asked, questions, replies, replied, values):
        os.close(file)
    watch = Watch(judge, job["cpu_s"], job["wall_s"], seconds, beside=pid)
    status, over, used = watch.follow(found, answers)
    os.close(found)
    alone = answers.wanted and not os.WIFSIGNALED(status) and has_ended(pid, GONE_S)
    if not alone:
        os.kill(pid, signal.SIGKILL)
    by_itself = alone and kernel.killed_by_own_limit(pid, seconds)
    its_status = os.waitpid(pid, 0)[1]
    return its_status if alone else status, OWN if by_itself else over, used


def fork(job, files, cpu_s, file_bytes, run, *arguments):
    """Forks a jailed process with the descriptors `files` from 0 on, in which `run(*arguments)` never
    returns; it waits for `start`. Returns (its number, what it waits for)."""
    own, gate = os.getpid(), os.eventfd(0, os.EFD_CLOEXEC)
    pid = kernel.fork()
    if pid == 0:
        try:
            leaf.become(job, own, (*files, gate), cpu_s, file_bytes)
            run(*arguments)
        finally:  # what is below here on the stack is the harness's
            os._exit(1)
    return pid, gate


def start(forked, waiting=0):
    """Lets a forked process go, beside so many that wait. Returns its number."""
    pid, gate = forked
    os.eventfd_write(gate, 1 + waiting)
    os.close(gate)
    return pid


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
