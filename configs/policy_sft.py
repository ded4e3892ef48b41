"""SFT of a policy on the paths that passed in search, and on reference programs where they are given.

    python launch/policy_sft.py --config=configs/policy_sft.py:nano --workdir=runs/policy_sft

`inputs.found_0`, `found_1`, ... are search or sample stages. nano: 2 CPU cores, about a minute. The
references have a quarter of the tokens, under the pseudocode prompt alone.

What else there is to learn from is off: --config.policy_sft.hardness_bound=3.0 weights hard problems' paths
up, prompt='bare' (with inputs.problems) trains without the worked examples that answers were sampled with,
and progress.weight and negatives.weight (perhaps with inputs.prm) learn from the steps of failing answers.

    python launch/policy_sft.py --config=configs/policy_sft.py:qwen2.5-coder-7b --workdir=runs/policy_sft_7b

qwen2.5-<size> and qwen2.5-coder-<size> start from published safetensors in weights/. All weights of 7B, a
row of 4,096 tokens a device, take 17.1 GiB of each of 8 H100, as compiled:

    python launch/plan.py --model=qwen2.5-7b --topology=h100:8

and with the page's 8 micro-batches (--rows_per_device=8 --micro_batches=8) 20.6. By arithmetic, AdamW takes
16 bytes a parameter: 25 GB at 1.5B and 49 at 3B. LoRA, with --config.policy_sft.train.lora.rank=16
--config.policy_sft.train.learning_rate=1e-4, takes the weights alone, 30 GB at 7B. With
--config.policy_sft.train.lora.base=nf4 it takes 9.7 GiB of one H100, compiled at rank 8 and one row at a time
(--topology=h100:1 --lora_rank=8 --lora_base=nf4). Not run yet.
"""

import ml_collections

SIZES = ("0.5b", "1.5b", "3b", "7b", "14b", "32b")


def get_config(variant: str = "nano") -> ml_collections.ConfigDict:
    """`nano`, or `qwen2.5-<size>` or `qwen2.5-coder-<size>` (0.5b, 1.5b, 3b, 7b, 14b, 32b)."""
    if variant == "nano":
        inputs = {
            "policy": "runs/demo/warm_up",
            "references": "runs/demo/problems/references",
            "found_0": "runs/demo/round_00/search",
        }
        train_tokens = 200_000
        train = {"row_length": 256, "rows_per_batch": 16, "learning_rate": 2e-3}
    elif variant.removeprefix("qwen2.5-").removeprefix("coder-") in SIZES:
        inputs = {"policy": f"weights/{variant}", "found_0": "runs/search/search"}
        train_tokens = 50_000_000
        train = {"row_length": 4096, "rows_per_batch": 64, "micro_batches": 8, "learning_rate": 1e-5}
    else:
        raise ValueError(f"variant {variant!r}: there are nano and qwen2.5[-coder]-<{', '.join(SIZES)}>")
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "inputs": {"problems": "", "prm": "", **inputs},
            "policy_sft": {
                "train_tokens": train_tokens,
                "train": {
                    **train,
                    "model": variant,
                    "schedule": "cosine",
                    "warmup_steps": 10,
                    "weight_decay": 0.1,
                },
                "max_per_problem": 2,
                "reference_share": 0.25,
                "reference_prompts": ("pseudocode",),
                "prompt": "as_sampled",
                "hardness_bound": 0.0,
                "progress": {"weight": 0.0},
                "negatives": {"weight": 0.0},
                "style": "nano" if variant == "nano" else "full",
            },
        }
    )
