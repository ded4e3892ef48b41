"""Searches the problems of a file, a data set or a finished stage with MCTS over pseudocode steps.

    python launch/search.py --config=configs/search.py:nano --config.problems=problems.jsonl

Without --config.policy, a nano policy is warmed up on the ladder first (once, a few minutes).
"""

import json

import closing
import entry
from etils import epath

from o1jax.self_play.parts import search
from o1jax.self_play.recipe import Recipe


def main(workdir: epath.Path, config) -> None:
    page = entry.plain(config)
    manifest = search(Recipe(workdir, page, page["seed"]))
    print(json.dumps(manifest["figures"], indent=1))
    did = f"search: {manifest['timings']['seconds']} s; trees in {workdir}/search/trees"
    policy = manifest["places"]["policy"]
    then = f"python launch/policy_sft.py --config.inputs.policy={policy} --config.inputs.references="
    closing.of_run(workdir, did, f"{then} --config.inputs.found_0={workdir}/search")


if __name__ == "__main__":
    entry.start("search", main)
