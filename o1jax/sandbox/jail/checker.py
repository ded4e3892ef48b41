"""The checker: runs the tests that cannot be rewritten, in a jailed process without the candidate.

The candidate lives in another process and answers questions over a pipe (calls.serve); here each of its
names is a stub, and a call returns a plain value or raises. So no object, class or patch of the
candidate's is near the test, and the test's text, with what it expects, is not near the candidate.
"""

import builtins
import functools
import importlib
import json
import os
import sys

import calls
import leaf
import values

VALUES_FD, ANSWERS_FD, CHECKS_FD, QUESTIONS_FD = 3, 4, 5, 6


class Failed(Exception):
    """The candidate's answer is a failure; args[0] is what it says of itself."""


class Gone(BaseException):
    """The candidate is gone, or speaks no answer that ends."""


class Stub:
    """A name of the candidate's: can be called, and passed to another call."""

    __slots__ = ("_ask", "_name")

    def __init__(self, ask, name):
        self._ask, self._name = ask, name

    def __call__(self, *positional, **named):
        question = {
            "call": self._name,
            "positional": [sent(argument) for argument in positional],
            "named": {key: sent(argument) for key, argument in named.items()},
        }
        return values.decode(self._ask(question))

    def __getattr__(self, attribute):
        """A test may count on a module that the program imports: then it is the module itself."""
        if self._name not in sys.stdlib_module_names:
            raise AttributeError(f"{self._name}.{attribute}: the candidate's names can only be called")
        return getattr(importlib.import_module(self._name), attribute)


def sent(argument):
    return {"n": argument._name} if type(argument) is Stub else {"v": values.encode(argument)}


def run(job, first):
    """Judges the tests from `first` on, one line of JSON a test to VALUES_FD; never returns. Where the
    candidate is gone, the lines end."""
    checks = json.loads(os.pread(CHECKS_FD, os.fstat(CHECKS_FD).st_size, 0))
    ask = functools.partial(asked, job["output_bytes"])
    for index in range(first, len(job["inputs"])):
        block = checks["blocks"].get(str(index))
        try:
            if block is None:
                said = {"v": ask(json.loads(job["inputs"][index]))}
            else:
                check(block, checks, ask)
                said = {"v": [True]}
        except Gone:
            os._exit(0)
        except Failed as failure:
            said = failure.args[0]
        except BaseException as error:  # noqa: BLE001 - the test raises what it likes
            said = calls.described(error)
        os.write(VALUES_FD, json.dumps(said).encode() + b"\n")
    os._exit(0)


def check(block, checks, ask):
    """Runs one test's text in a namespace of its own. The setup runs here too if it can do without the
    candidate; the names that are missing then are stubs."""
    namespace = leaf.new_module("check")
    namespace.update({name: Stub(ask, name) for name in block["names"]})
    exec(compile(checks["setup"], "<setup>", "exec", dont_inherit=True), namespace)  # noqa: S102
    exec(compile(block["text"], "<test>", "exec", dont_inherit=True), namespace)  # noqa: S102


def asked(most_bytes, question):
    """Asks the candidate one question; returns its (untrusted) encoded value."""
    data, line = json.dumps(question).encode() + b"\n", b""
    try:
        while data:
            data = data[os.write(QUESTIONS_FD, data) :]
    except BrokenPipeError as error:
        raise Gone from error
    while not line.endswith(b"\n"):
        part = os.read(ANSWERS_FD, 1 << 16)
        if not part or len(line) > most_bytes:
            raise Gone
        line += part
    try:
        said = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Failed({"e": "NORESULT", "d": "unreadable answer"}) from error
    if type(said) is dict and "v" in said:
        return said["v"]
    detail = said.get("d") if type(said) is dict else None
    if type(detail) is str and said.get("e") == "RE":
        name, _, message = detail.partition(": ")
        kind = vars(builtins).get(name)
        if isinstance(kind, type) and issubclass(kind, Exception):  # for tests that expect an exception
            raise kind(message)
    raise Failed(said)
