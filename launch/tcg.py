"""Trains and measures a test-case generator (step 1 of O1-CODER).

    python launch/tcg.py --config=configs/tcg.py:ladder --workdir=runs/tcg

The same command again goes on where it stopped.
"""

import closing
import entry
from etils import epath

from o1jax.recipes.recipe import Recipe
from o1jax.recipes.single_steps import test_generator
from o1jax.report import tables


def main(workdir: epath.Path, page: dict) -> None:
    figures = test_generator(Recipe(workdir, page, page["seed"]))
    print(tables.of_run(figures))
    did = f"tcg: generators in {workdir}/tcg/<form>/<arm>; {workdir}/summary.json has every figure"
    closing.of_run(workdir, did, closing.after_tcg(workdir, page))


if __name__ == "__main__":
    entry.start("tcg", main)
