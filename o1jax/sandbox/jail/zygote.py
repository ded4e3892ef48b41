"""The warm parent of a slot: jails itself once, then forks one process a job.

Started as `python -s -P -S -B` on this file with a control socket; holds no source, no input, no
output and no expected answer: those travel by file descriptor to the process it forks. Speaks
first: one JSON hello with the tier in force and what is missing.
"""

import gc
import json
import os
import pathlib
import resource
import signal
import socket
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import kernel
import landlock
import program
import seccomp

sys.path.pop(0)
WARM = "bisect collections copy datetime functools heapq io itertools math operator re string typing".split()
STATUS = struct.Struct("<i")


def main(control, supervisor):
    """Jails this process, says hello and serves until the supervisor hangs up."""
    kernel.die_with_parent(supervisor)
    missing = {}
    names = unshare_all(missing)
    if "pid" in names:
        stand_in_for_child()
    warm_up()
    children = None if "pid" in names else open_children()
    jail(names, missing)
    os.write(control.fileno(), json.dumps(hello(names, missing)).encode())
    serve(control, children)


def unshare_all(missing):
    """Enters what namespaces the kernel allows; returns their names and notes what it refused."""
    names = []
    if os.geteuid() != 0:
        attempt("user", kernel.enter_user_namespace, names, missing)
    for name, flag in kernel.NAMESPACES.items():
        attempt(name, lambda flag=flag: kernel.unshare(flag), names, missing)
    return names


def attempt(name, action, names, missing):
    try:
        action()
        names.append(name)
    except OSError as error:
        missing[name] = os.strerror(error.errno)


def stand_in_for_child():
    """Goes on as process 1 of the new pid namespace; the first process only waits for it, and its
    death kills everything inside."""
    pid = os.fork()
    if pid:
        os.closerange(3, 1 << 16)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)
    kernel.die_with_parent()


def warm_up():
    """Imports what programs import most, so that a fork finds it ready."""
    for name in WARM:
        __import__(name)
    compile("pass", "<warm>", "exec")
    if os.uname().machine in seccomp.ARCHITECTURES:
        seccomp.execution_filter(os.getpid())
    os.environ.clear()
    sys.set_int_max_str_digits(0)
    gc.collect()
    gc.freeze()


def jail(names, missing):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir("/")
    kernel.prctl(kernel.SET_SUBREAPER, 1)
    kernel.prctl(kernel.SET_NO_NEW_PRIVS, 1)
    kernel.prctl(kernel.SET_DUMPABLE, 0)
    kernel.drop_capabilities()
    attempt("landlock", landlock.restrict, names, missing)
    if os.uname().machine not in seccomp.ARCHITECTURES:
        missing["seccomp"] = f"no table for {os.uname().machine}"
        return
    program = seccomp.slot_filter(refuse_writing="landlock" not in names)
    attempt("seccomp", lambda: seccomp.install(program), names, missing)


def hello(names, missing):
    # Without Landlock, an unprivileged child in this user namespace could read its owner's memory.
    apart = os.geteuid() == 0 or "user" in names or "landlock" in names
    sealed = "seccomp" in names and apart
    tier = "T1" if sealed and {"pid", "net"} <= set(names) else "T0" if sealed else "insecure"
    return {"isolation": f"{tier} ({' '.join(names)})", "sealed": sealed, "missing": missing}


def serve(control, children):
    own = os.getpid()
    while True:
        data, files, _, _ = socket.recv_fds(control, 16, 2)
        if not data:
            os._exit(0)
        pid = kernel.fork()
        if pid == 0:
            kernel.die_with_parent(own)
            control.close()
            program.judge(*files)
            os._exit(0)
        for file in files:
            os.close(file)
        _, status = os.waitpid(pid, 0)
        bury(children)
        os.write(control.fileno(), STATUS.pack(status))


def open_children():
    """The kernel's list of this process's children, opened while /proc still can be."""
    return os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)


def bury(children):
    """Kills and reaps whatever a job left behind (only an unsealed job can leave anything)."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                kill_children(children)
        except ChildProcessError:
            return


def kill_children(children):
    if children is None:  # process 1 of a namespace
        os.kill(-1, signal.SIGKILL)
        return
    for child in os.pread(children, 1 << 16, 0).split():
        os.kill(int(child), signal.SIGKILL)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
