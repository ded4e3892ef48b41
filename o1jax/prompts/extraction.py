"""The program in a chat model's answer, found as the field's harnesses find one (`extract: lenient`), and
what the prompt's own code puts before a program.

As EvalPlus's sanitize does, the entry point and Python's own parser decide; as in LiveCodeBench the last of
several blocks counts. The form that search and RL teach is strict, and is read in fence.py and pseudocode.py.
Takes any text: it never raises, and its time is linear in the length.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from typing import Literal

from o1jax.prompts import fence
from o1jax.records import Problem

Extract = Literal["", "strict", "lenient"]
# Characters that are parsed of one answer, each as often as it is: Python reads about 1.5 MB a second, and an
# answer without an end is no program.
MOST_PARSED = 100_000
EACH_PARSE = 50  # what one costs beside its length, in characters
NOT_PYTHON = (SyntaxError, ValueError, MemoryError, RecursionError)  # the last two: nested too deep
# A tag counts where a model of thoughts writes it, not inside a string of a program: the first one begins a
# line, the last one ends a line or stands before a fence.
_THINK = re.compile(r"^[ \t]*<think(?:ing)?>", re.MULTILINE)
_THOUGHT = re.compile(r"</think(?:ing)?>(?=[ \t]*(?:```|~~~|$))", re.MULTILINE)
_LANGUAGE = re.compile(r"[\s{.]*([A-Za-z0-9+#]*)")  # of a fence: ```python, ``` py, ```{.python}
_AFTER_WORDS = re.compile(r"(`{3,}) ?(?:python|python3|py)[ \t]*$", re.IGNORECASE)  # on the same line
LONGEST_FENCE = 40
_CODE = re.compile(  # how a line of a program begins that is not indented
    r"@|(?:async|def|class|import|from|if|for|while|with|try|print)\b|[A-Za-z_][\w.\[\], ]*[-+*/|&]?="
)
_GOES_ON = re.compile(
    r"[)\]}#]|(?:else|elif|except|finally)\b"
)  # such a line that belongs to those before it
_QUOTES = re.compile('"""|' + "'''")
_READS = re.compile(r"\binput\s*\(|\bstdin\b|\bopen\(0")


def find_program(text: str, problem: Problem) -> str:
    """The program that an answer to `problem` gives, "" if there is none.

    Of the fenced blocks the last that serves the problem: defines its entry point or, in form stdin, reads
    standard input. Else such a run of lines without a fence; else the last block that parses and does
    something; without a fence, the longest such run; else the last block that says it is Python.
    """
    answer = re.sub(r"\r\n?", "\n", without_thinking(text))
    lines, reader, written, seen = answer.split("\n"), _Reader(problem), "", set()
    programs: dict[bool, str] = {}  # whether the block says that it is Python -> the last that parses
    # A fence inside a string in triple quotes does not end a block, unless the quotes are no string's.
    for is_careful in (True, False):
        new = [block for block in _blocks(lines, is_careful) if block.text.strip() and block not in seen]
        seen |= set(new)
        for block in reversed(new):
            written = written or (block.text if block.is_python else "")
            if reader.left < 0:
                break
            source, body = reader.block(block)
            if body and reader.serves(source, body):
                return fence.canonical(source)
            if body and does_something(body):
                programs.setdefault(block.is_python, source)
    run, serves = reader.longest_run(answer[:MOST_PARSED].split("\n"))
    if serves or (run and not seen):
        return fence.canonical(run)
    source = programs.get(True) or programs.get(False) or written
    return fence.canonical(source) if source else ""


def without_thinking(text: str) -> str:
    """What an answer says after its thoughts (<think>...</think>, the first tag perhaps in the prompt), and
    before thoughts that do not end."""
    ends = [found.end() for found in _THOUGHT.finditer(text)]
    if not ends and _THINK.match(text.lstrip()):
        ends = [found.end() for found in re.finditer(r"</think(?:ing)?>", text)][:1]
    rest = text[ends[-1] :] if ends else text
    begun = _THINK.search(rest)
    return rest[: begun.start()] if begun else rest


def with_starter(program: str, problem: Problem) -> str:
    """The program after what the problem's starter code imports and defines (helpers, constants) and the
    program does not; not after the entry point itself, which the program is to define.

    HumanEval's answers are judged so: its prompt is part of the program.
    """
    body = parsed(program) if program and problem.starter_code.strip() else None
    if body is None:
        return program
    starter, statements = _starter(problem.starter_code)
    known = {name for statement in body for name in bound(statement)} | {problem.entry_point}
    lines = starter.split("\n")
    before = [
        "\n".join(lines[_first_line(statement) : statement.end_lineno])
        for statement in statements
        if not _defines(statement, problem.entry_point) and set(bound(statement)) - known
    ]
    if not before:
        return program
    # An import from __future__ stays first, for Python wants it there.
    future = [s.end_lineno for s in body if isinstance(s, ast.ImportFrom) and s.module == "__future__"]
    own = program.split("\n")
    at = max(future, default=0)
    return "\n".join([*own[:at], *before, *([] if at else ["", ""]), *own[at:]])


