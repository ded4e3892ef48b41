"""`python render.py < cases.json > files.json`: what launch/pods.py makes of (target, settings) pairs.

Of each a list (file, text, command that submits it), or a text: why it was refused. launch/ is on the path
here and not in the tests' own process: its profile.py would stand before Python's.
"""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def rendered(cases):
    """The same, from another process: case -> files."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, __file__], env=env, input=json.dumps(cases), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def main():
    sys.path.insert(0, str(ROOT / "launch"))
    import pages
    import pods

    from o1jax.records import InputError

    def one(target, settings):
        try:
            return pods.rendered(target, pages.loaded(str(pods.HERE / "settings.py")) | settings)
        except InputError as error:
            return str(error)

    json.dump([one(*case) for case in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
