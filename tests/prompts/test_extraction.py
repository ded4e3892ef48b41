"""The program in answers of chat models: forms and the program wanted of each, and hostile text."""

import dataclasses
import random
import time

import pytest

from o1jax.prompts import direct, fence
from o1jax.prompts.extraction import MOST_PARSED, find_program, with_starter, without_thinking
from o1jax.records import Problem

CALL = Problem("p", "Add one.", "call", entry_point="inc")
STDIN = Problem("p", "Add one.", "stdin")
STARTED = Problem(
    "p", "Go on.", "assertion", entry_point="inc", starter_code='def inc(x):\n    """Add one."""\n'
)
INC = "def inc(x):\n    return x + 1\n"
BAD = "def inc(x):\n    return x\n"
READS = "print(int(input()) + 1)\n"
SOLUTION = "class Solution:\n    def inc(self, x):\n        return x + 1\n"
DOCUMENTED = (
    'def inc(x):\n    """Add one.\n\n    ```python\n    def inc(x): ...\n    ```\n    """\n    return x + 1\n'
)
UNINDENTED = 'def inc(x):\n    """Add one:\n```\ninc(1)\n```\n"""\n    return x + 1\n'
ADD = "def add(x):\n    return x + 1\n"
CUT = "def inc(x)\n    retur\n"
LAMBDA = "inc = lambda x: x + 1\n"
QUOTED = INC + "# do not use '''\n"
BRANCH = "if True:\n    def inc(x):\n        return x + 1\n"
CACHED = f"import functools\n\n@functools.cache\n{INC}"
TRIED = f"try:\n    import a\nexcept ImportError:\n    a = 1\n{INC}"
COMMENTED = INC.replace("\n", "\n# adds\n", 1)
TABLE = f"T = {{\n1: 2,\n}}\n{INC}"
TAGS = f'TAGS = "<think>", "</think>"\n{INC}'
PIPE = "import sys\nprint(sys.stdin.read())\n"
LOOP = "n = int(input())\nfor i in range(n):\n    print(i)\n"
MAIN = "def main():\n    print(input())\n\n\nmain()\n"
NESTED = "TEXT = '''\n```python\ndef inc(x):\n    return None\n```\n'''\n" + INC


def fenced(source, tag="python", mark="```"):
    end = "" if source.endswith("\n") else "\n"
    return f"{mark}{tag}\n{source}{end}{mark}"


def indented(text, by="   "):
    return "".join(by + line for line in text.splitlines(keepends=True))


