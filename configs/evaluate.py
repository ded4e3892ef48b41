"""Evaluates a policy: pass@k of both prompts, search against best-of-n at equal tokens, ASPR.

    python launch/evaluate.py --config.inputs.policy=runs/demo/round_01/policy_rl \
        --config.inputs.problems=runs/demo/problems/held_out --workdir=runs/evaluate

`inputs.policy` is a stage that trained one, a policy directory (an Orbax checkpoint with its
tokenizer), or a directory of published safetensors. Hardware: 2 CPU cores for nano, a few minutes.
"""

import ml_collections

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "style": "nano"}


def get_config() -> ml_collections.ConfigDict:
    """The demo's last policy on the demo's held-out problems."""
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "inputs": {
                "policy": "runs/demo/round_01/policy_rl",
                "problems": "runs/demo/problems/held_out",
                "prm": "",
            },
            "evaluate": {
                "sample": {**SAMPLING, "n": 8, "max_tokens": 176},
                "prompts": ("pseudocode", "direct"),
                "ks": (1, 8),
                "with_search": True,
                "search_problems": 0,
                "aspr_samples": 8,
                "search": {
                    **SAMPLING,
                    "rollouts": 12,
                    "max_depth": 3,
                    "max_step_tokens": 100,
                    "max_path_tokens": 176,
                },
                "engine": {"slots": 64, "context": 256},
                "concurrency": 64,
            },
        }
    )
