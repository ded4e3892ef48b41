"""The documents are true: commands run or are rehearsed, what is named exists, tables are the code's.

Commands are read from the documents (documents.py); none is listed here. One that is not understood fails.
"""

import enum
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import types
import typing

import pytest
from documents import ROOT, commands, inline, python_blocks, tables, text_of
from etils import epath

from o1jax.problems.load import load_problems
from o1jax.report import summary
from o1jax.report.run_files import RunFiles
from o1jax.stages import manifest
from tests.report import made_run
from tests.stages import lineage_run

DOCUMENTS = ("README.md", "o1jax/README.md", "o1jax/FORMATS.md")
COMMANDS = list(dict.fromkeys(command for document in DOCUMENTS for command in commands(document)))
SMALL = {  # the scripts that are run, and the flags that make them small
    "launch/report.py": (),
    "launch/lineage.py": (),
    "launch/prepare.py": (),
    "launch/profile.py": ("--steps=2", "--rows=2", "--row_length=64"),
    "launch/search.py": (
        "--config.policy=house/warm_up",
        "--config.search.search.rollouts=1",
        "--config.search.search.max_path_tokens=8",
        "--config.search.engine.context=256",
    ),
}
OUTSIDE = re.compile(r"vllm_server|weights/|qwen|:mbpp")  # needs servers, weights or the network
ROOMS = {path.name for place in (ROOT, ROOT / "o1jax") for path in place.iterdir()}
RECORDS = [title for title in tables("o1jax/FORMATS.md") if re.fullmatch("([A-Z][a-z]+)+", title)]


def way_of(command):
    """How a command is checked."""
    first, *_ = command.words
    if command.program == "make":
        return "make"
    if first in SMALL and not OUTSIDE.search(str(command)):
        return "run"
    if first.startswith(("launch/", "tests/benchmarks/")):
        return "rehearse"
    return "install" if command.words[:2] in (("-m", "venv"), ("-m", "pip")) else "not understood"