ANSWERS = {
    # one block, in every form of Markdown
    "plain": (fenced(INC), INC),
    "words around it": (f"Here is it:\n\n{fenced(INC)}\n\nIt adds one.", INC),
    "no language": (fenced(INC, ""), INC),
    "another language": (fenced(INC, "text"), INC),
    "capital letter": (fenced(INC, "Python"), INC),
    "blank before the language": (fenced(INC, " python"), INC),
    "language with a title": (fenced(INC, 'python title="inc.py"'), INC),
    "braces": (fenced(INC, "{.python}"), INC),
    "python3": (fenced(INC, "python3"), INC),
    "carriage returns": (fenced(INC).replace("\n", "\r\n"), INC),
    "old line ends": (fenced(INC).replace("\n", "\r"), INC),
    "in a list": (f"1. Write it:\n\n{indented(fenced(INC))}\n2. Done.", INC),
    "in a list, code less indented": ("1. So:\n   ```python\n" + INC + "   ```\n", INC),
    "in a list, fence less indented": (f"- So:\n```python\n{indented(INC, '    ')}```", INC),
    "tabs": (indented(fenced(INC), "\t"), INC),
    "four backticks": (fenced(INC, mark="````"), INC),
    "tildes": (fenced(INC, mark="~~~"), INC),
    "longer end": (f"```python\n{INC}`````", INC),
    "blanks after the fences": (f"```python  \n{INC}```   \nDone.", INC),
    "not closed": (f"```python\n{INC}", INC),
    "not closed, no last newline": (f"```python\n{INC}".rstrip(), INC),
    "not closed, then another": (f"```python\n{BAD}\n```python\n{INC}```", INC),
    "fence after words": (f"The function is: ```python\n{INC}```", INC),
    "end on a line of code": (f"```python\n{INC.rstrip()}```\nDone.", INC),
    "the answer fenced as a whole": (f"```markdown\n# Answer\n{fenced(INC)}\n```", INC),
    "the answer fenced by four": (f"````markdown\n# Answer\n{fenced(INC)}\n````", INC),
    "cut by length in an example": (f"```python\n{INC}\n# Example\nprint(inc(", f"{INC}\n# Example\n"),
    "empty lines": (f"```python\n\n\n{INC}\n\n```", INC),
    # several blocks
    "an example of use": (f"{fenced(INC)}\nUse it:\n{fenced('print(inc(1))')}", INC),
    "tests": (f"{fenced(INC)}\n{fenced('assert inc(1) == 2')}", INC),
    "an import of it": (f"{fenced(INC)}\n{fenced('from a import inc')}", INC),
    "its output": (f"{fenced(INC)}\nOutput:\n{fenced('2', '')}", INC),
    "a command": (f"{fenced('pip install numpy', 'bash')}\n{fenced(INC)}", INC),
    "a shell after it": (f"{fenced(INC)}\n{fenced('python inc.py', 'sh')}", INC),
    "a draft": (f"First:\n{fenced(BAD)}\nWrong. Better:\n{fenced(INC)}", INC),
    "a draft that does not parse": (f"{fenced(INC)}\n{fenced(CUT)}", INC),
    "another function": (f"{fenced(INC)}\n{fenced(ADD)}", INC),
    "JavaScript beside it": (f"{fenced(INC)}\n{fenced('function inc(x) {}', 'js')}", INC),
    # what defines the entry point
    "a method of Solution": (f"{fenced(SOLUTION)}\n{fenced('Solution().inc(1)')}", SOLUTION),
    "a name for a lambda": (f"{fenced(LAMBDA)}\n{fenced('inc(1)')}", LAMBDA),
    "under a condition": (f"{fenced(BRANCH)}\n{fenced('inc(2)')}", BRANCH),
    "asynchronous": (fenced("async " + INC), "async " + INC),
    # fences and quotes inside the program
    "a fence in a docstring": (f"{fenced(DOCUMENTED)}\nDone.", DOCUMENTED),
    "a fence in a docstring that is not indented": (f"{fenced(UNINDENTED)}\nDone.", UNINDENTED),
    "a program in a string": (f"{fenced(NESTED)}\nDone.", NESTED),
    "a fence in a string": (fenced('S = "```python"\n' + INC), 'S = "```python"\n' + INC),
    "quotes in a comment": (f"{fenced(QUOTED)}\n{fenced('inc(1)')}", QUOTED),
    # no fence
    "bare": (INC, INC),
    "bare after words": (f"Sure! Here is the function.\n\n{INC}", INC),
    "bare before words": (f"{INC}\nThis function adds one.\nHope this helps!", INC),
    "bare between words": (f"Sure\n\n{TRIED}\nExample:\n- inc(1) is 2", TRIED),
    "bare, one word after it": (f"{INC}\nDone\n", INC),
    "bare, a note after it": (f"{INC}\nNote: this\n", INC),
    "bare, an apostrophe": (f"It's easy (see below:\n\n{INC}\nDon't forget.", INC),
    "bare, a docstring that is not indented": (f"So:\n{UNINDENTED}\nThat is it.", UNINDENTED),
    "bare, decorated": (f"Use a cache:\n\n{CACHED}", CACHED),
    "bare, a table over lines": (TABLE, TABLE),
    "bare, else": (TRIED, TRIED),
    "bare, a comment that is not indented": (f"So:\n{COMMENTED}", COMMENTED),
    "bare program, fenced example": (f"{INC}\n{fenced('inc(1)')}", INC),
    "bare with carriage returns": (INC.replace("\n", "\r\n"), INC),
    # thoughts
    "thoughts": (f"<think>\n{fenced(BAD)}\n</think>\n\n{fenced(INC)}", INC),
    "no thoughts": (f"<think>\n\n</think>\n\n{fenced(INC)}", INC),
    "thoughts that began in the prompt": (f"First:\n{fenced(BAD)}\nno.\n</think>\n\n{fenced(INC)}", INC),
    "thoughts with a fence that is not closed": (f"<think>\n```python\n{BAD}</think>\n{fenced(INC)}", INC),
    "thoughts on the same line": (f"<think>short</think>Here:\n{fenced(INC)}", INC),
    "thoughts right before a fence": (f"hm</think>{fenced(INC)}", INC),
    "thoughts without an end": (f"<think>\nMaybe\n{fenced(INC)}", ""),
    "thoughts alone": (f"<think>\n{fenced(INC)}\n</think>", ""),
    "thoughts after the program": (f"{fenced(INC)}\n<think>\nor\n{fenced(BAD)}", INC),
    "a program about thoughts": (fenced(TAGS), TAGS),
    # nothing that could be judged, or only something that will fail
    "nothing": ("", ""),
    "blanks": (" \n\t\n", ""),
    "words": ("I cannot solve this problem.", ""),
    "a word that parses": ("Sorry", ""),
    "words in a block": (fenced("Sorry\n", ""), ""),
    "an empty block": ("```python\n\n```", ""),
    "a block of Python that does not parse": (fenced(CUT), CUT),
    "a block of C": (fenced("int inc(int x) { return x + 1; }\n", "c"), ""),
    "a program with another name": (fenced(ADD), ADD),
    "another name, then output": (f"{fenced(ADD)}\n{fenced('x = 2', '')}", ADD),
}
STDIN_ANSWERS = {
    "plain": (fenced(READS), READS),
    "its input and output": (
        f"{fenced(READS)}\nInput:\n{fenced('1', '')}\nOutput:\n{fenced('2', '')}",
        READS,
    ),
    "an example of a call": (f"{fenced(PIPE)}\nSo:\n{fenced('print(1)')}", PIPE),
    "nothing is read": (f"{fenced('print(1)')}\n{fenced('1', '')}", "print(1)\n"),
    "bare": (f"Program:\n{LOOP}\nIt counts.", LOOP),
    "a whole program": (fenced(MAIN), MAIN),
}


