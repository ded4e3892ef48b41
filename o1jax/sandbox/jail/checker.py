"""The checker: runs the tests that cannot be rewritten, in a jailed process without the candidate.

The candidate lives in another process and answers questions over a pipe (calls.serve); here each of its
names is a stub, and a call returns a plain value or raises. So no object, class or patch of the
candidate's is near the test, and the test's text, with what it expects, is not near the candidate.

An exception of the candidate's is raised here as the nearest of its classes that this process knows. What is
no exception but a failure (an answer that cannot be read, a value that is not plain, leaving) is the
test's result, whatever the test catches.
"""

import importlib
import json
import os
import select
import sys
import threading

import calls
import leaf
import values

VALUES_FD, ANSWERS_FD, CHECKS_FD, QUESTIONS_FD = 3, 4, 5, 6
# What an iterator, or a test runner, takes for an end.
ENDINGS = {"StopIteration", "StopAsyncIteration", "SkipTest"}


class Failed(BaseException):
    """The candidate's answer is a failure, which its Candidate holds."""


class EndedIteration(RuntimeError):
    """The candidate raised one of ENDINGS: as itself it could end the test's own loops early (PEP 479)."""


class Candidate:
    """The candidate's end of the pipes, during one test; `failure` is what it said where that was one."""

    def __init__(self, most_bytes, text, namespace):
        self.failure = None
        self._most_bytes = most_bytes
        self._text, self._namespace = text, namespace
        self._lock = threading.Lock()  # a test may call from several threads

    def ask(self, question):
        """What it says to one question: a dict, "v" or "e" in it. Where it is gone, this process ends too, at
        once, for a test could catch an exception; then the lines end."""
        with self._lock:
            line = self._exchanged(json.dumps(question).encode() + b"\n")
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            said = None
        if type(said) is dict and ("v" in said or type(said.get("e")) is str):
            return said
        return {"e": "NORESULT", "d": "unreadable answer"}

    def _exchanged(self, data):
        """The (untrusted) line that answers the line `data`; more than a line where it says more."""
        if select.select([ANSWERS_FD], [], [], 0)[0]:  # it has ended, or answers what nobody asked
            return os.read(ANSWERS_FD, 1 << 20) and b"" or os._exit(0)
        try:
            while data:
                data = data[os.write(QUESTIONS_FD, data) :]
        except BrokenPipeError:
            os._exit(0)
        parts, size = [], 0
        while not parts or not parts[-1].endswith(b"\n"):
            parts.append(os.read(ANSWERS_FD, 1 << 16))
            size += len(parts[-1])
            if not parts[-1] or size > self._most_bytes:
                os._exit(0)
        return b"".join(parts)

    def value(self, question):
        """The plain value that it answers. Raises the candidate's exception, and Failed."""
        if self.failure is None:
            said = self.ask(question)
            if "v" in said:
                try:
                    return values.decode(said["v"])
                except values.BadValue as error:
                    self.fail({"e": "NORESULT", "d": str(error)})
            elif (error := self.exception(said)) is not None:
                raise error
            else:
                self.fail({"e": said["e"], "d": said.get("d")})
        raise Failed

    def fail(self, said):
        self.failure = self.failure or said

    def exception(self, said):
        """The exception that an answer tells of, as the first of its classes that is known here. None where
        it tells of none, or of one that is no Exception and that the test does not name: that is leaving."""
        try:
            state = values.decode(said["s"]) if "s" in said else {}
            for module, name, arguments in said["k"]:
                kind = self._kind(module, name)
                error = kind and built(kind, [values.decode(argument) for argument in arguments])
                if error is None:
                    continue
                if ended := ENDINGS & {base.__name__ for base in kind.__mro__}:
                    return EndedIteration(f"the program raised {ended.pop()}")
                vars(error).update(state)
                return error if isinstance(error, Exception) or kind.__name__ in self._text else None
        except BaseException:  # noqa: BLE001 - another process's word, which also names what is imported
            pass
        return None

    def _kind(self, module, name):
        """The exception class of that name: one of the standard library's whose module is imported here or
        named by the test, for it can name no other, or one that the setup defines for both."""
        top, found = module.partition(".")[0], None
        if module == "solution":
            found = self._namespace.get(name)
        elif top in sys.stdlib_module_names and (module in sys.modules or top in self._text):
            found = vars(importlib.import_module(module)).get(name)
        return found if isinstance(found, type) and issubclass(found, BaseException) else None


class Stub:
    """A name of the candidate's: can be called, and passed to another call."""

    __slots__ = ("_candidate", "_name")

    def __init__(self, candidate, name):
        self._candidate, self._name = candidate, name

    def __call__(self, *positional, **named):
        question = {
            "call": self._name,
            "positional": [self._sent(argument) for argument in positional],
            "named": {key: self._sent(argument) for key, argument in named.items()},
        }
        return self._candidate.value(question)

    def _sent(self, argument):
        if type(argument) is Stub:
            return {"n": argument._name}
        try:
            return {"v": values.encode(argument)}
        except values.BadValue as error:  # a TypeError, as the test may expect one of the candidate
            self._candidate.fail(calls.described(error))
            raise Failed from error

    def __getattr__(self, attribute):
        """A test may count on a module that the program imports: then it is the module itself."""
        if self._name not in sys.stdlib_module_names:
            raise AttributeError(f"{self._name}.{attribute}: the candidate's names can only be called")
        return getattr(importlib.import_module(self._name), attribute)


def built(kind, arguments):
    """An exception, or None where it cannot be made of these arguments."""
    try:
        return kind(*arguments)
    except Exception:  # noqa: BLE001 - a class of the standard library's, arguments of the candidate's
        return None


def run(job, first):
    """Judges the tests from `first` on, one line of JSON a test to VALUES_FD; never returns. Where the
    candidate is gone, the lines end."""
    checks = json.loads(os.pread(CHECKS_FD, os.fstat(CHECKS_FD).st_size, 0))
    for index in range(first, len(job["inputs"])):
        block = checks["blocks"].get(str(index))
        if block is None:
            said = Candidate(job["output_bytes"], "", {}).ask(json.loads(job["inputs"][index]))
            said = {key: said[key] for key in ("v", "e", "d") if key in said}
        else:
            said = check(block, checks["setup"], job)
        os.write(VALUES_FD, json.dumps(said).encode() + b"\n")
    os._exit(0)


def check(block, setup, job):
    """What comes of one test's text, in a namespace of its own, after what the setup has for it; the names
    that are missing then are stubs."""
    namespace = leaf.new_module("check")
    candidate = Candidate(job["output_bytes"], setup + block["text"], namespace)
    stubs = {name: Stub(candidate, name) for name in block["names"]}
    namespace.update(stubs, EndedIteration=EndedIteration)
    said = {"v": [True]}
    try:
        exec(compile(setup, "<setup>", "exec", dont_inherit=True), namespace)  # noqa: S102
        if job["entry_point"] in stubs:  # whatever the setup has by its name
            namespace[job["entry_point"]] = stubs[job["entry_point"]]
        exec(compile(block["text"], "<test>", "exec", dont_inherit=True), namespace)  # noqa: S102
    except BaseException as error:  # noqa: BLE001 - the test raises what it likes
        said = calls.described(error)
    return candidate.failure or said
