"""The test-case generator's prompt and answer: O1-CODER's template, rendered and strictly parsed.

An answer is CASES cases, each a section `Input:` and a section `Output:`. The traced form, which is not the
paper's, has a section `Trace:` between the two: lines of the program with the value after each
(`x = x * 2 -> 14`), which lead to the output and are dropped before anything is judged. Does not know whether
a case is true.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import re
import warnings
from collections.abc import Sequence

from o1jax.problems.formats.mbpp import without_tests
from o1jax.prompts.chat import Message
from o1jax.prompts.fence import Style, task_text
from o1jax.records import Form, InputError, Problem, TestCase

CASES = 3  # an answer, as published: the fewest that can be shuffled with none in its place in two ways
INPUT, TRACE, OUTPUT = "Input:", "Trace:", "Output:"
NANO_MARKER = {False: "Write tests.", True: "Trace tests."}
LONGEST_LITERAL = 10_000  # characters; a model may write brackets without end, and reading them takes time
_HEADERS = re.compile(rf"^({INPUT}|{TRACE}|{OUTPUT})$", re.MULTILINE)
_INSTRUCTION = (
    "Please complete the task in the code part and generate some test case in the test part that can be "
    "used to test the quality of the generated code."
)
_FORMAT = """\
Write exactly {cases} test cases and nothing else, each in this form:
Input:
{input}
{trace}Output:
{output}"""


@dataclasses.dataclass(frozen=True)
class Case:
    """A test, and how its output comes about."""

    test: TestCase
    trace: tuple[str, ...] = ()  # lines of the program, each with the value that it leads to


def _example(
    form: Form, question: str, source: str, *cases: tuple[str, str]
) -> tuple[Problem, tuple[Case, ...]]:
    name = re.match(r"def (\w+)", source)[1] if form == "call" else ""
    problem = Problem(id="example", question=question, form=form, entry_point=name, solutions=(source,))
    return problem, tuple(Case(TestCase(given, expected)) for given, expected in cases)


# Written for this project: problems with their programs, and three cases of different kinds each. Of
# functions two, with one argument and with more.
_LONGEST_RUN = _example(
    "call",
    "Write a function that gives the length of the longest run of equal characters in `text`.",
    """\
def longest_run(text):
    best = run = 0
    for i, letter in enumerate(text):
        run = run + 1 if i and letter == text[i - 1] else 1
        best = max(best, run)
    return best""",
    ("['aabbbc']", "3"),
    ("['']", "0"),
    ("['x']", "1"),
)
EXAMPLES = {
    "call": (
        _LONGEST_RUN,
        _example(
            "call",
            "Write a function that gives the length of the longest suffix of `a` that is a prefix of `b`.",
            """\
def overlap(a, b):
    for n in range(min(len(a), len(b)), 0, -1):
        if a.endswith(b[:n]):
            return n
    return 0""",
            ("['steam', 'amber']", "2"),
            ("['cat', 'dog']", "0"),
            ("['', 'x']", "0"),
        ),
    ),
    "stdin": (
        _example(
            "stdin",
            "The first line holds `n`, the second `n` integers. Print how many exceed the one before.",
            """\
