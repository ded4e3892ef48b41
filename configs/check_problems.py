"""Reads problems and runs their reference programs against their tests.

    python launch/check_problems.py --config.check_problems.source=problems.jsonl --workdir=runs/checked

Sources: a jsonl or TACO-format file, `taco:train` or `taco:test`, `ladder:<split>` with counts.
Writes problems.jsonl and inconsistent.json. Hardware: any CPU; a few hundred programs a second.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The ladder's pool, unless another source is given."""
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "inputs": {},
            "check_problems": {
                "source": "ladder:pool",
                "counts": {"rung_2": 50, "rung_3": 50, "rung_4": 50},
                "small_tests": 0,
                "drawn_tests": 0,
                "max_problems": 0,
                "max_solutions": 10,
                "keep": "consistent",
                "judge_slots": 2,
                "cpu_s": 2.0,
            },
        }
    )
