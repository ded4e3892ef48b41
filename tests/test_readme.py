"""Every command of the documents is run or rehearsed: run where it can be small, else its flags, page and the
settings of all its stages are parsed (rehearsal.py), as are those in the docstrings of scripts and pages.

Commands are read from the documents (documents.py); none is listed here. One that is not understood fails.
"""

import json
import os
import re
import subprocess
import sys

import pytest
from documents import DOCUMENTS, ROOT, commands, json_lines, text_of

from tests.lineage import lineage_run
from tests.report import made_run

SCRIPTS = sorted(path for folder in ("launch", "configs") for path in (ROOT / folder).glob("*.py"))
COMMANDS = list(dict.fromkeys(command for document in DOCUMENTS for command in commands(document)))
OF_SCRIPTS = list(
    dict.fromkeys(command for path in SCRIPTS for command in commands(str(path.relative_to(ROOT))))
)
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
# of what is not here: servers, weights, data
OUTSIDE = re.compile(r"vllm_server|weights/|path/|qwen|--config=\S+:(?!nano|ladder|demo)")


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


REHEARSED = [*by("rehearse"), *OF_SCRIPTS]  # those of scripts are rehearsed, whatever they are


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Where the commands are run as they are written: (a directory, an id for each flag that wants one)."""
    directory = tmp_path_factory.mktemp("world")
    for name in ("launch", "configs"):
        (directory / name).symlink_to(ROOT / name)
    (directory / "problems.jsonl").write_text(json_lines("README.md")[0], encoding="utf-8")
    made_run.whole(directory / "runs" / "demo")
    (directory / "house").mkdir()
    lineage_run.build(directory / "house")
    trained, ids = lineage_run.trainer(directory / "house", tmp_path_factory)("sft")
    (directory / "runs" / "demo" / "round_01").mkdir()
    (directory / "runs" / "demo" / "round_01" / "policy_sft").symlink_to(trained)
    return directory, {"--problem": lineage_run.IDS[0], "--sample": ids[0]}


@pytest.fixture(scope="module")
def ran(world):
    """Command -> (exit code, what it said), of every command that is run, in the documents' order."""
    directory, ids = world

    def run(command):
        words = [word.replace("<id>", ids.get(word.split("=")[0], "")) for word in command.words]
        done = subprocess.run(
            [sys.executable, *words, *SMALL[words[0]]],
            cwd=directory,
            env={"PYTHONPATH": str(ROOT), **os.environ},
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        return done.returncode, done.stderr + done.stdout

    return {command: run(command) for command in by("run")}


@pytest.fixture(scope="module")
def rehearsed():
    """Command -> what is wrong with it, "" if nothing is, of every command that is rehearsed."""
    done = subprocess.run(
        [sys.executable, "tests/rehearsal.py"],
        cwd=ROOT,
        env=os.environ | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"},  # for --coordinator=auto
        input=json.dumps([command.words for command in REHEARSED]),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(REHEARSED, json.loads(done.stdout), strict=True))


def test_every_command_is_understood():
    assert COMMANDS and not by("not understood"), "\n".join(map(str, by("not understood")))


@pytest.mark.parametrize("command", by("run"), ids=str)
def test_a_command_that_can_be_small_runs(ran, command):
    code, said = ran[command]
    assert code == 0, said[:3000]


# Sorted: a block may run commands at the same time, and they come in another order in each worker.
@pytest.mark.parametrize("command", sorted(REHEARSED, key=str), ids=str)
def test_other_commands_have_pages_keys_and_flags_that_are_there(rehearsed, command):
    assert rehearsed[command] == ""


@pytest.mark.parametrize("command", by("make"), ids=str)
def test_a_target_of_make_is_in_the_makefile(command):
    targets = re.findall(r"^([\w-]+):", text_of("Makefile"), re.MULTILINE)
    asked = {word for word in command.words if "=" not in word}  # the others set make's variables
    assert asked and asked <= set(targets)


@pytest.mark.parametrize("command", by("install"), ids=str)
def test_what_is_installed_is_an_extra_of_the_package(command):
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    for extras in re.findall(r"\.\[([\w,]+)\]", " ".join(command.words)):
        assert all(f'"{extra}": [' in setup for extra in extras.split(","))


def test_no_two_commands_write_into_one_directory():
    """A stage refuses a directory that was made with other settings."""
    flags_of = {}
    for command in COMMANDS:
        flags = sorted(word for word in command.words if not word.startswith("--process_index="))
        for workdir in (word for word in flags if word.startswith("--workdir=")):
            assert flags_of.setdefault((command.document, workdir), flags) == flags


def test_own_problems_flow_into_a_search(ran, world):
    assert ran and (world[0] / "runs/mine/card.md").exists()
    assert list(world[0].glob("runs/mine_nano/search/trees/*.parquet"))
