"""Trains and measures a test-case generator (step 1 of O1-CODER).

    python launch/tcg.py --config=configs/tcg.py:ladder --workdir=runs/tcg

The same command again goes on where it stopped.
"""

import entry
from etils import epath

from o1jax import self_play
from o1jax.report import summary


def main(workdir: epath.Path, config) -> None:
    page = entry.plain(config)
    found = self_play.test_generator(self_play.Recipe(workdir, page, page["seed"]))
    print(summary.tcg_table(found["tcg"]))
    print(f"every figure: {workdir}/summary.json and the manifest.json of each stage in {workdir}/tcg")


if __name__ == "__main__":
    entry.start("tcg", main)
