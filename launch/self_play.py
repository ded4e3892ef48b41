"""The whole of self-play, round after round.

    python launch/self_play.py --config=configs/self_play.py:demo --workdir=runs/demo

The same command again goes on where an interrupted run stopped.
"""

import closing
import entry
from etils import epath

from o1jax.recipes.recipe import Recipe
from o1jax.recipes.self_play import play
from o1jax.report import tables


def main(workdir: epath.Path, page: dict) -> None:
    figures = play(Recipe(workdir, page, page["seed"]))
    print(tables.of_run(figures))
    totals = figures["totals"]
    closing.of_run(
        workdir,
        f"self-play: {totals['seconds'] / 60:.1f} min, {totals['generated_tokens']:,.0f} generated and "
        f"{totals['trained_tokens']:,.0f} trained tokens; {workdir}/summary.json has every figure",
        f"python launch/lineage.py {workdir}/round_00/policy_sft",
    )


if __name__ == "__main__":
    entry.start("self_play", main)
