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
MOST_OF_AN_ERROR = 1 << 16  # bytes of arguments and attributes, beyond which its message must do
OVER = b'{"e": "OLE"}\n'


def run(job, code, first):
    """Answers the tests from `first` on; never returns."""
    answer = _answerer(job, code, described)
    for text in job["inputs"][first:]:
        answer(json.loads(text) if job["form"] == "assertion" else {"arguments": text})
    os._exit(0)


def serve(job, code):
    """Answers what a checker asks, line by line, until it hangs up; never returns."""
    answer = _answerer(job, code, raised)
    with open(REQUESTS_FD, "rb") as requests:
        for line in requests:
            answer(json.loads(line))
    os._exit(0)


def _answerer(job, code, tell):
    """A function that answers one question, by `tell` where it raises. Loads the program first: a failure
    there is every answer."""
    dumps, write, cap = json.dumps, os.write, job["output_bytes"]
    try:
        namespace, failure = load(job, code), None
    except BaseException as error:  # noqa: BLE001 - untrusted code raises anything
        namespace, failure = {}, described(error)

    def answer(asked):
        try:
            line = dumps(failure or answered(job, namespace, asked)).encode() + b"\n"
        except BaseException as error:  # noqa: BLE001 - untrusted code raises anything
            line = dumps(tell(error)).encode() + b"\n"
        line = line if len(line) <= cap else OVER
        while line:
            line = line[write(VALUES_FD, line) :]

    return answer


def load(job, code):
    """The candidate's namespace after the prelude, what it gets of the problem's setup, and the program,
    whose own names win.

    What of the setup needs the program (NameError) runs after it. So does, once more, what sets the values
    that tests name: these are theirs whatever the program calls by the same names.
    """
    namespace = leaf.new_module("solution")
    exec(compile(job["prelude"], "<prelude>", "exec", dont_inherit=True), namespace)  # noqa: S102
    parts = [(compile(text, "<setup>", "exec", dont_inherit=True), late) for text, late in job["setup"]]
    parts = [(part, late) for part, late in parts if not ran(part, namespace) or late]
    give_up(namespace, job["entry_point"])
    given = dict(namespace)
    exec(code, namespace)  # noqa: S102
    own = {name: value for name, value in namespace.items() if given.get(name, given) is not value}
    for part, late in parts:
        exec(part, namespace)  # noqa: S102
        if not late:
            namespace.update(own)
    if job["entry_point"] not in own:
        give_up(namespace, job["entry_point"])
    return namespace


def ran(part, namespace):
    """Whether a part of the setup could do without the program."""
    try:
        exec(part, namespace)  # noqa: S102
    except NameError:
        return False
    return True


def give_up(namespace, name):
    """Moves a name that is called as the entry point, and that prelude or setup bound, to the builtins: there
    a program may use it, and it is no function of the program's own."""
    if name in namespace:
        setattr(builtins, name, namespace.pop(name))


def answered(job, namespace, asked):
    """{"v": encoded value}, or {"e": status, "d": detail} where there is no function."""
    if type(asked) is list:
        return {"v": evaluate(namespace, asked)}
    name = asked.get("call", job["entry_point"])
    function = entry_point(namespace, name)
    if function is None:
        return {"e": "NORESULT", "d": f"no function {name!r}"}
    if "call" not in asked:
        # A literal, as wire.py has seen to. Not ast's own function: every fork would carry that module.
        return {"v": values.encode(function(*eval(asked["arguments"], {"__builtins__": {"set": set}})))}
    arguments = [*asked["positional"], *asked["named"].values()]
    missing = [a["n"] for a in arguments if "n" in a and a["n"] not in namespace]
    if missing:
        return {"e": "NORESULT", "d": f"no name {missing[0]!r}"}
    positional = [received(namespace, argument) for argument in asked["positional"]]
    named = {key: received(namespace, argument) for key, argument in asked["named"].items()}
    return {"v": values.encode(function(*positional, **named))}


def received(namespace, argument):
    """A checker's argument: a plain value, or the name of something that lives here."""
    return namespace[argument["n"]] if "n" in argument else values.decode(argument["v"])


def entry_point(namespace, name):
    """What is called by that name: a function of the program's own, else a method of its class Solution,
    else a function that it imported. None where there is none."""
    found, solution = namespace.get(name), namespace.get("Solution")
    imported = found is not None and getattr(found, "__module__", None) != "solution"
    if solution is None or found is not None and not (imported and hasattr(solution, name)):
        return found
    return getattr(solution(), name, None)


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


def raised(error):
    """`described`, and what a test may catch: "k" holds [module, name, arguments] of each class of the
    exception that is not the program's own, nearest first, and "s" its attributes."""
    said = described(error)
    if said["e"] != "RE":
        return said
    try:
        kinds = [kind for kind in type(error).__mro__ if kind is not object]
        told = [[kind.__module__, kind.__qualname__, arguments_of(kind, error)] for kind in kinds]
        state = {name: value for name, value in vars(error).items() if is_plain(value)}
        found = {"k": told, "s": values.encode(state)}
        return (
            said | found
            if len(json.dumps(found)) < MOST_OF_AN_ERROR
            else said | {"k": shortened(told, error)}
        )
    except BaseException:  # noqa: BLE001 - an exception's own class is untrusted
        return said


def arguments_of(kind, error):
    """What `kind` makes an equal of the exception from; texts in the place of what is not plain."""
    try:
        arguments = kind.__reduce__(error)[1]
    except BaseException:  # noqa: BLE001 - the program's own class, or one whose state it has spoiled
        arguments = error.args
    return [values.encode(item if is_plain(item) else str(item)) for item in arguments]


def shortened(told, error):
    return [[module, name, [str(error)[:300]]] for module, name, _ in told]


def is_plain(value):
    try:
        values.encode(value)
    except values.BadValue:
        return False
    return True