def _starter(source: str) -> tuple[str, list[ast.stmt]]:
    """Starter code and its statements; the function that ends it need not have a body yet."""
    lines = source.replace("\r\n", "\n").expandtabs(4).rstrip().split("\n")
    indent = len(lines[-1]) - len(lines[-1].lstrip())
    for end in ([], [" " * indent + "    pass"], [" " * indent + "pass"]):
        body = parsed("\n".join([*lines, *end]))
        if body is not None:
            return "\n".join([*lines, *end]), body
    # Code that stops in the middle: what stands before its last function.
    begun = [i for i, line in enumerate(lines) if re.match(r"(async def|def|class|@)\b", line)]
    before = "\n".join(lines[: begun[-1] if begun else 0])
    return before, parsed(before) or []


# Python as a parsed body of statements.


def parsed(source: str) -> list[ast.stmt] | None:
    """The statements of a source, None where it is not Python."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of what a model wrote
            return ast.parse(source).body
    except NOT_PYTHON:
        return None


def bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement of a module defines, also inside its branches."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in statement.names)
    elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        if statement.value is not None:
            yield from (n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name))
    elif isinstance(statement, ast.If | ast.Try | ast.For | ast.While | ast.With):
        for inner in ast.iter_child_nodes(statement):
            handled = inner.body if isinstance(inner, ast.ExceptHandler) else [inner]
            yield from (name for one in handled if isinstance(one, ast.stmt) for name in bound(one))


def _defines(statement: ast.stmt, name: str) -> bool:
    """Whether the judge would find a function of that name: of the module, or of its class Solution."""
    if not isinstance(statement, ast.Import | ast.ImportFrom) and name in bound(statement):
        return True
    is_solution = isinstance(statement, ast.ClassDef) and statement.name == "Solution"
    return is_solution and any(name in bound(inner) for inner in statement.body)


def does_something(body: Sequence[ast.stmt]) -> bool:
    """Whether statements are a program and not words that happen to parse: a value alone is none, and
    neither is `Note: this`, nor a name that is called with a blank before its arguments."""
    return any(not _is_idle(statement) for statement in body)


def _is_idle(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.AnnAssign):
        return statement.value is None
    if isinstance(statement, ast.Return):  # outside of a function
        return True
    if not isinstance(statement, ast.Expr):
        return False
    call = statement.value
    if not isinstance(call, ast.Call):
        return not isinstance(call, ast.Await | ast.NamedExpr | ast.ListComp)
    # "Explanation (short)" parses; nobody writes a call so.
    return isinstance(call.func, ast.Name) and call.func.id.istitle()


def _first_line(statement: ast.stmt) -> int:
    """The index of its first line, a decorator's if it has one."""
    decorators = statement.decorator_list if isinstance(statement, ast.FunctionDef | ast.ClassDef) else []
    return min(node.lineno for node in (statement, *decorators)) - 1


@dataclasses.dataclass
class _Reader:
    """Reads parts of one answer, and parses no more than MOST_PARSED characters."""

    problem: Problem
    left: int = MOST_PARSED

    def parsed(self, source: str) -> list[ast.stmt] | None:
        if len(source) > self.left:
            return None
        self.left -= len(source) + EACH_PARSE
        return parsed(source)

    def serves(self, source: str, body: Sequence[ast.stmt]) -> bool:
        """Whether it is a program for this problem, and not an example of its use."""
        if self.problem.form == "stdin":
            return does_something(body) and _READS.search(source) is not None
        name = self.problem.entry_point
        return bool(name) and any(_defines(statement, name) for statement in body)

    def block(self, block: _Block) -> tuple[str, list[ast.stmt] | None]:
        """A block's program and its statements, None if nothing of it parses."""
        starter = self.problem.starter_code.rstrip("\n")
        # As it is, or from inside a list, or the body that goes on from the starter code.
        sources = [block.text]
        if block.text.lstrip("\n")[:1] in (" ", "\t"):
            sources = [textwrap.dedent(block.text), f"{starter}\n{block.text}"]
        read = [(source, self.parsed(source)) for source in sources]
        if best := [(source, body) for source, body in read if body and self.serves(source, body)]:
            return best[0]
        source, serves = self.longest_run(block.text.split("\n"))
        return (source, self.parsed(source)) if serves else read[0]

    def longest_run(self, lines: Sequence[str]) -> tuple[str, bool]:
        """The longest run of lines that is Python, if one serves of those, and whether it does; "" where
        no line does anything."""
        best, run = (False, 0, 0), []
        for start, end, body in self._pieces(lines):
            if self.left < 0:
                break
            # Words between two programs are in neither.
            if body is not None and (does_something(body) or _is_text(body)):
                run.append((start, end, body))
                continue
            best, run = max(best, self._measured(lines, run)), []
        serves, length, start = max(best, self._measured(lines, run))
        return "\n".join(lines[start : start + length]), serves

    def _pieces(self, lines: Sequence[str]) -> Iterator[tuple[int, int, list[ast.stmt] | None]]:
        """Start, end and statements of the lines that are read together."""
        for start, end in _pieces(lines, is_joined=True):
            body = self.parsed("\n".join(lines[start:end]))
            if body is None:  # a bracket that is never closed takes what follows with it
                for first, last in _pieces(lines[start:end], is_joined=False):
                    found = self.parsed("\n".join(lines[start + first : start + last]))
                    yield start + first, start + last, found
            else:
                yield start, end, body

    def _measured(self, lines: Sequence[str], run: list[tuple]) -> tuple[bool, int, int]:
        """Whether a run serves, its length and its start, from the first to the last piece that does
        something."""
        working = [piece for piece in run if does_something(piece[2])]
        if not working:
            return False, 0, 0
        start, end = working[0][0], working[-1][1]
        serves = any(self.serves("\n".join(lines[a:b]), body) for a, b, body in working)
        return serves, end - start, start


