"""`python several_stages.py ROOT`: a process that runs every stage of `specs` there, one after the other."""

import dataclasses
import functools
import sys

import lineage_run
from etils import epath

from o1jax.records import Tree
from o1jax.stages.manifest import StageSpec
from o1jax.stages.run import run_in_child
from o1jax.store import write_records

SAMPLE = {"n": 2, "max_tokens": 24, "style": "nano"}
BUDGET = {"train_tokens": 2_000, "train": {"row_length": 256, "rows_per_batch": 4}}


def build(root):
    """What the stages begin with: a policy, and searches of made-up problems."""
    lineage_run.stage(root, "policy", "warm_up", lineage_run.policy)
    for number, ids in enumerate((("a", "b", "c"), ("x", "y"))):
        trees = [
            dataclasses.replace(lineage_run.tree_of(id, number), prompt_ids=(3, 7 + number)) for id in ids
        ]
        keep = functools.partial(keep_trees, trees=trees)
        lineage_run.stage(root, f"trees_{number}", "search", keep)


def keep_trees(place, trees):
    write_records(place / "trees" / "trees.parquet", Tree, trees)


def specs(root):
    """(place, stage, settings, inputs), each of what is there before it."""
    search = {"rollouts": 3, "samples": 2, "max_step_tokens": 24, "max_path_tokens": 48, "style": "nano"}
    play = {"sample": SAMPLE, "engine": {"slots": 8, "context": 256}, "concurrency": 8}
    evaluate = {**play, "search": search, "with_search": True, "ks": (1, 2)}
    vine = {"search": {**search, "algorithm": "vine"}, "draw": {"problems": 4}, **play}
    del vine["sample"]
    problems = {"source": "ladder:pool", "counts": {"rung_1": 9}}
    cases = {**BUDGET, "train": {**BUDGET["train"], "row_length": 1024}, "cases": {"style": "nano"}}
    played = {"policy": "policy", "problems": "problems"}
    return [
        ("problems", "check_problems", problems, {}),
        ("search", "search", {"search": search, "engine": play["engine"], "concurrency": 8}, played),
        ("sample", "sample", play, played | {"match": "search"}),
        ("drawn", "search", vine, played | {"scout": "sample"}),
        ("evaluate", "evaluate", evaluate, played),
        ("sft", "policy_sft", BUDGET, {"policy": "policy", "found_0": "trees_0", "references": "problems"}),
        ("dpo", "policy_dpo", BUDGET, {"policy": "sft", "found_0": "trees_0"}),
        ("prm", "prm", BUDGET, {"policy": "sft", "found_0": "trees_0", "held_out": "trees_1"}),
        ("tcg_problems", "check_problems", {**problems, "small_tests": 6}, {}),
        ("tcg", "tcg_sft", cases, {"policy": "policy", "problems": "tcg_problems"}),
        ("tcg_dpo", "tcg_dpo", cases, {"tcg": "tcg", "problems": "tcg_problems"}),
    ]


if __name__ == "__main__":
    root = epath.Path(sys.argv[1])
    for place, stage, settings, inputs in specs(root):
        places = {name: str(root / at) for name, at in inputs.items()}
        run_in_child(root / place, StageSpec(stage, settings, 0, places))
        print("done", place, flush=True)
