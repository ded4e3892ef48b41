"""Every file is UTF-8 whatever the locale, and what a disk refuses is one line that names the file."""

import ast
import errno
import os
import pathlib
import resource
import signal
import subprocess
import sys

import pytest
from etils import epath

from o1jax.records import InputError
from o1jax.writing import naming, write_whole

ROOT = pathlib.Path(__file__).parents[1]
PROBLEM = (
    '{"id": "é—1", "question": "Print é — again ≤", "form": "stdin", '
    '"tests": [{"input": "é\\n", "output": "é\\n"}], "solutions": ["print(input())"]}\n'
)


def without_encoding(node: ast.Call) -> bool:
    """Whether a call opens text, a file's or a process's, in the encoding of whatever locale there is."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    if name == "open":
        is_file = isinstance(node.func, ast.Name) or bool(modes)  # not os.open's kin, nor an engine's
        text = is_file and "b" not in "".join(modes[-1:]) and "O_" not in ast.unparse(node)
    else:
        text = name in ("read_text", "write_text") or given.get("text") == "True"
    return text and "encoding" not in given


def test_every_text_file_is_opened_with_its_encoding():
    wrong = []
    for path in [p for room in ("o1jax", "launch", "tests/benchmarks") for p in (ROOT / room).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and without_encoding(node):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)[:60]}")
    assert not wrong, wrong


@pytest.mark.parametrize(
    "call, is_wrong",
    [
        ("path.read_text()", True),
        ("path.read_text(encoding='utf-8')", False),
        ("open(path)", True),
        ("open(path, 'rb')", False),
        ("path.open('a')", True),
        ("engine.open()", False),
        ("subprocess.run(command, text=True)", True),
    ],
)
def test_the_rule_catches_what_it_should(call, is_wrong):
    assert without_encoding(ast.parse(call, mode="eval").body) is is_wrong


NOT_IN_BUCKETS = ("write_text", "write_bytes", "rename", "touch")
ON_DISK = {  # what writes to this disk alone, or is the one place that writes to both
    "writing.py",
    "buckets.py",
    "prompts/chat.py",
    "prompts/ends.py",
    "model/hf/checkpoint.py",
    "model/hf/files.py",
    "stages/together.py",
}


def not_for_buckets(node: ast.Call) -> bool:
    """Whether a call on a path does what a bucket cannot, or without what a busy one needs."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    if name == "open":
        return bool(set("wax") & set("".join(modes[-1:])))
    return name in NOT_IN_BUCKETS


def test_what_a_run_writes_is_written_as_buckets_allow():
    wrong = []
    for path in (ROOT / "o1jax").rglob("*.py"):
        room = str(path.relative_to(ROOT / "o1jax"))
        if room not in ON_DISK and not room.startswith("sandbox/"):
            calls = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)]
            wrong += [
                f"{room}:{call.lineno} {ast.unparse(call)[:60]}" for call in calls if not_for_buckets(call)
            ]
    assert not wrong, f"{wrong}: use writing.write_whole, or GrowingFile"


def prepare(tmp_path, *flags, problem=PROBLEM, environment=None, **settings):
    """(exit code, standard output, lines of standard error) of launch/prepare.py on one problem."""
    (tmp_path / "problems.jsonl").write_text(problem, encoding="utf-8")
    command = [sys.executable, "launch/prepare.py"]
    command += [f"--config.check_problems.source={tmp_path / 'problems.jsonl'}", *flags]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, env=os.environ | (environment or {}), check=False, **settings
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode().strip().splitlines()


def test_a_locale_without_letters_changes_no_file(tmp_path):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    outs = {"plain": plain, "utf8": {"PYTHONUTF8": "1"}}
    for name, environment in outs.items():
        code, said, errors = prepare(tmp_path, f"--workdir={tmp_path / 'é' / name}", environment=environment)
        assert code == 0 and said, errors
    plain, utf8 = (tmp_path / "é" / name for name in outs)
    assert (plain / "problems.parquet").read_bytes() == (utf8 / "problems.parquet").read_bytes()
    letters = [
        {c for c in (place / "report.html").read_text(encoding="utf-8") if ord(c) > 127}
        for place in (plain, utf8)
    ]
    assert letters[0] == letters[1] > {"·", "→"}


def small_files_only():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write fails as on a full disk, without a name
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def test_a_launch_script_names_the_file_that_the_disk_refuses(tmp_path):
    unsolved = PROBLEM.replace('["print(input())"]', "[]")  # what is judged would have the limit too
    flag = f"--workdir={tmp_path / 'out'}"
    code, _, errors = prepare(tmp_path, flag, problem=unsolved, preexec_fn=small_files_only)
    assert code == 2 and "out/problems.parquet: cannot be written (File too large)" in errors[-1]
    assert (tmp_path / "out" / "card.json").exists() and not list((tmp_path / "out").glob("*.part"))


@pytest.mark.parametrize("where", ["file", "problems.jsonl/below"])
def test_a_file_where_a_directory_is_wanted_is_named(tmp_path, where):
    (tmp_path / "file").write_text("", encoding="utf-8")
    code, _, errors = prepare(tmp_path, f"--workdir={tmp_path / where}")
    assert code == 2 and len(errors) == 1 and where.split("/")[0] in errors[0]


def test_a_file_that_is_not_written_whole_leaves_the_one_before(tmp_path, monkeypatch):
    path = epath.Path(tmp_path) / "new" / "a.txt"
    write_whole(path, "é \udcc3")
    assert path.read_bytes() == "é \\udcc3".encode()

    def refuse(self, data):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(type(path), "write_bytes", refuse)
    with pytest.raises(InputError, match=r"a\.txt: the disk is full; free some space"):
        write_whole(path, "other")
    assert path.read_bytes() == "é \\udcc3".encode() and [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_only_what_a_disk_refuses_is_named(tmp_path):
    with pytest.raises(InputError, match="^runs/a: cannot be written"), naming("runs/a"):
        raise OSError(errno.EIO, "Input/output error")
    with pytest.raises(InputError, match="^mine: the disk is full"), naming("runs/a"):
        raise OSError(errno.ENOSPC, "No space left on device", "mine")
    with pytest.raises(ConnectionRefusedError), naming("runs/a"):
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
