"""Samples whole answers, judged by the problems' own tests: expert iteration's half of the work.

    python launch/sample.py --config.inputs.policy=runs/demo/warm_up --workdir=runs/sample

With inputs.match, a stage of search or sampling, its tokens in all are spent, each problem to the rule that
ended the search; with inputs.scout and draw.problems, the problems are drawn by what such a stage found.

Hardware: 2 CPU cores for nano, about a minute.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The demo's warmed-up policy on the demo's pool."""
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "inputs": {
                "policy": "runs/demo/warm_up",
                "problems": "runs/demo/problems/pool",
                "match": "",
                "scout": "",
            },
            "sample": {
                "sample": {
                    "n": 4,
                    "prompt": "pseudocode",
                    "temperature": 1.0,
                    "top_p": 1.0,
                    "top_k": 0,
                    "style": "nano",
                    "max_tokens": 176,
                    "few_shot": 0,
                },
                "engine": {"prefix_cache_mb": 64.0, "slots": 64, "context": 256},
                "stop": {"tokens": 1000, "answers": 0, "passes": 0, "fails": 0},
                "draw": {"problems": 0, "power": 3.0, "group": 8, "forget": 0.5},
            },
        }
    )