@pytest.mark.parametrize("form", ANSWERS)
def test_the_program_of_an_answer(form):
    text, wanted = ANSWERS[form]
    assert find_program(text, CALL) == wanted


@pytest.mark.parametrize("form", STDIN_ANSWERS)
def test_the_program_of_an_answer_that_reads_standard_input(form):
    text, wanted = STDIN_ANSWERS[form]
    assert find_program(text, STDIN) == wanted


def test_a_body_alone_goes_on_from_the_starter_code():
    wanted = STARTED.starter_code + "    return x + 1\n"
    assert find_program(fenced("    return x + 1\n"), STARTED) == wanted
    assert find_program(fenced(INC), STARTED) == INC


@pytest.mark.parametrize("source", [INC, DOCUMENTED, UNINDENTED, NESTED, SOLUTION])
def test_what_is_well_formed_is_read_alike_by_both(source):
    text = f"Here:\n{direct.render_answer(source)}\nDone."
    try:
        strict = fence.only_program(text)
    except fence.FenceError:
        return
    assert find_program(text, CALL) in (strict, source)


def test_thoughts_are_no_answer():
    assert without_thinking("a\n</think>\nb") == "\nb" and without_thinking("<think>a") == ""
    assert without_thinking('x = "</think>"') == 'x = "</think>"'


