"""Self-play on the ladder: a nano policy, no weights, no network, no accelerator.

    python launch/self_play.py --config=configs/self_play.py:demo --workdir=runs/demo
    python launch/self_play.py --config=configs/self_play.py:ladder --workdir=runs/ladder/seed_0

Hardware: 2 CPU cores, 4 GiB. Expected time and figures: configs/LOG.md.
"""

import ml_collections

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "style": "nano"}


def get_config(variant: str = "demo") -> ml_collections.ConfigDict:
    """`demo`: three short rounds. `ladder`: three longer ones, and the arms that stand beside the loop."""
    if variant not in ("demo", "ladder"):
        raise ValueError(f"variant {variant!r}: there are demo and ladder")
    demo = variant == "demo"
    engine = {"name": "jax", "slots": 64, "context": 256, "judge_slots": 2}
    sample = {**SAMPLING, "max_tokens": 176}
    search = {
        **SAMPLING,
        "max_depth": 3,
        "samples": 3,
        "c": 2.0,
        "max_step_tokens": 100,
        "max_path_tokens": 176,
        "compile_weight": 0.1,
    }
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "rounds": 3,
            "arms": ("search",) if demo else ("search", "sampling", "more_warm_up", "pool_references"),
            "references": ladder(
                "warm_up", {1: 60, 2: 120, 3: 120, 4: 100} if demo else {1: 60, 2: 170, 3: 200, 4: 170}
            ),
            "validation": ladder("pool", {2: 40, 3: 40, 4: 40}),
            "pool": ladder("pool", {2: 200, 3: 200, 4: 100} if demo else {2: 400, 3: 700, 4: 400}),
            "held_out": ladder("held_out", {2: 70, 3: 70, 4: 70} if demo else {2: 100, 3: 100, 4: 100}),
            "warm_up": {
                "preset": "nano",
                "vocab_size": 640,
                "variants": 1,
                "row_length": 256,
                "rows_per_batch": 16,
                "max_steps": 600 if demo else 700,
                "learning_rate": 5e-3,
                "warmup_steps": 50,
                "weight_decay": 0.1,
                "evaluate_every": 150 if demo else 175,
                "patience": 2,
                "sample": {**sample, "n": 4},
                "engine": {**engine},
            },
            "search": {
                "search": {**search, "rollouts": 6, "stop_after_passes": 1},
                "engine": {**engine},
                "concurrency": 64,
            },
            "sample": {"sample": {**sample, "n": 1}, "engine": {**engine}, "concurrency": 64},
            "policy_sft": {
                "train_tokens": 300_000 if demo else 600_000,
                "row_length": 256,
                "rows_per_batch": 16,
                "learning_rate": 2e-3,
                "warmup_steps": 10,
                "weight_decay": 0.1,
                "max_per_problem": 2,
                "variants": 1,
                "style": "nano",
            },
            "evaluate": {
                "sample": {**sample, "n": 8},
                "prompts": ("pseudocode", "direct") if demo else ("pseudocode",),
                "ks": (1, 8),
                "engine": {**engine},
                "concurrency": 64,
            },
            "search_evaluate": {
                "sample": {**sample, "n": 8},
                "prompts": (),
                "with_search": True,
                "search_problems": 60 if demo else 150,
                "search": {**search, "rollouts": 12},
                "engine": {**engine},
                "concurrency": 64,
            },
        }
    )


def ladder(split: str, counts: dict[int, int]) -> dict:
    """The settings of check_problems for a split of the ladder."""
    return {"source": f"ladder:{split}", "counts": {f"rung_{rung}": n for rung, n in counts.items()}}
