"""One program's process: compiles the source, then forks one execution a test (stdin form) or one
for all tests (call and assertion form), with a checker beside it where tests need one, and measures them.

Runs no candidate code itself. Records go to a file in memory that no execution can reach.
"""

import fcntl
import json
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

# kind, first test, wait status, what it is over (0: nothing), cpu seconds, length of output, of errors
RECORD = struct.Struct("<ciiidII")
WALL, OUTPUT = 1, 2  # wall time; the output's limit in stdin form: then none of it is in the record
KEPT_ERROR_BYTES = 4096
NULL = 7  # an execution's own descriptors are below it
GONE_S = 0.2  # from hanging up to being dead, for a candidate that ends by itself


def judge(job_file, result_file, checks_file, held):
    """Reads the job, writes records: b"B" before compiling, b"C" compiled or b"E" not, b"T" an execution.
    `checks_file`, what a checker needs, is not read here: this memory is the candidate's too. `held` are the
    bytes of the interpreter itself, which the program's limit is beside."""
    job = json.loads(os.pread(job_file, os.fstat(job_file).st_size, 0))
    job["memory_bytes"] += held
    os.close(job_file)
    result_file, checks_file = reserve(result_file, checks_file)
    leaf.prepare()
    write_record(result_file, b"B")
    code, failure = compiled(job)
    write_record(result_file, b"C" if code else b"E", errors=failure.encode("utf-8", "replace"))
    if code is None:
        return
    if job["form"] == "stdin":
        run_each(job, code, result_file)
    else:
        run_together(job, code, result_file, checks_file)


def reserve(*files):
    """Makes the lowest descriptors /dev/null, NULL the last of them: an execution's files are placed there
    before its fork. Returns where `files` are instead."""
    moved = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, NULL + 1) for file in files]
    # Opened anew, for flags that a program sets stay; as a descriptor below NULL, which are all covered.
    os.dup2(os.open("/dev/null", os.O_RDWR), NULL)
    nothing_placed()
    return moved


def nothing_placed():
    for target in range(NULL):
        os.dup2(NULL, target)


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


def write_record(file, kind, first=0, status=0, over=0, cpu_s=0.0, output=b"", errors=b""):
    data = RECORD.pack(kind, first, status, over, cpu_s, len(output), len(errors)) + output + errors
    while data:
        data = data[os.write(file, data) :]


def run_each(job, code, result_file):
    cpu_s, most = job["cpu_s"], job["output_bytes"] + 1
    leaf.new_module("__main__")  # every execution's own, for each is a copy
    # Apart from the program, whose line numbers and syntax errors are its own.
    prelude = compile(job["prelude"], "<prelude>", "exec", dont_inherit=True)
    output, errors = (os.memfd_create(name, os.MFD_CLOEXEC) for name in ("stdout", "stderr"))
    for index, text in enumerate(job["inputs"]):
        for file in (output, errors):  # nothing of the last execution is left to write to them
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
            fcntl.fcntl(file, fcntl.F_SETFL, 0)
        pid = execution(job, text, (output, errors), cpu_s, most, leaf.run_stdin, prelude, code)
        status, over, used = watch(pid, cpu_s, job["wall_s"])
        said, complained = contents(output), contents(errors)[-KEPT_ERROR_BYTES:]
        if len(said) >= most:
            said, over = b"", over or OUTPUT
        write_record(result_file, b"T", index, status, over, used, said, complained)


def run_together(job, code, result_file, checks_file):
    """All tests in one execution; after a crash the next ones go on in a fresh one, on what is left
    of the time."""
    execute = checked if job["checked"] else called
    first, spent, wall, end = 0, 0.0, 0, time.monotonic() + job["wall_s"]
    while first < len(job["inputs"]) and not wall and spent < job["cpu_s"]:
        found = os.memfd_create("values", os.MFD_CLOEXEC)
        left = job["cpu_s"] - spent, end - time.monotonic()
        status, wall, cpu_s = execute(job, code, first, found, checks_file, *left)
        output = contents(found)
        os.close(found)
        write_record(result_file, b"T", first, status, wall, cpu_s, output)
        first += output.count(b"\n") + 1
        spent += cpu_s


def called(job, code, first, found, checks_file, cpu_s, wall_s):
    """The candidate answers for itself."""
    pid = execution(job, "", (NULL, NULL, found), cpu_s, most(job), calls.run, job, code, first)
    return watch(pid, cpu_s, wall_s)


def checked(job, code, first, found, checks_file, cpu_s, wall_s):
    """The candidate and, in another process, its checker: the checker's answers count, and the
    candidate's end where it ended by itself before the last of them."""
    asked, questions = os.pipe()
    answers, answered = os.pipe()
    pid = execution(job, "", (NULL, NULL, answered, asked), cpu_s, most(job), calls.serve, job, code)
    files = (NULL, NULL, found, answers, checks_file, questions)
    judge = execution(job, "", files, cpu_s, most(job), checker.run, job, first)
    for file in (asked, questions, answers, answered):
        os.close(file)
    nothing_placed()  # a pipe ends when nobody holds its other end
    status, wall, used = watch(judge, cpu_s, wall_s, beside=pid)
    answered_all = first + contents(found).count(b"\n") == len(job["inputs"])
    alone = not answered_all and not os.WIFSIGNALED(status) and has_ended(pid, GONE_S)
    used += kernel.cpu_seconds(pid)
    if not alone:
        os.kill(pid, signal.SIGKILL)
    its_status = os.waitpid(pid, 0)[1]
    return its_status if alone else status, wall, used


def most(job):
    """Bytes that one execution may answer all tests with."""
    return job["output_bytes"] * len(job["inputs"])


def execution(job, text, files, cpu_s, file_bytes, run, *arguments):
    """Forks a jailed process with `text` to read and the descriptors `files` from 1 on, in which
    `run(*arguments)` never returns. Returns its number."""
    own, stdin = os.getpid(), leaf.sealed_file(text)
    for target, file in enumerate((stdin, *files)):
        os.dup2(file, target)
    os.close(stdin)
    pid = kernel.fork()
    if pid == 0:
        leaf.become(job, own, 1 + len(files), cpu_s, file_bytes)
        run(*arguments)
    return pid


def has_ended(pid, seconds):
    """Whether a process ends within so many seconds."""
    handle = os.pidfd_open(pid)
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


def watch(pid, cpu_s, wall_s, beside=None):
    """Waits for an execution, killing it past its time; what runs `beside` it uses the same time. Returns
    (wait status, WALL or 0, its own CPU seconds)."""
    handle = os.pidfd_open(pid)
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    end = time.monotonic() + wall_s
    own, used, over = 0.0, 0.0, 0
    while not poller.poll(1 + 1000 * max(0.0, min(cpu_s - used, end - time.monotonic()))):
        own = kernel.cpu_seconds(pid)
        used = own + (kernel.cpu_seconds(beside) if beside else 0.0)
        over = WALL if time.monotonic() >= end and used < cpu_s else 0
        if over or used >= cpu_s:
            os.kill(pid, signal.SIGKILL)
            break
    os.close(handle)
    _, status, usage = os.wait4(pid, 0)
    return status, over, max(own, usage.ru_utime + usage.ru_stime)  # rusage rounds down


def contents(file):
    return os.pread(file, os.fstat(file).st_size, 0)