def _is_text(body: Sequence[ast.stmt]) -> bool:
    """Whether statements are strings alone: the docstring of a module."""
    return all(isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant) for s in body)


def _pieces(lines: Sequence[str], is_joined: bool) -> Iterator[tuple[int, int]]:
    """Start and end of what is read together: a line that is not indented, with those after it that are or
    that go on from it, and if joined, those inside its brackets and strings."""
    start, depth, quote = 0, 0, ""
    is_code = bool(lines) and _CODE.match(lines[0]) is not None
    for end, line in enumerate(lines):
        is_new = line[:1].strip() and not _GOES_ON.match(line) and not lines[end - 1].startswith("@")
        if is_new and end > start and not (is_joined and (quote or depth > 0)):
            yield start, end
            start, depth, quote, is_code = end, 0, "", _CODE.match(line) is not None
        if is_code:  # words have brackets and quotes too, which need not be closed
            if not quote:
                depth += sum(map(line.count, "([{")) - sum(map(line.count, ")]}"))
            quote = _quote_after(line, quote)
    if lines:
        yield start, len(lines)


# Fenced blocks.


@dataclasses.dataclass(frozen=True)
class _Block:
    """A fenced block of a text."""

    start: int  # its first line
    is_python: bool  # whether its fence says so
    text: str


def _blocks(lines: Sequence[str], is_careful: bool) -> Iterator[_Block]:
    """The fenced blocks; if careful, a fence inside a string does not end one; else it may also end a line
    of code."""
    opened, is_python = "", False  # of the block that is read, if any
    start, quote, body = 0, "", []
    for number, line in enumerate(lines):
        mark, info = _fence_of(line)
        is_end = bool(opened) and not info and mark.startswith(opened)
        if opened and not is_careful and not mark and line.rstrip().endswith(opened):
            body.append(line.rstrip().rstrip(opened[0]))
            is_end = True
        # A fence with a language begins a block even inside another: the one before was not closed, or it
        # is an answer that was fenced as a whole.
        is_begin = bool(mark) and (not opened or bool(info))
        if (is_end or is_begin) and not quote:
            if body:
                yield _Block(start, is_python, "\n".join(body))
            opened = mark if is_begin else ""
            is_python = _LANGUAGE.match(info)[1].lower() in fence.PYTHON
            start, body = number + 1, []
        elif opened:
            body.append(line)
            quote = _quote_after(line, quote) if is_careful else ""
        elif "```" in line and (begun := _AFTER_WORDS.search(line[-LONGEST_FENCE:])):
            opened, is_python, start, body = begun[1], True, number + 1, []
    if body:
        yield _Block(start, is_python, "\n".join(body))


def _fence_of(line: str) -> tuple[str, str]:
    """The fence that a line is, "" if it is none, and what it says behind it."""
    if "```" not in line and "~~~" not in line:
        return "", ""
    text = line.strip()
    mark = text[: len(text) - len(text.lstrip(text[:1]))] if text[:1] in ("`", "~") else ""
    rest = text[len(mark) :].strip()
    return (mark, rest) if len(mark) >= 3 and "`" not in rest else ("", "")


def _quote_after(line: str, quote: str) -> str:
    """The triple quotes that are open after a line, "" without; `quote` was before it."""
    for found in _QUOTES.findall(line):
        quote = "" if quote == found else quote or found
    return quote
