"""One stage from flags: what launch/evaluate.py and its like call.

A page has `seed`, `inputs` (name -> directory, "" for one that is not given) and the stage's settings
under the stage's name.
"""

from __future__ import annotations

import json

import closing
import entry
from etils import epath

from o1jax.parallel.processes import this_process
from o1jax.stages import run
from o1jax.stages.manifest import StageSpec


def launch(name: str, page: str = "") -> None:
    """Runs stage `name` into --workdir and prints its figures, as a table where the stage writes one. Its
    settings are in configs/<page>.py (the stage's name, if empty), unless --config says another."""

    def main(workdir: epath.Path, settings: dict) -> None:
        inputs = {name: place for name, place in settings["inputs"].items() if place}
        # Of several processes each has its stage in a child: how that ends, its own code cannot always say.
        start = run.run if this_process().count == 1 else run.run_in_child
        manifest = start(workdir, StageSpec(name, settings[name], settings["seed"], inputs))
        table = workdir / "table.md"
        print(
            table.read_text(encoding="utf-8") if table.exists() else json.dumps(manifest["figures"], indent=1)
        )
        closing.of_stage(workdir, name, manifest["timings"]["seconds"])

    entry.start(page or name, main)