def by(way):
    return [command for command in COMMANDS if way_of(command) == way]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Where the commands are run as they are written: (a directory, an id for each flag that wants one)."""
    place = tmp_path_factory.mktemp("world")
    for name in ("launch", "configs"):
        (place / name).symlink_to(ROOT / name)
    (place / "problems.jsonl").write_text(json_lines("README.md")[0])
    made_run.whole(place / "runs" / "demo")
    (place / "house").mkdir()
    lineage_run.build(place / "house")
    trained, ids = lineage_run.trainer(place / "house", tmp_path_factory)("sft")
    (place / "runs" / "demo" / "round_01").mkdir()
    (place / "runs" / "demo" / "round_01" / "policy_sft").symlink_to(trained)
    return place, {"--problem": lineage_run.IDS[0], "--sample": ids[0]}


@pytest.fixture(scope="module")
def ran(world):
    """Command -> (exit code, what it said), of every command that is run, in the documents' order."""
    place, ids = world

    def run(command):
        words = [
            re.sub("^(--[a-z]+)=<id>$", lambda flag: f"{flag[1]}={ids[flag[1]]}", w) for w in command.words
        ]
        done = subprocess.run(
            [sys.executable, *words, *SMALL[words[0]]],
            cwd=place,
            env={"PYTHONPATH": str(ROOT), **os.environ},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return {command: run(command) for command in by("run")}


@pytest.fixture(scope="module")
def rehearsed():
    """Command -> what is wrong with it, "" if nothing is, of every command that is rehearsed."""
    done = subprocess.run(
        [sys.executable, "tests/rehearsal.py"],
        cwd=ROOT,
        input=json.dumps([command.words for command in by("rehearse")]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(by("rehearse"), json.loads(done.stdout), strict=True))


def test_every_command_is_understood():
    assert COMMANDS and not by("not understood"), "\n".join(map(str, by("not understood")))


@pytest.mark.parametrize("command", by("run"), ids=str)
def test_a_command_that_can_be_small_runs(ran, command):
    code, said = ran[command]
    assert code == 0, said[-2000:]


@pytest.mark.parametrize("command", by("rehearse"), ids=str)
def test_other_commands_have_pages_keys_and_flags_that_are_there(rehearsed, command):
    assert rehearsed[command] == ""


@pytest.mark.parametrize("command", by("make"), ids=str)
def test_a_target_of_make_is_in_the_makefile(command):
    targets = re.findall(r"^([\w-]+):", text_of("Makefile"), re.MULTILINE)
    assert set(command.words) <= set(targets)


@pytest.mark.parametrize("command", by("install"), ids=str)
def test_what_is_installed_is_an_extra_of_the_package(command):
    extras = re.findall(r"\.\[([\w,]+)\]", " ".join(command.words))
    assert all(f'"{name}": [' in text_of("setup.py") for extra in extras for name in extra.split(","))


def test_no_two_commands_write_into_one_directory():
    """A stage refuses a directory that was made with other settings."""
    flags_of = {}
    for command in COMMANDS:
        flags = sorted(command.words)
        for workdir in (word for word in flags if word.startswith("--workdir=")):
            assert flags_of.setdefault((command.document, workdir), flags) == flags


def test_own_problems_flow_into_a_search(ran, world):
    assert ran and (world[0] / "runs/mine/card.md").exists()
    assert list(world[0].glob("runs/mine_nano/search/trees/*.parquet"))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_and_links_that_are_named_exist(document):
    names = {word for code in inline(document) for word in code.split() if is_file_name(word)}
    links = re.findall(r"\]\((?!http|#)([^)#]+)", text_of(document))
    missing = [name for name in names if not any((ROOT / place / name).exists() for place in ("", "o1jax"))]
    missing += [link for link in links if not (ROOT / document).parent.joinpath(link).exists()]
    assert not missing


def is_file_name(word):
    """Of a file here: of what a run writes there is nothing to find."""
    return re.fullmatch(r"[\w./-]+", word) and (
        word.endswith(".py") or ("/" in word and word.split("/")[0] in ROOMS)
    )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_names_and_variables_of_the_package_exist(document):
    for code in inline(document):
        for name in re.findall(r"o1jax(?:\.\w+)+", code):
            module, _, attribute = name.rpartition(".")
            assert importlib.util.find_spec(name) if module == "o1jax" else name_in(module, attribute), name
    sources = "".join(path.read_text() for path in (ROOT / "o1jax").rglob("*.py"))
    assert all(name in sources for name in re.findall(r"O1JAX_[A-Z]+", text_of(document)))


def name_in(module, attribute):
    return hasattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_flags_that_are_named_are_keys_of_a_page(document):
    pages = [page_of(path) for path in sorted((ROOT / "configs").glob("*.py"))]
    for code in inline(document):
        for key in re.findall(r"--config\.([\w.]+)", code):
            assert any(has_key(page, key.split(".")) for page in pages) or key == "key", key


def page_of(path):
    spec = importlib.util.spec_from_file_location(f"page_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config().to_dict()


def has_key(page, keys):
    return not keys or (isinstance(page, dict) and keys[0] in page and has_key(page[keys[0]], keys[1:]))


@pytest.mark.parametrize("name", RECORDS)
def test_the_columns_of_a_record_are_as_documented(name):
    module = re.search(rf"`(o1jax[\w.]+)\.{name}`", text_of("o1jax/FORMATS.md"))[1]
    cls = getattr(importlib.import_module(module), name)
    columns = [[name, spelled(hint)] for name, hint in typing.get_type_hints(cls).items()]
    assert [[row[0].strip("`"), row[1]] for row in tables("o1jax/FORMATS.md")[name]] == columns


def spelled(hint):
    """A field's type in the words of FORMATS.md."""
    if isinstance(hint, types.UnionType):
        return f"{spelled(typing.get_args(hint)[0])} or null"
    if typing.get_origin(hint) is tuple:
        return f"list of {spelled(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is typing.Literal or issubclass(hint, enum.StrEnum):
        return "text"
    return {str: "text", int: "int64", float: "double", bool: "bool"}.get(hint) or hint.__name__


def test_the_keys_of_json_files_are_as_documented(world, tmp_path):
    spec = manifest.StageSpec("search", {}, 0, {})
    manifest.begin(epath.Path(tmp_path), spec)
    manifest.finish(epath.Path(tmp_path), spec, manifest.StageResult({}, {}))
    found = {name: json.loads((tmp_path / name).read_text()) for name in ("manifest.json", "spec.json")}
    found["summary.json"] = summary.of(RunFiles(epath.Path(world[0] / "runs" / "demo")))
    for name, value in found.items():
        assert {row[0].strip("`") for row in tables("o1jax/FORMATS.md")[name]} == set(value), name


@pytest.mark.parametrize("document", ["README.md", "o1jax/FORMATS.md"])
def test_problems_that_are_shown_can_be_read(document, tmp_path):
    for number, line in enumerate(json_lines(document)):
        (tmp_path / f"{number}.jsonl").write_text(line)
        (problem,) = load_problems(str(tmp_path / f"{number}.jsonl"))
        assert problem.tests


def json_lines(document):
    return [line.strip() for line in text_of(document).splitlines() if line.startswith('    {"')]


def test_python_that_is_shown_runs(world, monkeypatch):
    monkeypatch.chdir(world[0])
    for document in DOCUMENTS:
        for block in python_blocks(document):
            names = {}
            exec(compile(block, document, "exec"), names)  # noqa: S102
            assert names["trees"]
