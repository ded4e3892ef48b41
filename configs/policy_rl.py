"""Policy-gradient RL of a policy on its own answers.

    python launch/policy_rl.py --config=configs/policy_rl.py:nano --workdir=runs/policy_rl

nano: 2 CPU cores, about 10 s an update of 256 answers, with references replayed beside them; rewarded by the
outcome alone. Fewer updates teach little (tests/benchmarks/LOG.md). For phi give a process reward model and
an alpha below 1: --config.inputs.prm=runs/prm/prm/hard --config.policy_rl.reward.alpha.kind=linear.

qwen2.5-coder-7b: published safetensors in weights/, 8 devices of 80 GiB that hold the weights, their
gradients, AdamW's moments (a train step of two rows a device takes 18.6 GiB of each of 8 H100, as compiled)
and, split over four of a process, an engine's copy and cache (18.3 GiB of each, 256 slots of 4,096 tokens; a
process of eight has two such engines):

    python launch/plan.py --model=qwen2.5-coder-7b --topology=h100:8 --rows_per_device=2
    python launch/plan.py --model=qwen2.5-coder-7b --topology=h100:8 --program=decode --slots=256 \
        --mesh=tensor=4

More processes share an update's answers and change nothing else: raise problems_per_update with them, so that
problems_per_update * sample.n is about the slots of all engines.

Group baseline without std (nano: with), token-normalised, clip-higher, no KL.
alpha falls from 1 to .5 by .01 an update; the paper's to .1 (--config.policy_rl.reward.alpha.floor=0.1).
"""

import ml_collections

LOSS = {"ratio": "clip", "clip_low": 0.2, "clip_high": 0.28, "importance_cap": 2.0, "normalize": "token"}
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}


def get_config(variant: str = "nano") -> ml_collections.ConfigDict:
    """`nano`, or `qwen2.5-coder-7b`."""
    if variant not in (pages := {"nano": _nano, "qwen2.5-coder-7b": _coder_7b}):
        raise ValueError(f"variant {variant!r}: there are {' and '.join(pages)}")
    inputs, settings = pages[variant]()
    inputs = {"prm": "", "audit": "", **inputs}
    settings = {"advantage": "group_mean", "loss": {**LOSS}, **settings}
    settings["train"] |= {"model": variant}
    return ml_collections.ConfigDict({"seed": 0, "inputs": inputs, "policy_rl": settings})


def _nano() -> tuple[dict, dict]:
    inputs = {
        "policy": "runs/demo/round_01/policy_sft",
        "problems": "runs/demo/problems/pool",
        "references": "runs/demo/problems/references",
    }
    return inputs, {
        "updates": 100,
        "problems_per_update": 32,
        "draw": "by_difficulty",
        "sample": {**SAMPLING, "n": 8, "max_tokens": 176, "style": "nano"},
        "engine": {"slots": 64, "context": 256},
        "reward": {"alpha": {"kind": "constant", "start": 1.0}},
        "advantage": "group_normalized",
        "keep_groups": "outcome",
        "replay": {"examples": 64, "weight": 1.0, "prompts": ("pseudocode",)},
        "train": {
            "row_length": 256,
            "rows_per_batch": 16,
            "learning_rate": 6e-4,
            "schedule": "cosine",
            "warmup_steps": 10,
        },
    }


def _coder_7b() -> tuple[dict, dict]:
    inputs = {
        "policy": "runs/coder_7b/policy_sft",
        "problems": "runs/coder_7b/pool",
        "prm": "runs/prm_7b/prm/soft",
    }
    return inputs, {
        "updates": 200,
        "problems_per_update": 64,
        "sample": {**SAMPLING, "n": 16, "max_tokens": 2048},
        "engine": {"tensor": 4, "prefix_cache_mb": 4096.0, "slots": 256, "context": 4096, "judge_slots": 16},
        "reward": {
            "form": "paper",
            "gamma": 0.9,
            "alpha": {"kind": "linear", "start": 1.0, "floor": 0.5, "rate": 0.01},
        },
        "train": {
            "row_length": 4096,
            "rows_per_batch": 16,
            "learning_rate": 1e-6,
            "warmup_steps": 5,
        },
    }
