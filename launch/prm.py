"""Trains process reward models on searched trees, and searches and chooses by their scores.

    python launch/prm.py --config=configs/prm.py:ladder --workdir=runs/prm

Without --config.policy, a nano policy is warmed up on the ladder first; --config.pool_trees and
--config.held_out_trees name finished search stages. The same command again goes on where it stopped.
"""

import json

import entry
from etils import epath

from o1jax import self_play


def main(workdir: epath.Path, config) -> None:
    page = entry.plain(config)
    figures = self_play.process_rewards(self_play.Recipe(workdir, page, page["seed"]))
    print(json.dumps(figures["prm"], indent=1))
    print(f"prm: {figures['totals']['seconds']} s; models in {workdir}/prm/<objective>/policy")


if __name__ == "__main__":
    entry.start("prm", main)
