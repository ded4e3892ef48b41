"""One execution, inside its own process: take the limits, run a program, exit as Python would.

What runs functions instead is calls.py. Decides nothing: the exit status, the clock, standard output and
the returned values are judged outside. The candidate shares this interpreter, so whatever it does to the
harness can only change what it answers, and the expected answers are not here.
"""

import atexit
import builtins
import collections
import ctypes
import functools
import gc
import io
import itertools
import operator
import os
import resource
import signal
import sys
import threading
import types
import weakref

import kernel
import seccomp
import stand_ins

STACK_BYTES = 100 << 20  # deep recursion in C; the address space stays capped
MAX_FILES = 64
STDOUT = sys.stdout  # the interpreter's own
# The types of most objects, which do no more when they are dropped than drop what they refer to.
IDLE = frozenset(
    map(
        id,
        (
            list, dict, tuple, set, frozenset, map, filter, zip, enumerate, reversed, property, slice,
            collections.deque, collections.defaultdict, collections.OrderedDict, functools.partial,
            types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.CellType, types.ModuleType,
            types.FrameType, types.TracebackType, types.MappingProxyType, types.GetSetDescriptorType,
            types.MemberDescriptorType, type(iter([])), type(iter(())), type(iter({})),
            io.BytesIO, io.StringIO, io.BufferedReader, io.FileIO,
        ),
    )
)  # fmt: skip
C_FUNCTIONS = type(ctypes._CFuncPtr)  # what they print waits in buffers of C's
COLLECTIONS_OWN = frozenset(
    id(collection._remove.__code__)
    for collection in (weakref.WeakSet(), weakref.WeakKeyDictionary(), weakref.WeakValueDictionary())
)
NO_HANDLERS = sum(byte >> 7 for byte in (_ for _ in ()).gi_code.co_exceptiontable)  # of a plain generator
FRAMES = 6  # at most, of the harness: between the one that makes the program's module and the program
HAVE_GC = 1 << 14  # among a type's flags


