"""The ladder's warm-up alone: the nano tokenizer and policy, from few reference programs.

    python launch/warm_up.py --config.inputs.references=runs/references \
        --config.inputs.validation=runs/validation --workdir=runs/warm_up

The inputs are check_problems stages. Hardware: 2 CPU cores, 2 GiB, 3 to 5 minutes.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """On the demo's references and validation problems."""
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "inputs": {
                "references": "runs/demo/problems/references",
                "validation": "runs/demo/problems/validation",
            },
            "warm_up": {
                "preset": "nano",
                "vocab_size": 640,
                "train": {
                    "row_length": 256,
                    "rows_per_batch": 16,
                    "learning_rate": 5e-3,
                    "warmup_steps": 50,
                    "weight_decay": 0.1,
                },
                "max_steps": 600,
                "evaluate_every": 150,
                "patience": 2,
                "sample": {
                    "n": 4,
                    "temperature": 1.0,
                    "top_p": 1.0,
                    "top_k": 0,
                    "style": "nano",
                    "max_tokens": 176,
                },
                "engine": {"slots": 64, "context": 256},
            },
        }
    )
