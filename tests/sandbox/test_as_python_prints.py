"""What `python file.py` prints is what is judged: each program is run both ways, and the outputs compared."""

import os
import subprocess
import sys

import pytest

from o1jax.records import Status, TestCase
from o1jax.sandbox.interface import Job, Limits

STDIN = "1 2\n"
DIES = "class A:\n  def __init__(s, n=0): s.n = n\n  def __del__(s): print('gone', s.n)\n"
FAST_IO = """
import os, sys
class Writer(io.IOBase):
    def __init__(self, file): self.fd, self.buffer = file.fileno(), io.BytesIO()
    def write(self, text): return self.buffer.write(text.encode())
    def flush(self):
        os.write(self.fd, self.buffer.getvalue())
        self.buffer.seek(0), self.buffer.truncate(0)
sys.stdout = Writer(sys.stdout)
print(input())
"""
ENDS = {
    "a file on descriptor 1": "out = os.fdopen(1, 'w'); out.write('3')",
    "a file on a duplicate": "out = os.fdopen(os.dup(1), 'w'); out.write('3'); print('first')",
    "a wrapper of the buffer": "out = io.TextIOWrapper(sys.stdout.buffer); print(3, file=out)",
    "a buffer of its own": "out = io.BufferedWriter(sys.stdout.buffer.raw); out.write(b'3')",
    "a writer of a codec": "import codecs\nout = codecs.getwriter('utf-8')(sys.stdout.buffer)\n"
    "out.write('é')",
    "a writer of rows": "import csv; out = csv.writer(open(1, 'w', closefd=False)); out.writerow([1, 2])",
    "standard output replaced": "sys.stdout = open(1, 'w', closefd=False); print(3)",
    "standard output replaced in memory": "sys.stdout = io.StringIO(); print(3)",
    "standard output wrapped": "sys.stdout = io.TextIOWrapper(sys.stdout.buffer); print(3)",
    "standard output detached": "sys.stdout = io.TextIOWrapper(sys.stdout.detach()); print(3)",
    "standard output detached for good": "out = sys.stdout.detach(); out.write(b'3')",
    "standard output reconfigured": "sys.stdout.reconfigure(encoding='latin-1', newline='\\r\\n')\n"
    "print('é')",
    "standard output closed": "print(3); sys.stdout.close()",
    "no standard output": "print(3); sys.stdout = None",
    "a writer of its own": FAST_IO,
    "a suspended generator": "def g():\n  try: yield\n  finally: print(3)\nx = g(); next(x)",
    "a generator in a chain": "import itertools\ndef g():\n  try: yield 1\n  finally: print(3)\n"
    "x = itertools.chain(g(), [2]); next(x)",
    "an iterator that a generator waits for": "class I:\n  def __iter__(s): return s\n"
    "  def __next__(s): return 1\n  def close(s): print(3)\ndef g(): yield from I()\nx = g(); next(x)",
    "a suspended coroutine": "class W:\n  def __await__(s): yield\nasync def f():\n  try: await W()\n"
    "  finally: print(3)\nx = f(); x.send(None)",
    "an open context": "import contextlib\n@contextlib.contextmanager\ndef c():\n  try: yield\n"
    "  finally: print(3)\nx = c(); x.__enter__()",
    "objects that write when they die": DIES + "a, b, c = A(1), [A(2)], {3: A(3)}",
    "objects in a cycle": DIES + "a = A(1); a.a = a; del a; b = A(2); b.b = b",
    "a nested class": "class O:\n" + DIES.replace("\n", "\n  ").replace("class", "  class") + "\na = O.A(1)",
    "a class of a function": "def f():\n"
    + DIES.replace("\n", "\n  ").replace("class", "  class")
    + "\n  return A(1)\na = f()",
    "objects that nobody counts": "def f():\n  class A:\n    __slots__ = ()\n    def __del__(s): print(3)\n"
    "  return A()\na = (f(),)",
    "an object that typing knows": DIES + "import typing\na = A(1)\ndef f(x: typing.List[A]): pass",
    "an object in a cache": DIES + "import functools\n@functools.lru_cache\ndef f(n): return A(n)\nf(1)",
    "an object of another module": DIES + "os.a = A(1)",
    "a class that equals every other": "class M(type):\n  def __eq__(s, o): return True\n"
    "  __hash__ = type.__hash__\n" + DIES.replace("A:", "A(metaclass=M):") + "a = A(1)",
    "a callback of a reference": "import weakref\nclass A: pass\na = A()\n"
    "r = weakref.ref(a, lambda _: print(3))",
    "a finalizer": "import weakref\nclass A: pass\na = A(); weakref.finalize(a, print, 3)",
    "threads, then atexit, then objects": DIES
    + "import atexit, threading\na = A(1); atexit.register(print, 2)\n"
    "threading.Timer(0.05, print, [3]).start(); print(4)",
    "a daemon": "import threading, time\n"
    "threading.Thread(target=lambda: time.sleep(9) or print(3), daemon=True).start(); print(4)",
    "a pool that is left": "from concurrent.futures import ThreadPoolExecutor\n"
    "ThreadPoolExecutor(2).submit(print, 3)",
    "a collector's callback": "import gc; gc.callbacks.append(lambda phase, info: print(phase))",
    "what C prints": "import ctypes; ctypes.CDLL(None).printf(b'3')",
    "leaving at exit": "import atexit; atexit.register(os._exit, 0); print(3)",
    "an exit status of many digits": "print(3); sys.exit(2 ** 70)",
    "an exit status of zero bytes": "print(3); sys.exit(256)",
    "an empty text as exit status": "print(3); sys.exit('')",
    "an exception that is caught at the top": "sys.excepthook = lambda *_: sys.exit(0)\n"
    "print(3)\nraise ValueError",
}
NAMES = {
    "its own file": "print(os.path.isabs(__file__), os.path.isdir(os.path.dirname(__file__)), __name__)",
    "a mark of its encoding": "\ufeffprint('é')",
    "a coding cookie": "# -*- coding: utf-8 -*-\nprint('é')",
    "/dev/stdin": "print(open('/dev/stdin').read())",
    "/dev/stdin as a path": "import pathlib; print(pathlib.Path('/dev/stdin').read_bytes())",
    "/dev/stdin as a descriptor": "print(os.read(os.open('/dev/stdin', os.O_RDONLY), 9))",
    "/dev/stdin by an attribute": "class A:\n  read = open\nprint(A().read('/dev/stdin').read())",
    "/dev/stdout": "print(3, file=open('/dev/stdout', 'w')); print(4)",
    "/dev/stdout left open": "out = open('/dev/stdout', 'w'); out.write('3')",
    "/dev/stderr": "print(3, file=open('/dev/stderr', 'w')); print(4)",
}
MACHINERY = {
    "a pool of threads": "from multiprocessing.pool import ThreadPool\n"
    "print(sum(ThreadPool(2).map(int, '12')))",
    "locks of processes": "import multiprocessing as m\nlock, own = m.Lock(), m.RLock()\n"
    "two = m.BoundedSemaphore(2)\nwith lock, own, own: print(lock.acquire(False))\n"
    "print(two.acquire(), two.acquire(), two.acquire(timeout=0.01))\n"
    "two.release(), two.release()\ntry: two.release()\nexcept ValueError as e: print(e)",
    "a queue of processes": "import multiprocessing as m; q = m.Queue(); q.put(3); print(q.get())",
    "asyncio": "import asyncio\nasync def f(n): await asyncio.sleep(n / 50); print(n)\n"
    "async def main(): await asyncio.gather(f(2), f(1))\nasyncio.run(main())",
    "asyncio with threads": "import asyncio\nasync def main():\n  print(await asyncio.to_thread(input))\n"
    "asyncio.run(main())",
    "asyncio with signals": "import asyncio, signal\nasync def main():\n  loop = asyncio.get_running_loop()\n"
    "  end = loop.create_future(); loop.add_signal_handler(signal.SIGUSR1, end.set_result, 3)\n"
    "  os.kill(os.getpid(), signal.SIGUSR1); print(await end)\nasyncio.run(main())",
    "an event loop that is left": "import asyncio\nloop = asyncio.new_event_loop()\n"
    "loop.run_until_complete(asyncio.sleep(0)); print(3)",
    "a stack of 256 MiB": "import threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(256 << 20)\n"
    "def f(n): return n and 1 + f(n - 1)\nthreading.Thread(target=lambda: print(f(50000))).start()",
    "a temporary file": "import tempfile\nwith tempfile.TemporaryFile() as f:\n"
    "  f.write(bytes(3 << 20)), f.seek(1 << 20), f.write(b'x'), f.seek(0)\n"
    "  print(len(f.read()), f.truncate(5))",
    "a temporary file with a name": "import tempfile\n"
    "with tempfile.NamedTemporaryFile('w+', suffix='.x') as f:\n"
    "  f.write('1\\n2\\n'), f.flush(); print(open(f.name).readlines(), f.name[-2:])\n"
    "  with open(f.name, 'a') as g: g.write('3')\n  f.seek(0); print(f.read())\n"
    "try: open(f.name)\nexcept OSError as e: print(type(e))",
    "the whole depth of recursion": "def f(n): return n and 1 + f(n - 1)\nprint(f(990))",
    "another limit of recursion": "sys.setrecursionlimit(200)\ndef f(n): return n and 1 + f(n - 1)\n"
    "print(f(190), sys.getrecursionlimit())\ntry: f(250)\nexcept RecursionError: print('deep')\n"
    "sys.setrecursionlimit(2**31 - 1)\ntry: sys.setrecursionlimit(0)\nexcept ValueError as e: print(e)",
    "the help of a function": "help(len)",
    "2 MiB of errors": "print(3); sys.stderr.write('x' * (2 << 20))",
    "many lines of errors": "for i in range(60000): print('x' * 40, file=sys.stderr)\nprint(3)",
}


