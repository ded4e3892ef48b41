"""What the documents say, as data: their blocks of code, the commands in them, words in backticks, tables.

A shell reads the commands: it runs the blocks in order, with programs that only note their words, so that
loops and variables mean what they mean to a reader. Judges nothing (test_readme.py does).
"""

import ast
import dataclasses
import pathlib
import re
import shutil
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "launch/README.md",
    "o1jax/README.md",
    "o1jax/FORMATS.md",
    "tests/benchmarks/RESULTS.md",  # LOG.md is not one: its entries keep the names of their day
)
PROGRAMS = (  # the first words that a command may have
    "make",
    "python",
    ".venv-gpu/bin/python",
    ".venv-plan/bin/python",
    ".venv-tpu/bin/python",
    ".venv-vllm/bin/python",
)
NOTE = '#!/bin/sh\nline=$(printf "%s\\037" "$0" "$@")\nprintf "%s\\n" "$line" >> "$NOTED"\n'
ELSEWHERE = {  # programs that run a command somewhere else: here they run it
    "srun": '#!/bin/sh\nwhile case "$1" in -*) true;; *) false;; esac; do shift; done\nexec "$@"\n',
    "gcloud": '#!/bin/sh\nfor last; do :; done\ncd() { :; }\neval "${last#--command=}"\n',
}
NO_COMMANDS = (  # blocks that are something else, by their first line
    r"\S+/($|    )",  # a listing
    r".* -> ",  # a diagram
    r"[{<\"]",  # JSON, or what a model writes
    r"arm +round +pass@1 ",  # what a script prints
    r"\(root\)",  # a tree of steps
)
FENCED = re.compile(r"```python\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"(make|\S*python (launch|tests)/\S+\.py)( |$)")


@dataclasses.dataclass(frozen=True)
class Command:
    """The words of a command; `program` is its first one."""

    document: str
    program: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.document}: {' '.join((self.program, *self.words))}"


def text_of(document: str) -> str:
    """A file's text; of a Python file its docstring."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "") if document.endswith(".py") else text


def blocks(document: str) -> list[str]:
    """The blocks of code: lines indented by four after an empty one."""
    found, inside, after_empty = [], False, True
    for line in text_of(document).splitlines():
        if line.startswith("    ") and (inside or after_empty):
            found = found if inside else [*found, ""]
            found[-1] += line[4:] + "\n"
            inside = True
        elif line.strip():
            inside = False
        after_empty = not line.strip()
    return found


def is_commands(block: str) -> bool:
    """Whatever is not known to be something else."""
    return not any(re.match(pattern, block.splitlines()[0]) for pattern in NO_COMMANDS)


def inline(document: str) -> list[str]:
    """What stands in backticks outside of blocks."""
    text = re.sub(FENCED, "", text_of(document))
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


def python_blocks(document: str) -> list[str]:
    """The fenced blocks, all of them Python."""
    return re.findall(FENCED, text_of(document))


def json_lines(document: str) -> list[str]:
    """The JSON objects among the blocks, each on a line."""
    return [line.strip() for line in text_of(document).splitlines() if line.startswith('    {"')]


def commands(document: str) -> list[Command]:
    """Every command of the blocks, then those in backticks. AssertionError with what the shell says, for a
    program that is none of PROGRAMS or an unknown variable."""
    lines = [*filter(is_commands, blocks(document)), *filter(INLINE.match, inline(document))]
    with tempfile.TemporaryDirectory() as directory:
        for program in (*PROGRAMS, *ELSEWHERE):
            path = pathlib.Path(directory, program if "/" in program else f"bin/{program}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(ELSEWHERE.get(program, NOTE), encoding="utf-8")
            path.chmod(0o755)
        noted = pathlib.Path(directory, "noted")
        noted.touch()
        done = subprocess.run(
            [shutil.which("bash"), "-eu"],
            input="\n".join(lines),
            cwd=directory,
            env={"PATH": f"{directory}/bin", "NOTED": str(noted)},
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == 0, f"{document}: {done.stderr}"
        rows = [line.split("\037")[:-1] for line in noted.read_text(encoding="utf-8").splitlines()]
    return [
        Command(document, first.removeprefix(f"{directory}/bin/"), tuple(words)) for first, *words in rows
    ]


def tables(document: str, columns: str = "") -> dict[str, list[list[str]]]:
    """Heading -> the rows of cells of all tables below it, without their first two lines; of those tables
    alone whose first line is `columns`, where it is given."""
    found: dict[str, list[list[str]]] = {}
    heading, number, wanted = "", 0, True  # number: of a line in its table
    for line in text_of(document).splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        number = number + 1 if line.startswith("|") else 0
        if number == 1:
            wanted = columns in ("", line)
        if number > 2 and wanted:
            found.setdefault(heading, []).append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found
