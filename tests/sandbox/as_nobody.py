"""`python as_nobody.py <words>`: runs `python <words>` as an unprivileged user. Needs root.

Where the interpreter or the project lies in a directory closed to others, that directory is covered, in
a mount namespace of this process alone, by one that holds nothing else and is open.
"""

import os
import pathlib
import sys

JAIL = pathlib.Path(__file__).parents[2] / "o1jax" / "sandbox" / "jail"
NOBODY = 65534


def closed_parent(path: pathlib.Path) -> pathlib.Path | None:
    """The outermost directory above `path` that others may not enter."""
    return next((p for p in reversed(path.parents) if not p.stat().st_mode & 0o001), None)


def open_to_others(paths: list[pathlib.Path]) -> None:
    sys.path.insert(0, str(JAIL))
    import kernel
    import root

    kernel.unshare(kernel.NAMESPACES["mount"])
    root._mount(None, "/", None, root.RECURSIVE | root.PRIVATE)
    closed = {path: closed_parent(path) for path in paths}
    sources = {path: os.open(path, os.O_PATH) for path in paths if closed[path]}
    for top in {closed[path] for path in sources}:
        root._mount("tmpfs", str(top), "tmpfs", 0, "mode=755")
    for path, source in sources.items():
        path.mkdir(parents=True, exist_ok=True)
        root._mount(f"/proc/self/fd/{source}", str(path), None, root.BIND | root.RECURSIVE)
    kernel.become_user(NOBODY)


if __name__ == "__main__":
    open_to_others([pathlib.Path(p) for p in (sys.base_prefix, sys.prefix, JAIL.parents[2])])
    words = [sys.executable, *sys.argv[1:]]
    os.execve(sys.executable, words, {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "HOME": "/nowhere"})
