"""The generator's turn of self-play: DPO on its own answers, by the policy's wrong programs that they kill.

    python launch/tcg_adversarial.py --config=configs/tcg_adversarial.py --workdir=runs/tcg_adversarial

`inputs.found_0`, `found_1`, ... are search or sample stages of the policy; of sample stages give the `policy`
too, for its tokenizer. Once a round, with the generator of the round before, it is iterative DPO. nano: 2 CPU
cores, some minutes for 500 problems; tests/benchmarks/LOG.md has a run by validity alone, none with these
settings.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The traced nano generator of configs/tcg.py:ladder, against the demo's first search."""
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "inputs": {
                "tcg": "runs/tcg/tcg/traced/near_miss",
                "problems": "runs/demo/problems/pool",
                "found_0": "runs/demo/round_00/search",
                "policy": "",
            },
            "tcg_adversarial": {
                "train_tokens": 300_000,
                "max_wrong": 8,
                "validity_weight": 0.25,
                "margin": 0.25,
                "max_pairs": 2,
                "nll_weight": 5.0,
                "train": {"row_length": 1024, "rows_per_batch": 6, "learning_rate": 2e-4},
                "write": {
                    "answers": 8,
                    "traced": True,
                    "temperature": 1.0,
                    "top_p": 1.0,
                    "top_k": 0,
                    "max_tokens": 400,
                    "style": "nano",
                },
                "engine": {"slots": 64, "context": 640},
            },
        }
    )
