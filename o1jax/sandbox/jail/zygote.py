"""The warm parent of a slot: jails itself once, then forks one process a job.

Started as `python -s -P -S -B` on this file with a control socket; holds no source, no input, no
output and no expected answer: those travel by file descriptor to the process it forks. It is told
how to be jailed, and answers with one JSON hello: the tier in force and what is missing.
"""

import gc
import itertools
import json
import os
import signal
import socket
import struct
import sys

sys.path.insert(0, os.path.dirname(__file__))  # pathlib would make every fork dearer by a tenth of its memory
import isolation
import kernel
import leaf
import program
import seccomp
import stand_ins

sys.path.pop(0)
WARM = (  # not ast: since Python 3.12 objects that typing knows die silently where it is
    "bisect collections copy datetime fractions functools heapq io itertools math operator random re"
    " string typing"
).split()
ANSWER = struct.Struct("<ii")  # which job, counted from 0, and the wait status of its program's process
HUNG_UP = 77  # exit status


def main(control, supervisor):
    """Jails this process as it is told, says hello and serves until the supervisor hangs up."""
    kernel.die_with_parent(supervisor)
    told = json.loads(control.recv(1 << 16) or "null") or os._exit(0)
    jail = isolation.Isolation(told["highest"])
    jail.unshare()
    if "pid" in jail.names:
        stand_in_for_child()
    readable = warm_up(told["packages"], told["path"])
    held = address_space()
    children = None
    if "pid" not in jail.names:  # the kernel's list of them, opened while /proc still can be
        children = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
    if told["cgroup"] == "joined":
        jail.names.append("cgroup")
    elif told["cgroup"]:
        jail.missing["cgroup"] = told["cgroup"]
    jail.seal(told["uid"], readable)
    leaf.prepare()
    hello = {"tier": jail.tier, "sealed": jail.sealed, "names": jail.names, "missing": jail.missing}
    os.write(control.fileno(), json.dumps(hello).encode())
    serve(control, children, held)


def stand_in_for_child():
    """Goes on as process 1 of the new pid namespace; the first process only waits for it, and its
    death kills everything inside."""
    pid = os.fork()
    if pid:
        os.closerange(3, 1 << 16)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)
    kernel.die_with_parent()


def warm_up(packages, path):
    """Imports what programs import most, so that a fork finds it ready, and `packages` from `path`.
    Returns the places of the packages."""
    sys.path += path
    for name in (*WARM, *packages):
        __import__(name)
    compile("pass", "<warm>", "exec")
    seccomp.warm_up()
    stand_ins.install()
    os.environ.clear()
    sys.set_int_max_str_digits(0)
    sys.modules["random"].seed(0)  # every execution starts from here
    gc.collect()
    gc.freeze()
    return [place for name in packages for place in places(name)]


def places(name):
    """The directories of an imported package, or the one file of a module."""
    spec = sys.modules[name].__spec__
    if spec.submodule_search_locations is not None:
        homes = list(spec.submodule_search_locations)
        return [*homes, *(f"{home}.libs" for home in homes)]  # wheels keep shared libraries beside them
    if spec.has_location:
        return [spec.origin]
    sys.exit(f"packages: {name!r} is built into Python, which every program can import; leave it out")


def address_space():
    """Bytes that this interpreter takes with its packages, and every execution with it."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def serve(control, children, held):
    """Forks a process a job, each before its job is there: it takes it, and says itself when it is done."""
    own = os.getpid()
    for number in itertools.count():
        pid = kernel.fork()
        if pid == 0:
            kernel.die_with_parent(own)
            data, files, _, _ = socket.recv_fds(control, 16, 3)
            if not data:
                os._exit(HUNG_UP)
            program.judge(*files, held)
            os.write(control.fileno(), ANSWER.pack(number, 0))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        bury(children)
        if os.waitstatus_to_exitcode(status) == HUNG_UP:
            os._exit(0)
        if status:
            os.write(control.fileno(), ANSWER.pack(number, status))


def bury(children):
    """Kills and reaps whatever a job left behind (only an unsealed job can leave anything). `children` is
    None in process 1 of a namespace."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                for child in [-1] if children is None else os.pread(children, 1 << 16, 0).split():
                    os.kill(int(child), signal.SIGKILL)
        except ChildProcessError:
            return


if __name__ == "__main__":
    main(socket.socket(fileno=program.reserve(int(sys.argv[1]))), int(sys.argv[2]))