n = int(input())
values = list(map(int, input().split()))
print(sum(b > a for a, b in zip(values, values[1:])))""",
            ("5\n1 3 2 4 4", "2"),
            ("1\n7", "0"),
            ("4\n-2 -1 0 1", "3"),
        ),
    ),
}


@dataclasses.dataclass(frozen=True)
class Parsed:
    """What an answer says."""

    cases: tuple[Case, ...]  # the well-formed ones
    dropped: tuple[str, ...]  # why each other one was


def messages(
    problem: Problem,
    source: str | None,
    *,
    traced: bool = False,
    style: Style = "full",
    few_shot: bool = False,
) -> tuple[Message, ...]:
    """The conversation that asks for cases; `source` is a program for the problem, None the form that
    knows the question only. Style nano: question, program and a marker. `few_shot` puts worked examples
    before it, in the plain form: a model that was not trained for it does not keep to the form without."""
    if few_shot and (traced or style == "nano"):
        raise InputError(
            f"write.few_shot: saw it with traced {traced} and style {style!r}; wanted False and 'full': "
            "generators of the other forms are trained"
        )
    problem = without_tests(problem)  # that end an MBPP question, and may be the hidden ones
    turns: tuple[Message, ...] = ()
    if few_shot:
        for example, cases in EXAMPLES["stdin" if problem.form == "stdin" else "call"]:
            asking = messages(example, source and example.solutions[0])
            answer = render_answer(cases, example.form)
            turns = (*turns, *asking, {"role": "assistant", "content": answer})
    if style == "nano":
        parts = [problem.question, *([source.strip()] if source else []), NANO_MARKER[traced]]
        return ({"role": "user", "content": "\n".join(parts)},)
    text = (
        f"### Instruction\n{_INSTRUCTION}\n{_format(problem.form, traced)}\n"
        f"### Problem\n{task_text(problem)}\n### Code Part\n{source.strip() if source else ''}\n### Test Part"
    )
    return (*turns, {"role": "user", "content": text})


def _format(form: Form, traced: bool) -> str:
    given, expected = "the text on standard input", "the text on standard output"
    if form == "call":
        given, expected = (
            "the arguments, as in a call: Python literals",
            "the returned value, a Python literal",
        )
    trace = f"{TRACE}\neach line of the program that changes a value, then -> and the value\n"
    return _FORMAT.format(cases=CASES, input=given, trace=trace if traced else "", output=expected)


def render_answer(cases: Sequence[Case], form: Form, *, traced: bool = False) -> str:
    """The answer that gives these cases, without the end-of-message token."""
    lines = []
    for case in cases:
        trace = [TRACE, *case.trace] if traced else []
        lines += [INPUT, _written(case.test.input, form), *trace, OUTPUT, case.test.output.rstrip("\n")]
    return "\n".join(lines)


def _written(given: str, form: Form) -> str:
    """A test's input as an answer has it. Arguments stand there as in a call: asked for their list, a model
    that was not trained writes `[1, 2], 3` all the same, and `[1, 2]` of one argument that is a list."""
    text = given.strip() if form == "call" else given.rstrip("\n")
    is_list = form == "call" and text.startswith("[") and text.endswith("]")
    return text[1:-1].strip().removesuffix(",") if is_list else text


def canonical(case: Case, form: Form) -> Case:
    """The case with the line ends that `parse_answer` gives it: texts of standard input and output end in
    one, literals in none."""
    test = _test(_written(case.test.input, form), case.test.output.rstrip("\n"), form)
    return dataclasses.replace(case, test=test)


def _test(given: str, expected: str, form: Form) -> TestCase:
    end = "\n" if form == "stdin" else ""
    return TestCase(f"[{given}]" if form == "call" else given + end, expected + end)


def is_renderable(case: Case, form: Form) -> bool:
    """Whether parsing its rendering gives the case back, as `canonical` writes it: no line of it looks like
    a header, say."""
    if form == "call" and not _is_literal(case.test.input.strip(), list):
        return False
    return parse_answer(render_answer([case], form, traced=True), form).cases == (canonical(case, form),)


def without_last(text: str) -> str:
    """An answer without its last case: what is whole of one that was cut short."""
    starts = [found.start() for found in _HEADERS.finditer(text) if found.group() == INPUT]
    return text[: starts[-1]] if starts else text


def parse_answer(text: str, form: Form) -> Parsed:
    """The cases of an answer (end-of-message token taken off). A case is dropped where a section is
    missing, doubled or in the wrong place, the input is empty, a call-form value is no Python literal,
    or it comes after the first CASES; other cases of the answer stand."""
    # One bad case does not cost the others: a generator that errs in one of three still says two things.
    before, *sections = _HEADERS.split(text)
    bodies = (text.strip("\n") for text in sections[1::2])
    pairs = list(zip(sections[::2], bodies, strict=True))
    starts = [i for i, (header, _) in enumerate(pairs) if header == INPUT]
    dropped = [f"saw {before.strip()[:20]!r}, wanted {INPUT!r} first"] if before.strip() else []
    if not starts or starts[0] > 0:
        dropped.append(f"saw no {INPUT!r} first, wanted one a case")
    cases: list[Case] = []
    for start, end in itertools.pairwise([*starts, len(pairs)]):
        why = _fault(pairs[start:end], form)
        if why is None and len(cases) == CASES:
            why = f"saw more than {CASES} cases"
        if why is None:
            cases.append(_case(pairs[start:end], form))
        else:
            dropped.append(why)
    return Parsed(tuple(cases), tuple(dropped))


def _fault(sections: Sequence[tuple[str, str]], form: Form) -> str | None:
    """What is wrong with the sections of one case, or None."""
    headers = [header for header, _ in sections]
    if headers not in ([INPUT, OUTPUT], [INPUT, TRACE, OUTPUT]):
        return f"saw the sections {' '.join(headers)}, wanted {INPUT} {OUTPUT} or {INPUT} {TRACE} {OUTPUT}"
    given, expected = sections[0][1], sections[-1][1]
    if not given.strip():
        return "saw an empty input"
    if form == "call":
        if not _is_literal(f"[{given}]", list):
            return f"saw the input {given[:40]!r}, wanted the arguments of a call, as Python literals"
        if not _is_literal(expected, object):
            return f"saw the output {expected[:40]!r}, wanted a Python literal"
    return None


def _case(sections: Sequence[tuple[str, str]], form: Form) -> Case:
    given, *traces, expected = (text for _, text in sections)
    return Case(_test(given, expected, form), tuple(traces[0].split("\n")) if any(traces) else ())


def _is_literal(text: str, kind: type) -> bool:
    """Whether a text is the Python literal of a value of this kind."""
    if len(text) > LONGEST_LITERAL:
        return False
    try:
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):  # of what a model wrote
            return isinstance(ast.literal_eval(text), kind)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