@pytest.mark.parametrize("name", [*ENDS, *NAMES, *MACHINERY])
@pytest.mark.parametrize("tier", ["T2", pytest.param("T0", marks=pytest.mark.hostile)])
def test_the_judge_sees_what_python_prints(runner, judges, tmp_path, tier, name):
    source = {**ENDS, **NAMES, **MACHINERY}[name]
    head = "import io, os, sys\n"
    source = f"\ufeff{head}{source[1:]}" if source.startswith("\ufeff") else head + source
    (tmp_path / "program.py").write_text(source, encoding="utf-8")
    # As the judge's: otherwise the order of a set, or of two flushes, may differ.
    environment = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}
    command = [os.path.realpath(sys.executable), "-B", str(tmp_path / "program.py")]
    done = subprocess.run(command, input=STDIN.encode(), capture_output=True, env=environment)
    test = TestCase(STDIN, done.stdout.decode("utf-8", "replace"))
    limits = Limits(5.0, 120.0, memory_mb=256)
    job = Job(source, (test,), "stdin", limits=limits, keep_output=True)
    case = runner.run(judges(tier).judge(job)).cases[0]
    if done.returncode:
        assert case.status is Status.RE, (case, done)
    else:
        assert case.output == test.output, (case, done)


def test_the_last_error_is_told_behind_many(stdin_case):
    case = stdin_case("import sys\nsys.stderr.write('x' * (3 << 20) + '\\n')\nraise ValueError('the last')")
    assert (case.status, case.detail) == (Status.RE, "ValueError: the last")


def test_the_room_for_stacks_is_no_memory_of_the_programs(stdin_case):
    source = "import threading\nthreading.stack_size(64 << 20)\nx = bytearray(400 << 20)\nprint('ok')"
    assert stdin_case(source, limits=Limits(5.0, 60.0, memory_mb=256)).status is Status.MLE


def test_temporary_files_are_memory_of_the_programs(stdin_case):
    source = "import tempfile\nwith tempfile.TemporaryFile() as f:\n  while True: f.write(bytes(1 << 20))"
    assert stdin_case(source, limits=Limits(5.0, 60.0, memory_mb=64)).status is Status.MLE
