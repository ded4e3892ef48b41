"""DPO of a policy on the preferences in searched trees: better siblings, and passing against failing paths.

    python launch/policy_dpo.py --config=configs/policy_dpo.py:nano --workdir=runs/policy_dpo

`inputs.found_0`, `found_1`, ... are search stages; the policy is the reference too. Once a round, on the
newest searches, it is iterative DPO. nano: 2 CPU cores, a minute.

qwen2.5-coder-7b: 8 GPUs of 80 GiB; the train step takes 28.9 GiB of each, as compiled without the pairs' few
operations of their own. The reference's log-probs are made before, so that there is no second copy:

    python launch/plan.py --model=qwen2.5-coder-7b --topology=h100:8 --row_length=8192 --rows_per_device=4
"""

import ml_collections


def get_config(variant: str = "nano") -> ml_collections.ConfigDict:
    """`nano`, or `qwen2.5-coder-7b`."""
    if variant == "nano":
        inputs = {"policy": "runs/demo/round_00/policy_sft", "found_0": "runs/demo/round_01/search"}
        train = {"row_length": 512, "rows_per_batch": 8, "learning_rate": 2e-4}
        settings = {"train_tokens": 200_000}
    elif variant == "qwen2.5-coder-7b":
        inputs = {"policy": "runs/coder_7b/policy_sft", "found_0": "runs/search/search"}
        train = {
            "row_length": 8192,
            "rows_per_batch": 32,
            "learning_rate": 5e-7,
        }
        settings = {"train_tokens": 20_000_000}
    else:
        raise ValueError(f"variant {variant!r}: there are nano and qwen2.5-coder-7b")
    settings |= {"pairs": "both", "beta": 0.1, "max_per_parent": 1, "max_per_problem": 8}
    settings["train"] = {**train, "model": variant}
    return ml_collections.ConfigDict({"seed": 0, "inputs": inputs, "policy_dpo": settings})
