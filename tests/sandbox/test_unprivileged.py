"""The same promises without root: the hostile and the honest programs again, as nobody."""

import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
AS_NOBODY = [sys.executable, "-B", str(HERE / "as_nobody.py"), "-B"]


@pytest.fixture
def root():
    if os.geteuid() != 0:
        pytest.skip("this is an unprivileged user: the other tests already say it")


def test_an_unprivileged_user_is_told_the_tier(root):
    done = subprocess.run(
        [*AS_NOBODY, "-m", "o1jax.sandbox"], cwd=HERE.parents[1], capture_output=True, text=True
    )
    assert (
        done.returncode == 0 and "T2 needs root" in done.stdout and "uid " not in done.stdout.splitlines()[0]
    )


@pytest.mark.hostile
@pytest.mark.parametrize("file", ["test_hostile.py", "test_honest.py", "test_checker.py"])
def test_all_programs_again_as_nobody(root, file):
    command = [*AS_NOBODY, "-m", "pytest", "-p", "no:cacheprovider", "-m", "hostile or not hostile"]
    done = subprocess.run([*command, str(HERE / file)], cwd=HERE.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
