"""What untrusted programs try, one promise each. Data only; test_hostile.py says what must come of it."""

PRELUDE = """
import ctypes, errno, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
arm = os.uname().machine == "aarch64"

def refused(action, *arguments):
    try:
        action(*arguments)
    except OSError:
        return
    print("escaped")

def call(on_x86, on_arm, *arguments):
    if libc.syscall(on_arm if arm else on_x86, *arguments) >= 0:
        print("escaped")

def returns_error(value):
    if value >= 0:
        print("escaped")

"""

# Each must be refused, and then prints "ok" alone.
TRIES = {
    "fork": "refused(os.fork)",
    "libc's fork": "returns_error(libc.fork())",
    "raw clone": "call(56, 220, 17, 0, 0, 0, 0)",
    "raw clone into namespaces": "call(56, 220, 0x10000000 | 17, 0, 0, 0, 0)",
    "raw clone3": "call(435, 435, (ctypes.c_uint64 * 8)(), 64)",
    "unshare": "call(272, 97, 0x10000000)",
    "setns": "call(308, 268, 0, 0)",
    "exec": "refused(os.execv, '/bin/true', ['true'])",
    "execveat": "call(322, 281, -100, b'/bin/true', None, None, 0)",
    "a subprocess": "import subprocess; refused(subprocess.run, ['/bin/true'])",
    "posix_spawn": "refused(os.posix_spawn, '/bin/true', ['true'], {})",
    "a signal to its parent": "refused(os.kill, os.getppid(), 9)",
    "a signal to everybody": "refused(os.kill, -1, 9)",
    "a signal to process 1": "refused(os.kill, 1, 15)",
    "a signal to group 0": "refused(os.kill, 0, 9)",
    "a signal to its parent's group": "refused(os.killpg, 1, 9)",
    "SIGKILL to itself": "refused(os.kill, os.getpid(), 9)",
    "tgkill of its parent": "call(234, 131, os.getppid(), os.getppid(), 9)",
    "tkill of its parent": "call(200, 130, os.getppid(), 9)",
    "a queued signal": "call(129, 138, os.getppid(), 15, (ctypes.c_int * 32)(0, 0, -1))",
    "a pidfd": "refused(os.pidfd_open, os.getppid())",
    "a signal by pidfd": "call(424, 424, 0, 9, None, 0)",
    "signals by F_SETOWN": "import fcntl; refused(fcntl.fcntl, os.pipe()[0], fcntl.F_SETOWN, os.getppid())",
    "another signal by F_SETSIG": "import fcntl; refused(fcntl.fcntl, os.pipe()[0], 10, 9)",
    "signals by FIOASYNC": "import fcntl; refused(fcntl.ioctl, os.pipe()[0], 0x5452, b'\\1\\0\\0\\0')",
    "a timer of another kind": "call(222, 107, 0, None, (ctypes.c_int * 4)())",
    "a pair of sockets": "import socket; refused(socket.socketpair)",
    "io_uring": "call(425, 425, 8, (ctypes.c_char * 256)())",
    "the password file": "refused(open, '/etc/passwd')",
    "root's home": "refused(os.listdir, '/root')",
    "the supervisor's source": "refused(open, HERE)",
    "its own /proc": "refused(open, '/proc/self/environ')",
    "its parent's memory": "refused(open, f'/proc/{os.getppid()}/mem', 'rb')",
    "kernel settings": "refused(open, '/proc/sys/kernel/core_pattern', 'w')",
    "cgroups": "refused(os.listdir, '/sys/fs/cgroup')",
    "a file in /tmp": "refused(open, '/tmp/o1jax_escape', 'w')",
    "a file in /dev/shm": "refused(open, '/dev/shm/o1jax_escape', 'w')",
    "a file in its directory": "refused(open, 'o1jax_escape', 'w')",
    "a directory": "refused(os.mkdir, '/o1jax_escape')",
    "a link": "refused(os.symlink, '/', '/o1jax_escape')",
    "a device": "refused(os.mknod, '/o1jax_escape')",
    "changing the standard library": "refused(open, os.__file__, 'a')",
    "deleting the standard library": "refused(os.unlink, os.__file__)",
    "truncating the standard library": "refused(os.truncate, os.__file__, 0)",
    "permissions of the standard library": "refused(os.chmod, os.__file__, 0o777)",
    "attributes of the standard library": "refused(os.setxattr, os.__file__, 'user.x', b'1')",
    "a mount": "call(165, 40, b'none', b'/', b'tmpfs', 0, None)",
    "an unmount": "call(166, 39, b'/', 2)",
    "another root": "refused(os.chroot, '/')",
    "another root by pivot": "call(155, 41, b'.', b'.')",
    "a file by its handle": "call(304, 265, -100, (ctypes.c_int * 8)(), 0)",
    "tracing itself": "call(101, 117, 0, 0, 0, 0)",
    "tracing its parent": "call(101, 117, 16, os.getppid(), 0, 0)",
    "reading its parent's memory": "call(310, 270, os.getppid(), None, 0, None, 0, 0)",
    "taking its parent's files": "call(438, 438, 0, 0, 0)",
    "bpf": "call(321, 280, 0, (ctypes.c_char * 64)(), 64)",
    "perf events": "call(298, 241, (ctypes.c_char * 128)(), 0, -1, -1, 0)",
    "userfaultfd": "call(323, 282, 1)",
    "the kernel's keys": "call(250, 219, 0, -3, 0)",
    "the kernel's log": "call(103, 116, 3, (ctypes.c_char * 64)(), 64)",
    "a kernel module": "call(313, 273, 0, b'', 0)",
    "a reboot": "call(169, 142, 0xfee1dead, 672274793, 0, None)",
    "System V memory": "call(29, 194, 0, 1 << 20, 0o1666)",
    "System V semaphores": "call(64, 190, 0, 1, 0o1666)",
    "System V messages": "call(68, 186, 0, 0o1666)",
    "a message queue": "call(240, 180, b'q', 0o102, 0o600, None)",
    "a file in memory": "refused(os.memfd_create, 'm')",
    "a secret file in memory": "call(447, 447, 0)",
    "locked memory": "returns_error(libc.mlockall(3))",
    "a higher limit": "import resource as r\ntry: r.setrlimit(r.RLIMIT_AS, (-1, -1))\n"
    "except (ValueError, OSError): pass\nelse: print('escaped')",
    "its parent's limits": "import resource as r; refused(r.prlimit, os.getppid(), r.RLIMIT_CPU, (1, 1))",
    "its parent's processors": "refused(os.sched_setaffinity, os.getppid(), {0})",
    "its parent's priority": "refused(os.setpriority, os.PRIO_PROCESS, os.getppid(), 19)",
    "outliving its parent": "returns_error(libc.prctl(1, 0, 0, 0, 0))",
    "a filter of its own": "returns_error(libc.prctl(22, 1, 0, 0, 0))",
    "being dumpable": "returns_error(libc.prctl(4, 1, 0, 0, 0))",
    "another session": "refused(os.setsid)",
    "another user": "refused(os.setuid, 0)",
    "another personality": "call(135, 92, 0x0040000)",
    "another host name": "returns_error(libc.sethostname(b'x', 1))",
    "another clock": "import time; refused(time.clock_settime, time.CLOCK_REALTIME, 0)",
    "the supervisor's environment": "assert not os.environ and sys.argv == ['__main__']",
    "open descriptors": "for fd in range(3, 256): refused(os.fstat, fd)",
}
FAMILIES = {
    "UNIX": 1, "INET": 2, "INET6": 10, "NETLINK": 16, "PACKET": 17, "CAN": 29, "TIPC": 30, "BLUETOOTH": 31,
    "ALG": 38, "VSOCK": 40, "QIPCRTR": 42,
}  # fmt: skip
TRIES |= {
    f"a socket of family {name}": f"import socket; refused(socket.socket, {number}, socket.SOCK_STREAM)"
    for name, number in FAMILIES.items()
}

