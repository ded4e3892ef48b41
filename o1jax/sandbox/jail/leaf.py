"""One execution, inside its own process: take the limits, run a program, exit as Python would.

What runs functions instead is calls.py. Decides nothing: the exit status, the clock, standard output and
the returned values are judged outside. The candidate shares this interpreter, so whatever it does to the
harness can only change what it answers, and the expected answers are not here.
"""

import atexit
import builtins
import fcntl
import gc
import os
import resource
import signal
import sys
import threading
import types

import kernel
import seccomp

STACK_BYTES = 100 << 20  # deep recursion in C; the address space stays capped
MAX_FILES = 64


def prepare():
    """What the parent of executions has for them to inherit, once a program: a page that an execution
    touches is copied, so it does as little as it can."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, MAX_FILES))
    most = resource.getrlimit(resource.RLIMIT_STACK)[1]  # stays: programs raise their own limit, up to it
    stack = STACK_BYTES if most == resource.RLIM_INFINITY else min(STACK_BYTES, most)
    resource.setrlimit(resource.RLIMIT_STACK, (stack, most))


def become(job, parent, n_files, cpu_s, file_bytes):
    """Turns a fresh fork, whose first `n_files` descriptors are its own, into a jailed execution, or kills
    it (then it is nobody's verdict)."""
    try:
        kernel.die_with_parent(parent)
        os.closerange(n_files, 1 << 16)
        soft_cpu, limit = int(cpu_s) + 1, resource.setrlimit
        limit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
        limit(resource.RLIMIT_CPU, (soft_cpu, soft_cpu + 1))
        limit(resource.RLIMIT_AS, (job["memory_bytes"], job["memory_bytes"]))
        if job["max_threads"]:
            limit(resource.RLIMIT_NPROC, (job["max_threads"], job["max_threads"]))
        if job["sealed"]:
            seccomp.install_execution_filter(os.getpid())
        else:
            os.setsid()  # nothing else keeps its signals from its parent's group
    except BaseException:  # noqa: BLE001 - the harness failed, so nothing here can be trusted to go on
        os.kill(os.getpid(), signal.SIGKILL)


def sealed_file(text):
    """A read-only file in memory: standard input looks like a file, and is nobody else's."""
    file = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    data = text.encode("utf-8", "surrogatepass")
    while data:
        data = data[os.write(file, data) :]
    os.lseek(file, 0, os.SEEK_SET)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return file


def new_module(name):
    """A fresh module in the candidate's name, with what `site` would have added to builtins."""
    module = sys.modules[name] = types.ModuleType(name)
    module.__dict__["__builtins__"] = builtins
    builtins.exit = builtins.quit = sys.exit
    sys.argv[:] = [name]
    return module.__dict__


def run_stdin(prelude, code):
    """Runs a program as `python program.py` does, in the __main__ that there is, and never returns."""
    status = 0
    try:
        exec(prelude, vars(sys.modules["__main__"]))  # noqa: S102
        exec(code, vars(sys.modules["__main__"]))  # noqa: S102 - the jail is what this file is for
    except SystemExit as stop:
        status = exit_status(stop.code)
    except BaseException as error:  # noqa: BLE001 - untrusted code raises anything
        status = 1
        report(error)
    os._exit(finish(status))


def exit_status(code):
    if code is None or isinstance(code, int):
        return int(code or 0) & 0xFF
    print(code, file=sys.stderr)
    return 1


def report(error):
    try:
        sys.__excepthook__(type(error), error.with_traceback(None), None)
    except BaseException:  # noqa: BLE001 - an exception's own __str__ is untrusted
        os.write(2, b"exception that cannot be printed\n")


def finish(status):
    """What Python does at exit: joins threads, runs atexit, flushes, drops the program's objects. Returns
    the exit status."""
    try:
        if len(threading._active) > 1 or threading._limbo or threading._threading_atexits:
            threading._shutdown()
        atexit._run_exitfuncs()
        flush()
        if defines_classes():
            sys.modules.pop("__main__", None)
            gc.collect()  # objects that write when they die do so now
            flush()
    except BaseException as error:  # noqa: BLE001 - untrusted streams and callbacks
        report(error)
        return status or 120
    return status


def flush():
    for stream in (sys.stdout, sys.__stdout__):
        if stream is not None and not getattr(stream, "closed", False):
            stream.flush()


def defines_classes():
    return any(
        isinstance(value, type) and value.__module__ == "__main__"
        for value in list(vars(sys.modules["__main__"]).values())
    )
