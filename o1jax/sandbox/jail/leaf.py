"""One execution, inside its own process: take the limits, run the candidate, exit as Python would.

Decides nothing: the exit status, the clock, standard output and the returned values are judged
outside. The candidate shares this interpreter, so whatever it does to the harness can only change
what it answers, and the expected answers are not here.
"""

import atexit
import builtins
import fcntl
import json
import os
import random
import re
import resource
import signal
import sys
import threading
import types

import kernel
import seccomp
import values

STACK_BYTES = 100 << 20  # deep recursion in C; the address space stays capped
VALUES_FD = 3
MAX_FILES = 64


def become(job, parent, files, cpu_s, file_bytes):
    """Turns a fresh fork into a jailed execution, or kills it (then it is nobody's verdict). `files`
    become descriptors 0, 1, 2, ...; the first is the text of standard input."""
    try:
        _become(job, parent, (sealed_file(files[0]), *files[1:]), cpu_s, file_bytes)
    except BaseException:  # noqa: BLE001 - the harness failed, so nothing here can be trusted to go on
        os.kill(os.getpid(), signal.SIGKILL)


def _become(job, parent, files, cpu_s, file_bytes):
    kernel.die_with_parent(parent)
    os.setsid()
    for target, source in enumerate(files):
        os.dup2(source, target)
    os.closerange(len(files), 1 << 16)
    soft_cpu = int(cpu_s) + 1
    limit = resource.setrlimit
    limit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    limit(resource.RLIMIT_NOFILE, (MAX_FILES, MAX_FILES))
    limit(resource.RLIMIT_STACK, (STACK_BYTES, STACK_BYTES))
    limit(resource.RLIMIT_CPU, (soft_cpu, soft_cpu + 1))
    limit(resource.RLIMIT_AS, (job["memory_bytes"], job["memory_bytes"]))
    if job["max_threads"]:
        limit(resource.RLIMIT_NPROC, (job["max_threads"], job["max_threads"]))
    random.seed(0)
    if job["sealed"]:
        seccomp.install(seccomp.execution_filter(os.getpid()))


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


def run_stdin(code):
    """Runs a program as `python program.py` does and never returns."""
    status = 0
    try:
        exec(code, new_module("__main__"))  # noqa: S102 - the jail is what this file is for
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
    """What Python does at exit: joins threads, runs atexit, flushes. Returns the exit status."""
    try:
        threading._shutdown()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.__stdout__):
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
    except BaseException as error:  # noqa: BLE001 - untrusted streams and callbacks
        report(error)
        return status or 120
    return status


def run_calls(job, code, first):
    """Runs call or assertion tests from `first` on, one line of JSON a test to VALUES_FD; never returns."""
    dumps, write, cap = json.dumps, os.write, job["output_bytes"]
    try:
        namespace, failure = load(job, code), None
    except BaseException as error:  # noqa: BLE001 - untrusted code raises anything
        namespace, failure = {}, described(error)
    for text in job["inputs"][first:]:
        try:
            line = dumps(failure or answered(job, namespace, text)).encode() + b"\n"
        except BaseException as error:  # noqa: BLE001 - untrusted code raises anything
            line = dumps(described(error)).encode() + b"\n"
        write(VALUES_FD, line if len(line) <= cap else b'{"e": "OLE"}\n')
    os._exit(0)


def load(job, code):
    """The candidate's namespace after its program and the problem's setup.

    Setup runs last, for it may use the candidate's definitions; where the program itself needs the
    setup (NameError), setup runs before it too.
    """
    namespace = new_module("solution")
    setup = compile(job["setup"], "<setup>", "exec", dont_inherit=True)
    try:
        exec(code, namespace)  # noqa: S102
    except NameError:
        if not job["setup"]:
            raise
        namespace = new_module("solution")
        exec(setup, namespace)  # noqa: S102
        exec(code, namespace)  # noqa: S102
    exec(setup, namespace)  # noqa: S102
    return namespace


def answered(job, namespace, text):
    """{"v": encoded value} of one test, or {"e": status, "d": detail} where there is no function."""
    if job["form"] == "assertion":
        return {"v": evaluate(namespace, json.loads(text))}
    function = entry_point(namespace, job["entry_point"])
    if function is None:
        return {"e": "NORESULT", "d": f"no function {job['entry_point']!r}"}
    return {"v": values.encode(function(*literal(text)))}


def literal(text):
    import ast  # kept out of the zygote: 1 MiB that only call form needs

    return ast.literal_eval(text)


def entry_point(namespace, name):
    if name in namespace:
        return namespace[name]
    solution = namespace.get("Solution")
    return getattr(solution(), name, None) if solution is not None else None


def evaluate(namespace, steps):
    """The values of a test's expressions. A step {"block": source} runs as it is and counts as True; a
    match object counts as True where only truth is asked."""
    found = []
    for step in steps:
        if "block" in step:
            exec(compile(step["block"], "<test>", "exec", dont_inherit=True), namespace)  # noqa: S102
            found.append(True)
            continue
        value = eval(step.get("value") or step["truth"], namespace)
        found.append("truth" in step and type(value) is re.Match or values.encode(value))
    return found


def described(error):
    """One line on an exception, without trusting its own __str__."""
    if type(error) is values.BadValue:
        return {"e": "BADVALUE", "d": str(error)}
    name = type.__getattribute__(type(error), "__name__")
    if isinstance(error, MemoryError):
        return {"e": "MLE", "d": name}
    try:
        return {"e": "RE", "d": f"{name}: {error}".replace("\n", " ")[:300]}
    except BaseException:  # noqa: BLE001 - an exception's own __str__ is untrusted
        return {"e": "RE", "d": str(name)}
