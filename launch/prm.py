"""Trains process reward models on searched trees, and searches and chooses by their scores.

    python launch/prm.py --config=configs/prm.py:ladder --workdir=runs/prm

Without --config.policy, a nano policy is warmed up on the ladder first; --config.pool_trees,
--config.more_trees (beside those, with commas between them) and --config.held_out_trees name finished
search stages. The same command again goes on where it stopped.
"""

import closing
import entry
from etils import epath

from o1jax.recipes.recipe import Recipe
from o1jax.recipes.single_steps import process_rewards
from o1jax.report import tables


def main(workdir: epath.Path, page: dict) -> None:
    figures = process_rewards(Recipe(workdir, page, page["seed"]))
    print(tables.of_run(figures))
    did = f"prm: models in {workdir}/prm/<objective>; {workdir}/summary.json has every figure"
    closing.of_run(workdir, did, closing.after_prm(workdir, page))


if __name__ == "__main__":
    entry.start("prm", main)
