"""The loop's terms one at a time, from one start and at equal tokens, for several seeds.

    python launch/arms.py --config=configs/arms.py:demo --workdir=runs/arms

The same command goes on where an interrupted run stopped, and with more arms or seeds beside what is there.
"""

import closing
import entry
from etils import epath

from o1jax.recipes.arms import compare
from o1jax.recipes.recipe import Recipe


def main(workdir: epath.Path, page: dict) -> None:
    compare(Recipe(workdir, page, page["seed"]))
    did = f"arms: {', '.join(page['arms'])} of seeds {', '.join(map(str, page['seeds']))}"
    closing.of_run(workdir / f"seed_{page['seeds'][-1]}", did, f"python tests/benchmarks/arms.py {workdir}")


if __name__ == "__main__":
    entry.start("arms", main)
