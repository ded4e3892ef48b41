"""One execution of functions: call-form and assertion tests, each answered by a line of encoded values.

Decides nothing, like leaf.py: an answer is the candidate's word, compared outside.
"""

import builtins
import json
import os
import re

import leaf
import values

VALUES_FD = 3  # where answers go, one line of JSON a test
REQUESTS_FD = 4  # where a checker asks from
OVER = b'{"e": "OLE"}\n'


def run(job, code, first):
    """Answers the tests from `first` on; never returns."""
    answer = _answerer(job, code)
    for text in job["inputs"][first:]:
        answer(json.loads(text) if job["form"] == "assertion" else {"arguments": text})
    os._exit(0)


def serve(job, code):
    """Answers what a checker asks, line by line, until it hangs up; never returns."""
    answer = _answerer(job, code)
    with open(REQUESTS_FD, "rb") as requests:
        for line in requests:
            answer(json.loads(line))
    os._exit(0)


def _answerer(job, code):
    """A function that answers one question. Loads the program first: a failure there is every answer."""
    dumps, write, cap = json.dumps, os.write, job["output_bytes"]
    try:
        namespace, failure = load(job, code), None
    except BaseException as error:  # noqa: BLE001 - untrusted code raises anything
        namespace, failure = {}, described(error)

    def answer(asked):
        try:
            line = dumps(failure or answered(job, namespace, asked)).encode() + b"\n"
        except BaseException as error:  # noqa: BLE001 - untrusted code raises anything
            line = dumps(described(error)).encode() + b"\n"
        line = line if len(line) <= cap else OVER
        while line:
            line = line[write(VALUES_FD, line) :]

    return answer


def load(job, code):
    """The candidate's namespace after its program and the problem's setup.

    Setup runs last, for it may use the candidate's definitions; where the program itself needs the
    setup (NameError), setup runs before it too.
    """
    namespace = new_namespace(job)
    setup = compile(job["setup"], "<setup>", "exec", dont_inherit=True)
    try:
        exec(code, namespace)  # noqa: S102
    except NameError:
        if not job["setup"]:
            raise
        namespace = new_namespace(job)
        exec(setup, namespace)  # noqa: S102
        exec(code, namespace)  # noqa: S102
    exec(setup, namespace)  # noqa: S102
    return namespace


def new_namespace(job):
    """The names that the problem's prelude gives a program. One that is called as the entry point moves to
    the builtins: there a program may use it, and it is no function of the program's own."""
    namespace = leaf.new_module("solution")
    exec(compile(job["prelude"], "<prelude>", "exec", dont_inherit=True), namespace)  # noqa: S102
    if job["entry_point"] in namespace:
        setattr(builtins, job["entry_point"], namespace.pop(job["entry_point"]))
    return namespace


def answered(job, namespace, asked):
    """{"v": encoded value}, or {"e": status, "d": detail} where there is no function."""
    if type(asked) is list:
        return {"v": evaluate(namespace, asked)}
    name = asked.get("call", job["entry_point"])
    function = entry_point(namespace, name)
    if function is None:
        return {"e": "NORESULT", "d": f"no function {name!r}"}
    if "call" not in asked:
        import ast  # kept out of the zygote: 1 MiB that only call form needs

        return {"v": values.encode(function(*ast.literal_eval(asked["arguments"])))}
    positional = [received(namespace, argument) for argument in asked["positional"]]
    named = {key: received(namespace, argument) for key, argument in asked["named"].items()}
    return {"v": values.encode(function(*positional, **named))}


def received(namespace, argument):
    """A checker's argument: a plain value, or the name of something that lives here."""
    return namespace[argument["n"]] if "n" in argument else values.decode(argument["v"])


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
