"""Process reward models (PRM): trained on searched trees three ways, tested on held-out trees and in search.

    python launch/prm.py --config=configs/prm.py:ladder --config.seed=0 --workdir=runs/prm/seed_0
    python launch/prm.py --config=configs/prm.py:qwen2.5-coder-7b --workdir=runs/prm_7b

ladder: 2 CPU cores, 4 GiB; nano policy, warmed up first unless --config.policy names a stage that trained
one. Expected time and figures: tests/benchmarks/RESULTS.md.

qwen2.5-coder-7b: the paper's settings: LoRA of rank 8, alpha 32, on q and v, learning rate 1e-4, three
epochs, weight decay .01. Published safetensors in weights/qwen2.5-coder-7b, and two files of problems with
tests. One GPU of 80 GiB: training takes 34.8 GiB of it as compiled, 22.5 with
--config.prm.train.lora.base=bfloat16; engine and scorer, by arithmetic, 15 each in bfloat16. Not run yet:

    python launch/plan.py --model=qwen2.5-coder-7b --topology=h100:1 --row_length=8192 --rows_per_device=32 \
        --micro_batches=16 --lora_rank=8 --lora_targets=q_proj,v_proj
    python launch/plan.py --model=qwen2.5-coder-7b --topology=h100:1 --program=decode --slots=64
"""

import ml_collections


def get_config(variant: str = "ladder") -> ml_collections.ConfigDict:
    """`ladder`, or `qwen2.5-coder-7b`."""
    pages = {"ladder": ladder, "qwen2.5-coder-7b": coder_7b}
    if variant not in pages:
        raise ValueError(f"variant {variant!r}: there are {' and '.join(pages)}")
    return ml_collections.ConfigDict(
        {"seed": 0, "pool_trees": "", "more_trees": "", "held_out_trees": "", **pages[variant]()}
    )


def ladder() -> dict:
    """Nano models and the built-in problems."""
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "style": "nano"}
    engine = {"slots": 64, "context": 256}
    search = {
        **sampling,
        "rollouts": 12,
        "max_depth": 3,
        "samples": 3,
        "c": 0.4,
        "max_step_tokens": 100,
        "max_path_tokens": 176,
        "compile_weight": 0.1,
    }
    return {
        "policy": "",
        "references": ladder_problems("warm_up", {1: 60, 2: 120, 3: 120, 4: 100}),
        "validation": ladder_problems("pool", {2: 40, 3: 40, 4: 40}),
        "pool": ladder_problems("pool", {2: 300, 3: 400, 4: 300}),
        "held_out": ladder_problems("held_out", {2: 100, 3: 100, 4: 100}),
        "warm_up": {
            "sample": {**sampling, "n": 4, "max_tokens": 176},
            "engine": {**engine},
        },
        "search": {"search": {**search}, "engine": {**engine}},
        "prm": {
            "trains": "body",
            "train_tokens": 3_000_000,
            "likelihood": 0.3,  # at nano size the hidden state alone misses mistakes in programs
            "train": {
                "row_length": 512,  # a pair is two paths in one row
                "rows_per_batch": 8,
                "learning_rate": 7e-4,
                "schedule": "cosine",
                "warmup_steps": 10,
                "weight_decay": 0.01,
                "model": "nano",
            },
            "max_pairs_per_parent": 4,
        },
        "evaluate": {
            "sample": {**sampling, "n": 8, "max_tokens": 176},
            "prompts": (),
            "with_search": True,
            "search": {**search},
            "engine": {**engine},
        },
    }


def coder_7b() -> dict:
    """Qwen2.5-Coder-7B and problems from files: three epochs of about 17 M tokens of labelled paths."""
    sampling = {"temperature": 0.8, "top_p": 0.95, "top_k": 40}
    search = {
        **sampling,
        "rollouts": 12,
        "max_depth": 8,
        "samples": 3,
        "c": 0.4,
        "max_step_tokens": 512,
        "max_path_tokens": 2048,
    }
    engine = {"slots": 64, "context": 4096}
    return {
        "policy": "weights/qwen2.5-coder-7b",
        "pool": {"source": "problems/pool.jsonl", "keep": "consistent"},
        "held_out": {"source": "problems/held_out.jsonl", "keep": "consistent"},
        "search": {"search": {**search}, "engine": {**engine}},
        "prm": {
            "trains": "body",
            "train_tokens": 50_000_000,
            "train": {
                "row_length": 8192,
                "rows_per_batch": 32,
                "micro_batches": 16,
                "lora": {"rank": 8, "alpha": 32.0, "targets": ("q_proj", "v_proj"), "base": "as_is"},
                "learning_rate": 1e-4,
                "schedule": "cosine",
                "warmup_steps": 10,
                "weight_decay": 0.01,
                "model": "qwen2.5-coder-7b",
            },
        },
        "evaluate": {
            "sample": {**sampling, "n": 8},
            "prompts": (),
            "with_search": True,
            "search": {**search},
            "engine": {**engine},
        },
    }


def ladder_problems(split: str, counts: dict[int, int]) -> dict:
    """The settings of check_problems for a split of the ladder."""
    return {"source": f"ladder:{split}", "counts": {f"rung_{rung}": n for rung, n in counts.items()}}
