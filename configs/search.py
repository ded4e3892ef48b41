"""Search of any problems: a TACO-format or jsonl file, a data set's name, or a finished stage.

    python launch/search.py --config=configs/search.py:nano --config.problems=problems.jsonl

Hardware: 2 CPU cores, 4 GiB. Without --config.policy a nano policy is warmed up on the ladder first
(a few minutes); it solves ladder problems, not real ones. Expected figures: tests/benchmarks/LOG.md.
"""

import ml_collections

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "style": "nano"}


def get_config(variant: str = "nano") -> ml_collections.ConfigDict:
    """`nano`: the nano policy, with a context for long statements."""
    if variant != "nano":
        raise ValueError(f"variant {variant!r}: there is nano")
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "problems": "runs/demo/problems/held_out",
            "policy": "",
            "references": {
                "source": "ladder:warm_up",
                "counts": {"rung_1": 60, "rung_2": 120, "rung_3": 120, "rung_4": 100},
            },
            "validation": {"source": "ladder:pool", "counts": {"rung_2": 40, "rung_3": 40, "rung_4": 40}},
            "check_problems": {"keep": "consistent", "max_solutions": 10},
            "warm_up": {
                "train": {"row_length": 256, "rows_per_batch": 16},
                "max_steps": 600,
                "evaluate_every": 150,
                "sample": {**SAMPLING, "n": 4, "max_tokens": 176},
                "engine": {"slots": 64, "context": 256},
            },
            "search": {
                "search": {
                    **SAMPLING,
                    "rollouts": 12,
                    "max_depth": 3,
                    "samples": 3,
                    "c": 0.4,
                    "max_step_tokens": 160,
                    "max_path_tokens": 320,
                    "compile_weight": 0.1,
                },
                "engine": {"prefix_cache_mb": 64.0, "slots": 16, "context": 2048},
                "concurrency": 16,
            },
        }
    )