LONG = 1 << 20
HOSTILE = {
    "fences": "```\n" * (LONG // 4),
    "fences of every length": "\n".join("`" * (i % 90) for i in range(LONG // 45)),
    "fences of Python": "```python\n" * (LONG // 10),
    "one fence": "`" * LONG,
    "open quotes in blocks": "```python\n'''\n" * (LONG // 14),
    "quotes": "'''\n\"\"\"\n" * (LONG // 8),
    "a long line": "x = " + "1 + " * (LONG // 4),
    "a long line before lines": "x = (" + "a" * (LONG // 2) + "\n a" * (LONG // 6),
    "a long name": "a" * LONG,
    "blanks": " " * LONG,
    "empty lines": "\n" * LONG,
    "open brackets": "x = (\n" * (LONG // 6),
    "nested brackets": "(" * LONG,
    "nested brackets in a block": fenced("x = " + "(" * 5000 + ")" * 5000 + "\n"),
    "nested operators": fenced("x = " + "-" * 50000 + "1\n"),
    "nested attributes": fenced("x" + ".a" * 50000 + "\n"),
    "nested sums": fenced("x = a" + "+a" * 90000 + "\n"),
    "nested lambdas": fenced("x = " + "lambda:" * 20000 + "1\n"),
    "nested blocks": fenced("".join(" " * i + "if 1:\n" for i in range(200))),
    "an integer of many digits": fenced("x = " + "9" * 5000 + "\n"),
    "a format string": fenced("x = f'" + "{" * 5000 + "\n"),
    "nul bytes": fenced("x = 1\0\n") + "\0" * 1000,
    "a lone surrogate": fenced("x = '\ud800'\n"),
    "definitions": INC * (LONG // len(INC)),
    "definitions in a block": fenced(INC * (LONG // len(INC))),
    "definitions in blocks": (fenced(INC) + "\n") * (LONG // 44),
    "broken definitions": "def f(x:\n" * (LONG // 9),
    "decorators": "@a\n" * (LONG // 3),
    "thoughts": "<think>\n</think>\n" * (LONG // 17),
    "open thoughts": "<think>\n" * (LONG // 8),
    "closed thoughts": "</think> " * (LONG // 9),
    "prose": "The class is if it's (not for import from x = here.\n" * (LONG // 52),
    "indented": indented("a = 1\n" * (LONG // 8), "  "),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_reading_hostile_text_takes_time_in_proportion_to_its_length(kind):
    def seconds(text: str) -> float:
        began = time.process_time()
        for problem in (CALL, STDIN, STARTED):
            find_program(text, problem)
        return time.process_time() - began

    # Sixteen times the text: a quadratic reading takes 256 times as long. The constant is what a parse costs.
    part = seconds(HOSTILE[kind][: LONG // 16])
    assert seconds(HOSTILE[kind]) < 64 * (part + 0.01)


def test_a_program_longer_than_what_is_parsed_is_none():
    long = INC + "# a\n" * (MOST_PARSED // 4)
    assert find_program(f"{fenced(long, '')}", CALL) == ""


def test_no_text_raises():
    draw = random.Random(0)
    words = [
        "```",
        "~~~",
        "````",
        "python",
        "\n",
        "\n",
        "\n",
        " ",
        "    ",
        "\t",
        "def inc(x):",
        "return x",
        "'''",
    ]
    words += [
        '"""',
        "<think>",
        "</think>",
        "(",
        ")",
        "@",
        "#",
        "x = 1",
        "class Solution:",
        "else:",
        "\r",
        "\0",
        ">",
    ]
    for _ in range(3000):
        text = "".join(draw.choices(words, k=draw.randrange(30)))
        for problem in (CALL, STDIN, STARTED):
            assert isinstance(find_program(text, problem), str)


# What stands before a program.

HELPED = dataclasses.replace(
    STARTED,
    starter_code="from typing import List\nimport math\n\nLIMIT = 10\n\n\ndef twice(x: int) -> int:\n"
    '    return 2 * x\n\n\ndef inc(xs: List[int]) -> List[int]:\n    """Add one."""\n',
)
TYPED = "def inc(xs: List[int]):\n    return [min(twice(x), LIMIT) for x in xs]\n"


def test_what_the_prompt_imports_and_defines_stands_before_the_program():
    source = with_starter(TYPED, HELPED)
    assert source.endswith("\n\n" + TYPED) and source.count("def inc") == 1
    assert source.startswith("from typing import List\nimport math\nLIMIT = 10\ndef twice(x: int)")
    names = {}
    exec(source, names)  # noqa: S102
    assert names["inc"]([1, 20]) == [2, 10]
    assert with_starter(source, HELPED) == source


def test_what_the_program_defines_itself_does_not_stand_before_it():
    own = "import math\nfrom typing import List\nLIMIT = 3\ndef twice(x):\n    return x\n" + TYPED
    assert with_starter(own, HELPED) == own
    assert "LIMIT = 10" not in with_starter(own, HELPED)


def test_an_import_from_the_future_stays_first():
    own = '"""Adds."""\nfrom __future__ import annotations\n' + TYPED
    compile(with_starter(own, HELPED), "<program>", "exec")


@pytest.mark.parametrize(
    "starter",
    [
        "import math\n\ndef inc(x):\n    ",
        "import math\n\ndef inc(x):",
        "import math\n\nclass Solution:\n    def inc(self, x: int) -> int:\n        ",
        "import math\r\n\r\nclass Solution:\r\n    def inc(self, x: int) -> int:\r\n        ",
        "import math\n\nclass Solution:\n\tdef inc(self, x):\n\t\t",
        'import math\n\ndef inc(x):\n    """Add one.',
        "import math\n\ndef inc(x, ",
    ],
)
def test_starter_code_need_not_be_whole(starter):
    problem = dataclasses.replace(STARTED, starter_code=starter)
    assert with_starter(INC, problem) == "import math\n\n\n" + INC


@pytest.mark.parametrize("starter", ["", "  \n", "def inc(x):\n", "not python at all (", "\0", "(" * 9999])
def test_starter_code_without_anything_to_take_changes_nothing(starter):
    assert with_starter(INC, dataclasses.replace(STARTED, starter_code=starter)) == INC


def test_a_program_that_does_not_parse_stands_as_it_is():
    assert with_starter("def inc(x)", HELPED) == "def inc(x)" and with_starter("", HELPED) == ""