def prepare():
    """What the parent of executions has for them to inherit, once a program: a page that an execution
    touches is copied, so it does as little as it can."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, MAX_FILES))
    most = resource.getrlimit(resource.RLIMIT_STACK)[1]  # stays: programs raise their own limit, up to it
    stack = STACK_BYTES if most == resource.RLIM_INFINITY else min(STACK_BYTES, most)
    resource.setrlimit(resource.RLIMIT_STACK, (stack, most))


def become(job, parent, files, cpu_s, file_bytes):
    """Turns a fresh fork, whose descriptors become `files`, into a jailed execution, or kills it (then it is
    nobody's verdict). Returns when its parent writes to the last of the files, which it closes, one more than
    the executions that wait."""
    try:
        kernel.die_with_parent(parent)
        for target, file in enumerate(files):
            os.dup2(file, target)
        os.closerange(len(files), 1 << 16)
        soft_cpu, limit, gate = int(cpu_s) + 1, resource.setrlimit, len(files) - 1
        limit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
        limit(resource.RLIMIT_CPU, (soft_cpu, soft_cpu + 1))
        # The room above is for the stacks of threads, which claim many times what they use.
        limit(resource.RLIMIT_AS, (job["memory_bytes"], job["memory_bytes"] + stand_ins.STACKS_BYTES))
        if job["sealed"]:
            seccomp.install_execution_filter(os.getpid())
        else:
            os.setsid()  # nothing else keeps its signals from its parent's group
        waiting = os.eventfd_read(gate) - 1
        os.close(gate)
        if job["max_threads"]:
            limit(resource.RLIMIT_NPROC, (job["max_threads"] + waiting,) * 2)
    except BaseException:  # noqa: BLE001 - the harness failed, so nothing here can be trusted to go on
        os.kill(os.getpid(), signal.SIGKILL)


def new_module(name):
    """A fresh module in the candidate's name, with what `site` would have added to builtins."""
    gc.freeze()  # what is not frozen from here on is the program's: may_act() looks at that
    stand_ins.RECURSION.begin_above(sys._getframe(1), FRAMES)
    module = sys.modules[name] = types.ModuleType(name)
    module.__dict__["__builtins__"] = builtins
    module.__dict__["__file__"] = "/program.py"
    builtins.exit = builtins.quit = sys.exit
    sys.argv[:] = [name]
    return module.__dict__


def run_stdin(prelude, code):
    """Runs a program as `python program.py` does, in the __main__ that there is, and never returns."""
    try:
        run_program(prelude, code)
        status = 0
    except SystemExit as stop:
        status = exit_status(stop.code)
    except BaseException as error:  # noqa: BLE001 - untrusted code raises anything
        status = report(error)
    leave(status)


def run_program(prelude, code):
    namespace = vars(sys.modules["__main__"])
    try:
        if prelude:
            exec(prelude, namespace)  # noqa: S102
        exec(code, namespace)  # noqa: S102 - the jail is what this file is for
    finally:  # as Python does at once, whatever comes then
        try:
            sys.stderr.flush()
            sys.stdout.flush()
        except BaseException:  # noqa: BLE001 - missing, broken or the program's own
            pass


def exit_status(code):
    """The status that Python makes of a SystemExit's code."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF if -(1 << 63) <= code < 1 << 63 else 0xFF  # -1 stands for what is no long of C
    print(code, file=sys.stderr)
    return 1


def report(error):
    """Does what Python does with an exception that nobody caught. Returns the exit status."""
    try:
        hook = sys.excepthook
        # Without this file's frames; the usual hook's last line says enough.
        trace = None if hook is sys.__excepthook__ else error.__traceback__.tb_next.tb_next
        hook(type(error), error.with_traceback(trace), trace)
    except SystemExit as stop:
        return exit_status(stop.code)
    except BaseException:  # noqa: BLE001 - an exception's own __str__ is untrusted
        os.write(2, b"exception that cannot be printed\n")
    return 1


def leave(status):
    """Ends the process as Python ends: joins threads, runs atexit, flushes, drops every object.

    Dropping them touches all of the interpreter's memory, which costs many times what else an execution
    costs. So it is done only where something that the program made may act then.
    """
    try:
        if len(threading._active) > 1 or threading._limbo or threading._threading_atexits:
            threading._shutdown()
        atexit._run_exitfuncs()
        if not may_act():
            sys.stdout.flush()
            os._exit(status)
    except BaseException:  # noqa: BLE001 - untrusted; Python's own end meets the same and reports it
        pass
    end, frame = kernel.LIBC.Py_Exit, sys._getframe()
    gc.unfreeze()  # the collector takes nothing that is frozen, and nothing that hangs on it
    while frame is not None:  # nor what these files hold, which would not be there
        frame.f_globals.clear()
        frame = frame.f_back
    end(status)


def may_act():
    """Whether anything of the program's may act while Python drops all objects."""
    if len(threading._active) > 1 or gc.callbacks or sys.gettrace() or sys.getprofile():
        return True
    if sys.stdout is not STDOUT or sys.stderr is not sys.__stderr__ or vars(STDOUT) != {"mode": "w"}:
        return True
    objects = gc.get_objects()  # those that are not frozen: the program's
    # There may be millions, so no loop in Python goes over them; types are told by identity, for a program's
    # metaclass may say that its class equals any other.
    if IDLE.issuperset(map(id, map(type, objects))):
        return False
    kinds = dict(zip(map(id, map(type, objects)), map(type, objects), strict=True))
    return any(of_kind_may_act(kind, objects) for number, kind in kinds.items() if number not in IDLE)


def of_kind_may_act(kind, objects):
    """Whether one of the `objects` whose type is `kind` may act when it is dropped."""
    found = itertools.compress(objects, map(operator.is_, map(type, objects), itertools.repeat(kind)))
    if kind is types.GeneratorType:
        return any(map(generator_may_act, found))
    if kind is io.TextIOWrapper:
        return any(id(type(stream.buffer)) not in IDLE for stream in found)
    if issubclass(kind, weakref.ReferenceType):
        return any(callback_may_act(reference.__callback__) for reference in found)
    if issubclass(kind, type) and (kind is C_FUNCTIONS or any(map(instances_hide, found))):
        return True
    return finalizes(kind) or type(kind) is C_FUNCTIONS


def generator_may_act(generator):
    """Whether it waits where something is to run when it is left, or for an iterator, which is closed too."""
    waits = generator.gi_suspended
    return waits and (handlers(generator.gi_code) > NO_HANDLERS or generator.gi_yieldfrom is not None)


def handlers(code):
    """How many stretches of code have something that runs where they are left by an exception."""
    return sum(byte >> 7 for byte in code.co_exceptiontable)  # a bit marks the first byte of an entry


def callback_may_act(callback):
    """Not those of the standard library's weak collections, nor what is written in C, as abc's own."""
    if type(callback) is types.FunctionType:
        return id(callback.__code__) not in COLLECTIONS_OWN
    return type(callback) not in (type(None), types.BuiltinFunctionType)


def instances_hide(cls):
    """Whether a class's instances finalize, and the collector, which knows objects that refer to others,
    does not know them."""
    return finalizes(cls) and not type.__getattribute__(cls, "__flags__") & HAVE_GC


def finalizes(cls):
    bases = type.__getattribute__(cls, "__mro__")
    return any("__del__" in type.__getattribute__(base, "__dict__") for base in bases)