IGNORING = """
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
"""
THREADS = """
import threading, time
for _ in range(1000):
    threading.Thread(target=time.sleep, args=(600,)).start()
"""
WALK = """
import gc
for seen in [frame.f_locals for frame in sys._current_frames().values()] + gc.get_objects():
    if type(seen) in (str, bytes, dict) and "detcepxe-terces" in str(seen)[:9999][::-1]:
        print("detcepxe-terces"[::-1])
        break
"""
FLOOD = "while True: sys.{}.write('x' * 65536)"
# Each must end with one of these statuses.
ENDS = {
    "fork bomb": ("RE", "while True: os.fork()"),
    "loop in Python": ("TLE", "while True: pass"),
    "loop in C": ("TLE", "sum(iter(int, 1))"),
    "loop in a regular expression": ("TLE", "import re; re.match('(a*)*b', 'a' * 64)"),
    "loop in one power": ("TLE MLE", "x = 9 ** 9 ** 9"),
    "loop that ignores signals": ("TLE", IGNORING + "while True: pass"),
    "loop that catches everything": (
        "TLE",
        "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
    ),
    "loop in threads": (
        "TLE",
        "import threading\nfor _ in range(4): threading.Thread(target=lambda: sum(iter(int, 1))).start()",
    ),
    "loop at exit": ("TLE", "import atexit; atexit.register(lambda: sum(iter(int, 1)))"),
    "sleep": ("TLE", "import time; time.sleep(600)"),
    "sleep that ignores signals": ("TLE", IGNORING + "while True: signal.pause()"),
    "stopping itself": ("TLE", "os.kill(os.getpid(), signal.SIGSTOP)"),
    "waiting for input": ("TLE", "os.read(os.pipe()[0], 1)"),
    "a thread that never ends": (
        "TLE",
        "import threading, time; threading.Thread(target=time.sleep, args=(600,)).start()",
    ),
    "memory: a list": ("MLE", "x = [0] * 10**9"),
    "memory: byte arrays": ("MLE", "x = []\nwhile True: x.append(bytearray(1 << 20))"),
    "memory: a text": ("MLE", "x = 'a'\nwhile True: x += x"),
    "memory: shared": ("RE MLE", "import mmap; x = mmap.mmap(-1, 1 << 32)"),
    "memory: stacks": (
        "RE MLE",
        "import threading, time; threading.stack_size(256 << 20)\n"
        "for _ in range(64): threading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
    ),
    "memory: a bomb of zeros": (
        "MLE",
        "import zlib; x = zlib.decompress(zlib.compress(bytes(1 << 24)) * 1, bufsize=1 << 33)",
    ),
    "output flood": ("OLE RE", FLOOD.format("stdout")),
    "errors flood": ("OLE RE TLE", FLOOD.format("stderr")),  # whichever limit is met first
    "output past the limit": ("OLE", "print('x' * (2 << 20))"),
    "output by a huge truncate": ("OLE RE", "os.ftruncate(1, 1 << 40)"),
    "a thousand threads": ("RE TLE", THREADS),
    "a thousand files": ("RE", "x = [open('/dev/null') for _ in range(1000)]"),
    "deep recursion": ("RE", "def f(): f()\nf()"),
    "deeper recursion": (
        "RE MLE TLE",
        "sys.setrecursionlimit(10**9)\ndef f(n): return str(f(n + 1)) and [f(n)]\nf(0)",
    ),
    "segmentation fault": ("RE", "ctypes.string_at(0)"),
    "abort": ("RE", "os.abort()"),
    "wrong exit status": ("RE", "print('ok'); sys.exit(3)"),
    "a text as exit status": ("RE", "print('ok'); sys.exit('no')"),
    "an exception after the output": ("RE", "print('ok'); raise ValueError"),
    "an exception that cannot be shown": (
        "RE",
        "class E(Exception):\n  def __str__(self): raise self\nprint('ok')\nraise E",
    ),
    "an exception at exit of the interpreter": (
        "RE",
        "import atexit\ndef f(): os._exit(1)\natexit.register(f)",
    ),
    "leaving before the output is written": ("WA", "print('ok'); os._exit(0)"),
    "closing every descriptor": ("WA RE", "os.closerange(0, 9999); print('ok')"),
    "closing standard output": ("WA RE", "os.close(1); print('ok')"),
    "nothing at all": ("WA", "pass"),
    "a NUL in the output": ("WA", "print('ok\\0')"),
    "output that is no text": ("WA", "sys.stdout.buffer.write(b'ok\\xff')"),
    "the output with more behind it": ("WA", "print('ok'); print('ok')"),
    "forged verdict on standard error": ("WA", "print('AC passed 1/1', file=sys.stderr); os._exit(0)"),
    "a tracer that ends the program": (
        "WA RE TLE",
        "def t(*_): os._exit(0)\nsys.settrace(t); sys.setprofile(t)\ndef f(): print('ok')\nf()",
    ),
    "a patched interpreter": (
        "WA RE",
        "import builtins\nbuiltins.print = None\nsys.stdout = None\nos._exit = print\nsys.exit(0)",
    ),
    "a patched exit": ("WA RE", "os._exit = lambda status: None\nsys.exit(9)"),
    "a walk over frames and objects": ("WA", WALK),
}

