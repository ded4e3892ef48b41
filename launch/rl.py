"""Policy-gradient RL beside what else could be done with the same tokens.

    python launch/rl.py --config=configs/rl.py:ladder --workdir=runs/rl

The same command again goes on where an interrupted run stopped.
"""

import closing
import entry
from etils import epath

from o1jax.recipes.recipe import Recipe
from o1jax.recipes.rl_ablation import reinforcement
from o1jax.report import tables


def main(workdir: epath.Path, page: dict) -> None:
    figures = reinforcement(Recipe(workdir, page, page["seed"]))
    print(tables.of_run(figures))
    did = f"rl: {figures['totals']['seconds'] / 60:.1f} min; {workdir}/summary.json has every figure"
    closing.of_run(workdir, did, f"python tests/benchmarks/rl.py {workdir}")


if __name__ == "__main__":
    entry.start("rl", main)
