"""Searches the problems of a file, a data set or a finished stage with MCTS over pseudocode steps.

    python launch/search.py --config=configs/search.py:nano --config.problems=problems.jsonl

Without --config.policy, a nano policy is warmed up on the ladder first (once, a few minutes).
"""

import json

import closing
import entry
from etils import epath

from o1jax.recipes.recipe import Recipe
from o1jax.recipes.single_steps import search


def main(workdir: epath.Path, page: dict) -> None:
    manifest = search(Recipe(workdir, page, page["seed"]))
    print(json.dumps(manifest["figures"], indent=1))
    did = f"search: {manifest['timings']['seconds']} s; trees in {workdir}/search/trees"
    style = page["search"]["search"].get("style", "full")
    closing.of_run(workdir, did, next_command(workdir, manifest, style))


def next_command(workdir: epath.Path, manifest: dict, style: str) -> str:
    """Training on what passed, and on the references of the warm-up where there was one; more search where
    that is nothing."""
    references = workdir / "warm_up_problems" / "references"
    if not manifest["figures"]["passing_paths"] and not references.exists():
        return "nothing passed: search with a higher --config.search.search.rollouts, in a new --workdir"
    then = f"python launch/policy_sft.py --config.inputs.policy={manifest['places']['policy']}"
    if style == "nano":
        then += f" --config.inputs.references={references if references.exists() else ''}"
    else:
        then += " --config=configs/policy_sft.py:<size of the policy>"
    return f"{then} --config.inputs.found_0={workdir}/search"


if __name__ == "__main__":
    entry.start("search", main)
