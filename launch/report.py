"""Writes the page of a run: report.html in its directory, or --out. No network is needed to look at it.

    python launch/report.py runs/demo

Of any run's directory, also of one stage, of a run under way, unfinished or damaged: what is damaged or
missing is named here and on the page, and the rest is shown.
"""

import closing
import entry
from absl import flags
from etils import epath

OUT = flags.DEFINE_string("out", "", "Where the page goes; <run>/report.html if empty.")


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        entry.fail(f"saw {len(argv) - 1} arguments, wanted one: the directory of a run")
    workdir = epath.Path(argv[1])
    if not workdir.is_dir():
        entry.fail(f"{workdir}: no such directory; wanted the directory of a run")
    out = epath.Path(OUT.value) if OUT.value else None
    closing.of_run(workdir, f"read {workdir}", out=out)


if __name__ == "__main__":
    entry.run(main)
