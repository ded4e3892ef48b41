"""What makes a tier, what is too little, and what a slot of its own has."""

import asyncio
import os
import pathlib
import sys

import pytest

from o1jax.records import TestCase
from o1jax.sandbox import jail
from o1jax.sandbox.cgroup import Cgroup, own_cgroup
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Job, Limits, SandboxError

NAMESPACES = "pid net ipc uts mount"


@pytest.fixture
def isolation(monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(jail.__file__).parent))
    loaded = ("isolation", "kernel", "landlock", "root", "seccomp", "syscalls")
    import isolation as module

    yield module
    for name in loaded:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("names", "tier"),
    [
        ("", "insecure"),
        ("landlock", "insecure"),
        ("seccomp", "insecure"),  # neither Landlock nor a root directory of its own
        (NAMESPACES + " seccomp", "insecure"),
        (NAMESPACES + " root landlock", "insecure"),
        ("landlock seccomp", "T0"),
        ("mount root seccomp", "T0"),
        (NAMESPACES + " landlock seccomp", "T0"),
        (NAMESPACES + " root seccomp", "T1"),
        (NAMESPACES + " root seccomp uid", "T1"),
        (NAMESPACES + " root landlock seccomp uid cgroup", "T2"),
    ],
)
def test_tiers(isolation, names, tier):
    slot = isolation.Isolation("T2")
    slot.names = names.split()
    assert slot.tier == tier and slot.sealed == (tier != "insecure")


def test_what_the_kernel_refuses_is_noted(isolation):
    slot = isolation.Isolation("T2")

    def refuse():
        raise PermissionError(1, "Operation not permitted")

    slot.attempt("mount", refuse)
    assert slot.names == [] and slot.missing == {"mount": "Operation not permitted"}


def test_a_slot_has_a_user_of_its_own_that_may_read_the_standard_library(runner, judge):
    if os.geteuid() != 0 or "uid" not in judge.isolation:
        pytest.skip("needs root")
    source = "import os, sqlite3\nprint(os.getresuid(), os.getresgid(), os.getgroups())"
    jobs = [
        Job(source + f"  # {i}", (TestCase("", "x"),), "stdin", limits=Limits(5, 120), keep_output=True)
        for i in range(8)
    ]
    outputs = {runner.run(judge.judge(job)).cases[0].output for job in jobs}
    users = {int(output.split(",")[0].strip("( ")) for output in outputs}
    assert 1 <= len(users) <= 2 and min(users) > 0x70000000 and all("[]" in output for output in outputs)


def test_a_cgroup_caps_processes_and_memory(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    stale = tmp_path / "o1jax-999999999-0"
    stale.mkdir()
    slot = Cgroup(tmp_path)
    slot.join(17)
    slot.cap(512)
    (made,) = tmp_path.glob("o1jax-*")
    found = {path.name: path.read_text() for path in made.iterdir()}
    assert made.name == f"o1jax-{os.getpid()}-0" and not stale.exists()
    assert found == {"pids.max": "256", "cgroup.procs": "17", "memory.max": str(768 << 20)}
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory +pids"


def test_two_judges_share_no_cgroup(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("memory pids\n")
    for _ in range(3):
        Cgroup(tmp_path)
    assert len(list(tmp_path.glob("o1jax-*"))) == 3


def test_a_cgroup_without_its_controllers_is_refused(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    with pytest.raises(OSError, match="not memory and pids"):
        Cgroup(tmp_path)
    assert list(tmp_path.glob("o1jax-*")) == []


def test_the_cgroup_of_this_process_is_a_directory_or_there_is_none():
    try:
        assert own_cgroup().is_dir()
    except OSError as error:
        assert "cgroup2" in str(error)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A directory of packages: a module of one file beside a secret, and a namespace package."""
    (tmp_path / "lonely.py").write_text("VALUE = 'ok'")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "inner.py").write_text("VALUE = 'ok'")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def outcome(job, **settings):
    async def go():
        async with ForkJudge(slots=1, **settings) as judge:
            return (await judge.judge(job)).cases[0]

    return asyncio.run(go())


@pytest.mark.parametrize("tier", ["T2", "T0"])
def test_packages_open_themselves_and_nothing_beside_them(packages, tier):
    source = f"""
import lonely, space.inner
try:
    print(open({str(packages / "secret.txt")!r}).read())
except OSError:
    print(lonely.VALUE, space.inner.VALUE)
"""
    job = Job(source, (TestCase("", "ok ok"),), "stdin", limits=Limits(5, 120))
    case = outcome(job, packages=("lonely", "space"), highest=tier)
    assert case.passed, case


def test_a_built_in_module_is_no_package():
    with pytest.raises(SandboxError, match="'sys' is built into Python.*leave it out"):
        outcome(Job("", (), "stdin"), packages=("sys",))
