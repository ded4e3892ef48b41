"""The verdicts that the other tests ask for, under other versions of Python where these are installed."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
HOMES = (".pyenv/versions/{}.*/bin/python", ".local/share/uv/python/cpython-{}.*/bin/python3")
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
FILES = ("as_python_prints", "assertions", "checker", "compare", "floods", "honest", "hostile")


def interpreter(version: str) -> str | None:
    """One of that version: on the path, pyenv's or uv's."""
    found = [shutil.which(f"python{version}")]
    found += [str(path) for home in HOMES for path in sorted(pathlib.Path.home().glob(home.format(version)))]
    for path in filter(None, found):
        # What is on the path may only stand for versions that are not set.
        done = subprocess.run([path, "-V"], capture_output=True, text=True)
        if done.stdout.startswith(f"Python {version}."):
            return path
    return None


@pytest.mark.hostile
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", FILES)
def test_the_verdicts_are_the_same_on_another_python(version, file):
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip("this is the version that all tests run on")
    if (python := interpreter(version)) is None:
        pytest.skip(f"no Python {version} is installed")
    # pytest itself is of no version; its plugins may be.
    paths = [str(HERE.parents[1]), str(pathlib.Path(pytest.__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [python, "-B", "-m", "pytest", "-p", "no:cacheprovider", str(HERE / f"test_{file}.py")]
    done = subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
