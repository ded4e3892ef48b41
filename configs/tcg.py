"""A test-case generator (TCG) by SFT and DPO, measured on held-out problems.

    python launch/tcg.py --config=configs/tcg.py:ladder --workdir=runs/tcg/seed_0

ladder: 2 CPU cores, 4 GiB; expected time and figures: tests/benchmarks/RESULTS.md. The generator starts
from nothing. Without --config.policy (a stage), the policy that it is measured by is warmed up first.
deepseek-coder-1.3b: published safetensors in weights/, TACO by name. The generator's settings are the
paper's: QLoRA of rank 1 on the seven projections over nf4, learning rate 5e-4, length 4,096, micro-batches
of 1 x 8, 5,000 steps; alpha, and all of DPO, are ours. One GPU of 80 GiB: the generator trains in
1.9 GiB, as compiled; the policy that it is measured by needs, by arithmetic, 16 in bfloat16. Not run yet.

    python launch/tcg.py --config=configs/tcg.py:deepseek-coder-1.3b --workdir=runs/tcg_1.3b
    python launch/plan.py --model=deepseek-coder-1.3b --topology=h100:1 --rows_per_device=8 \
        --micro_batches=8 --lora_rank=1 --lora_base=nf4
"""

import ml_collections

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "style": "nano"}


def get_config(variant: str = "ladder") -> ml_collections.ConfigDict:
    """`ladder`: the nano model, in the plain and the traced form. `deepseek-coder-1.3b`: the plain form."""
    if variant == "ladder":
        return ml_collections.ConfigDict(_ladder())
    if variant == "deepseek-coder-1.3b":
        return ml_collections.ConfigDict(_deepseek())
    raise ValueError(f"variant {variant!r}: there are ladder and deepseek-coder-1.3b")


def _ladder() -> dict:
    cases = {"sets": 24, "max_solutions": 1, "question_only": 0.1, "style": "nano"}
    write = {**SAMPLING, "temperature": 0.5, "answers": 4, "max_tokens": 400}
    engine = {"slots": 64, "context": 640}
    shuffled = {"rejected": "shuffled"}  # DPO as published: no likelihood of the chosen side in the loss
    sample = {**SAMPLING, "n": 8, "max_tokens": 176}
    return {
        "seed": 0,
        "policy": "",
        "tcg_from": "",
        "references": _ladder_problems("warm_up", {1: 60, 2: 120, 3: 120, 4: 100}),
        "validation": _ladder_problems("pool", {2: 40, 3: 40, 4: 40}),
        "warm_up": {
            "max_steps": 600,
            "evaluate_every": 300,
            "sample": {**SAMPLING, "n": 4, "max_tokens": 176},
            "engine": {**engine, "context": 256},
        },
        "tcg_problems": {
            **_ladder_problems("warm_up", {1: 600, 2: 220, 3: 500, 4: 400}),
            "small_tests": 40,
        },
        "held_out": _ladder_problems("held_out", {2: 70, 3: 70, 4: 70}),
        "forms": {  # tokens for the same number of sets: a trace makes one three times as long
            "plain": {"train_tokens": 5_000_000, "dpo": {"shuffled": {**shuffled}}},
            "traced": {
                "train_tokens": 16_000_000,
                "dpo": {
                    "shuffled": {**shuffled},
                    "first_wrong_line": {"rejected": "first_wrong_line"},
                    # As many tokens of SFT on the same lines: what the preference adds to them.
                    "true_line": {"rejected": "first_wrong_line", "objective": "sft"},
                    "near_miss": {"rejected": "near_miss", "nll_weight": 5.0},
                },
            },
        },
        "tcg_sft": {
            "cases": {**cases},
            "train": {"row_length": 512, "rows_per_batch": 6, "learning_rate": 3e-3, "warmup_steps": 20},
        },
        "tcg_dpo": {
            "train_tokens": 600_000,
            "cases": {**cases, "sets": 1},
            "train": {"row_length": 1024, "rows_per_batch": 6, "learning_rate": 2e-4},
            "beta": 0.1,
            "write": {**SAMPLING, "max_tokens": 400},
            "engine": {**engine},
        },
        "evaluate": {
            "sample": {**sample},
            "prompts": ("pseudocode",),
            "ks": (1, 8),
            "engine": {**engine, "context": 256},
        },
        "evaluate_tcg": {
            "write": {**write},
            "gate": {"mutants": 20},
            "random_tests": True,
            "engine": {**engine},
        },
        "evaluate_selection": {
            "sample": {**sample},
            "write": {**write},
            "engine": {**engine, "context": 256},
            "tcg_engine": {**engine},
        },
    }


def _deepseek() -> dict:
    cases = {"sets": 10, "max_solutions": 30, "style": "full"}
    train = {
        "row_length": 4096,
        "rows_per_batch": 8,
        "micro_batches": 8,
        "schedule": "cosine",
        "model": "deepseek-coder-1.3b",
    }
    lora = {"rank": 1, "alpha": 32.0, "targets": ("*",), "base": "nf4"}
    write = {"answers": 4, "max_tokens": 1024}
    engine = {"slots": 64, "context": 4096, "judge_slots": 8}
    return {
        "seed": 0,
        "policy": "weights/qwen2.5-coder-7b-instruct",
        "tcg_from": "weights/deepseek-coder-1.3b-instruct",
        "tcg_problems": {"source": "taco:train", "max_problems": 10_000, "max_solutions": 30},
        "held_out": {"source": "taco:test", "max_problems": 314, "max_solutions": 30, "shown_tests": 1},
        "forms": {"plain": {"train_tokens": 5_000 * 8 * 4096, "dpo": {"shuffled": {"rejected": "shuffled"}}}},
        "tcg_sft": {
            "train": {**train, "learning_rate": 5e-4, "warmup_steps": 100, "lora": {**lora}},
            "cases": {**cases},
        },
        "tcg_dpo": {
            "train": {**train, "row_length": 8192, "learning_rate": 1e-5, "lora": {**lora}},
            "train_tokens": 20_000_000,
            "cases": {**cases, "sets": 2},
            "beta": 0.1,
        },
        "evaluate": {"prompts": ("pseudocode",), "engine": {**engine}},
        "evaluate_tcg": {"write": {**write}, "engine": {**engine}},
        "evaluate_selection": {"write": {**write}, "engine": {**engine}, "tcg_engine": {**engine}},
    }


def _ladder_problems(split: str, counts: dict[int, int]) -> dict:
    return {"source": f"ladder:{split}", "counts": {f"rung_{rung}": n for rung, n in counts.items()}}