SECRET = "secret-expected\n"  # what the walk looks for is what is expected of it
WAITS = {  # past the wall time, not the CPU's
    "sleep", "sleep that ignores signals", "stopping itself", "waiting for input",
    "a thread that never ends", "a thousand threads", "memory: stacks",
}  # fmt: skip

METACLASS = """
class M(type):
    def __eq__(cls, other): return True
    __hash__ = type.__hash__
class Z(metaclass=M): pass
def f(): return Z()
"""
PATCHED_ENCODER = """
import builtins, json
json.dumps = lambda *arguments: '{"v": 1}'
builtins.type = lambda value: int
def f(): return 0
"""
PATCHED_HARNESS = """
import sys
for module in list(sys.modules.values()):
    if hasattr(module, "encode") and hasattr(module, "BadValue"):
        module.encode = lambda value: 2
def f(): return 0
"""
# Call form, `f()` expected to return 1: each must end with one of these statuses, for every call.
VALUES = {
    "an int that equals everything": (
        "BADVALUE",
        "class Z(int):\n  def __eq__(s, o): return True\n  __hash__ = int.__hash__\ndef f(): return Z()",
    ),
    "a str that equals everything": (
        "BADVALUE",
        "class Z(str):\n  def __eq__(s, o): return True\n  __hash__ = str.__hash__\ndef f(): return Z()",
    ),
    "an object that equals everything": (
        "BADVALUE",
        "class Z:\n  def __eq__(s, o): return True\ndef f(): return Z()",
    ),
    "a list of such": ("BADVALUE", "class Z(list):\n  def __eq__(s, o): return True\ndef f(): return [Z()]"),
    "a lying class": (
        "BADVALUE",
        "class Z:\n  __class__ = int\n  def __eq__(s, o): return True\ndef f(): return Z()",
    ),
    "a lying metaclass": ("BADVALUE", METACLASS),
    "a list that holds itself": ("BADVALUE", "def f():\n  x = []\n  x.append(x)\n  return x"),
    "a generator": ("BADVALUE", "def f(): yield 1"),
    "a function": ("BADVALUE", "def f(): return f"),
    "an enum": ("BADVALUE", "import enum\nclass E(enum.IntEnum):\n  A = 1\ndef f(): return E.A"),
    "an endless value": (
        "BADVALUE MLE TLE OLE",
        "def f():\n  x = [0]\n  for _ in range(60): x = [x, x]\n  return x",
    ),
    "a value of a gigabyte": ("MLE OLE BADVALUE", "def f(): return 'x' * (1 << 30)"),
    "true for one": ("WA", "def f(): return True"),
    "no value": ("WA", "def f(): pass"),
    "no function": ("NORESULT", "g = 1"),
    "leaving": ("NORESULT", "import os\ndef f(): os._exit(0)"),
    "leaving by SystemExit": ("RE", "import sys\ndef f(): sys.exit(0)"),
    "leaving at the start": ("NORESULT", "import os\nos._exit(0)"),
    "a loop": ("TLE", "def f():\n  while True: pass"),
    "a forged answer": ("NORESULT", 'import os\ndef f():\n  os.write(3, b\'{"e": "AC"}\\n\')\n  os._exit(0)'),
    "a forged answer, then a right one": (
        "NORESULT RE WA",
        'import os\ndef f():\n  os.write(3, b\'{"e": "AC"}\')\n  return 0',
    ),
    "an answer that is no JSON": (
        "NORESULT",
        "import os\ndef f():\n  os.write(3, b'{' * 9999 + b'\\n')\n  os._exit(0)",
    ),
    "a patched encoder": ("WA RE BADVALUE", PATCHED_ENCODER),
    "patched operating system": (
        "WA NORESULT",
        "import os\nos.write = lambda fd, data: len(data)\ndef f(): return 2",
    ),
    "a patched module of the harness": ("WA RE BADVALUE", PATCHED_HARNESS),
    "an exception that lies of itself": (
        "RE",
        "class E(Exception):\n  def __str__(s): return '\\n{\"v\": 1}'\ndef f(): raise E",
    ),
}

DOES_NOT_COMPILE = {
    "half a call": "print(",
    "a lone surrogate": "x = '\ud800'",
    "a NUL": "a\0b",
    "five thousand brackets": "(" * 5000,
    "two hundred thousand signs": "-" * 200_000 + "1",
    "return outside": "return 1",
    "a number that is a name": "1" * 5000 + "x",
    "an endless constant": "x = " + "(" * 99 + "1" + ",)" * 98,
}

SHORT = {  # what `make test` runs
    "fork", "raw clone", "exec", "a signal to its parent", "a socket of family INET", "io_uring",
    "a socket of family VSOCK", "the supervisor's source", "a file in /tmp", "its parent's limits",
    "deleting the standard library", "signals by F_SETOWN", "loop that ignores signals", "sleep",
    "memory: a list", "output past the limit", "segmentation fault", "wrong exit status",
    "leaving before the output is written", "a walk over frames and objects", "a forged answer",
    "an int that equals everything", "a list that holds itself", "a patched module of the harness",
    "five thousand brackets",
}  # fmt: skip
