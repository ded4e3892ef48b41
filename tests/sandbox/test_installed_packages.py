"""What is installed in the interpreter that runs the judge is closed to programs, in every tier."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import pytest

import o1jax

JUDGE = """
import asyncio, json, sys
from o1jax.records import TestCase
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Job, Limits

async def main(tier, packages, source):
    async with ForkJudge(slots=1, highest=tier, packages=tuple(packages)) as judge:
        job = Job(source, (TestCase("", "ok"),), "stdin", limits=Limits(5, 120))
        case = (await judge.judge(job)).cases[0]
        print(json.dumps([judge.isolation, case.status, case.detail]))

asyncio.run(main(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]))
"""
CLOSED = """
import importlib, os, sys

def refused(action, *arguments):
    try:
        action(*arguments)
    except (ImportError, OSError):
        return
    print("escaped:", *arguments)

for place in PLACES:
    refused(os.listdir, place)
    sys.path.append(place)
for name in NAMES:
    refused(importlib.import_module, name)
for file in FILES:
    refused(open, file)
print("ok")
"""
HONEST = """
import importlib
importlib.invalidate_caches()
import array, asyncio, bz2, decimal, email.message, hashlib, multiprocessing.pool, sqlite3, ssl, struct
import sysconfig, unicodedata, xml.etree.ElementTree, zoneinfo
assert sysconfig.get_config_var("EXT_SUFFIX") and hashlib.sha256(b"").digest()
importlib.invalidate_caches()
import ctypes.util, lzma, wave
try:
    import installed
except ModuleNotFoundError:
    print("ok")
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """An installation of this Python with the project, other packages and data in its own directories: the
    interpreter copied, the standard library by links, the rest its own."""
    prefix = tmp_path_factory.mktemp("base")
    (prefix / "bin").mkdir()
    shutil.copy2(os.path.realpath(sys.executable), prefix / "bin" / "python")
    real = pathlib.Path(sysconfig.get_path("stdlib"))
    home = prefix / real.relative_to(sys.base_prefix)
    home.mkdir(parents=True)
    for path in real.iterdir():
        if path.name not in ("site-packages", "dist-packages"):
            (home / path.name).symlink_to(path)
    for place in (home / "site-packages", home / "dist-packages", prefix / "elsewhere", home):
        place.mkdir(exist_ok=True)
        name = f"in_{place.name.replace('-', '_').replace('.', '_')}"
        (place / f"{name}.py").write_text("VALUE = 'read'")
        (place / "data.json").write_text("{}")
    site = home / "site-packages"
    (site / "more.pth").write_text(str(prefix / "elsewhere"))
    (site / "installed").mkdir()
    (site / "installed" / "__init__.py").write_text("from installed import inner")
    (site / "installed" / "inner.py").write_text("")
    (home.parent / "data.json").write_text("{}")
    source = pathlib.Path(o1jax.__file__).parent
    shutil.copytree(source, site / "o1jax", ignore=shutil.ignore_patterns("__pycache__"))
    return prefix, home


def judged(prefix, tier, source, packages=()):
    command = [prefix / "bin" / "python", "-B", "-c", JUDGE, tier, json.dumps(packages), source]
    done = subprocess.run(command, env={}, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def closed(prefix, home):
    places = [home, *(home / name for name in ("site-packages", "dist-packages")), prefix / "elsewhere"]
    places += [pathlib.Path("/usr/lib/python3/dist-packages"), home.parent, pathlib.Path("/usr/lib")]
    own = f"in_{home.name}".replace(".", "_")  # beside the standard library's modules, and none of them
    names = ["o1jax", "in_site_packages", "in_dist_packages", "in_elsewhere", own]
    files = [place / "data.json" for place in places]
    files += [home / "site-packages" / "o1jax" / "records.py", home / f"{own}.py"]
    return "\n".join(
        f"{name} = {list(map(str, found))!r}"
        for name, found in (("PLACES", places), ("NAMES", names), ("FILES", files))
    )


@pytest.mark.parametrize("tier", ["T2", "T0"])
def test_programs_read_nothing_that_is_installed(base, tier):
    prefix, home = base
    isolation, status, detail = judged(prefix, tier, closed(prefix, home) + CLOSED)
    assert status == "AC", (isolation, detail)


@pytest.mark.parametrize("tier", ["T2", "T0"])
def test_programs_import_all_of_the_standard_library(base, tier):
    isolation, status, detail = judged(base[0], tier, HONEST)
    assert status == "AC", (isolation, detail)


@pytest.mark.parametrize("tier", ["T2", "T0"])
def test_an_allowed_package_opens_itself_alone(base, tier):
    prefix, home = base
    source = "import installed.inner\n" + closed(prefix, home) + CLOSED
    isolation, status, detail = judged(prefix, tier, source, ["installed"])
    assert status == "AC", (isolation, detail)
