"""A generator's tests for the problems of a run, which search then reads in their place.

    python launch/write_tests.py --config=configs/write_tests.py --workdir=runs/write_tests

nano: 2 CPU cores, about a minute for 500 problems.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The traced nano generator of configs/tcg.py:ladder, on the demo's pool."""
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "inputs": {"tcg": "runs/tcg/tcg/traced/near_miss", "problems": "runs/demo/problems/pool"},
            "write_tests": {
                "reward_tests": "both",
                "write": {
                    "answers": 4,
                    "traced": True,
                    "temperature": 1.0,
                    "top_p": 1.0,
                    "top_k": 0,
                    "max_tokens": 320,
                    "style": "nano",
                },
                "gate": {"mutants": 12},
                "engine": {"slots": 64, "context": 640},
            },
        }
    )
