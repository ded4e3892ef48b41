"""Policy-gradient RL beside search, sampling and DPO, from one policy and at equal tokens.

    python launch/rl.py --config=configs/rl.py:ladder --config.policy=runs/ladder/seed_5/round_00/policy_sft \
        --config.references_from=runs/ladder/seed_5/problems/references \
        --config.pool_trees=runs/ladder/seed_5/round_00/search --workdir=runs/rl/seed_5

ladder: 2 CPU cores, 4 GiB. Without --config.policy a nano policy is warmed up first; --config.prm_from
names a process reward model. A round takes about 90 minutes of a shared core; figures:
tests/benchmarks/RESULTS.md.
"""

import ml_collections

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "style": "nano"}
ENGINE = {"slots": 64, "context": 256}
PAPER = {"form": "paper", "gamma": 0.9}
OUTCOME = {"alpha": {"kind": "constant", "start": 1.0}}
PROCESS = {**PAPER, "alpha": {"kind": "constant", "start": 0.0}}
CONSTANT = {**PAPER, "alpha": {"kind": "constant", "start": 0.75}}
LINEAR = {**PAPER, "alpha": {"kind": "linear", "start": 1.0, "floor": 0.5, "rate": 0.01}}
LOGARITHMIC = {**PAPER, "alpha": {"kind": "logarithmic", "start": 1.0, "floor": 0.5, "rate": 0.1}}
# Groups whose outcomes differ teach: where all pass or all fail there is only the reward model's noise, and
# divided by a group's deviation it counts as much as a pass.
BY_OUTCOME = {"advantage": "group_normalized", "keep_groups": "outcome"}
ARMS = {
    "search": {},
    "sampling": {},
    "dpo": {},
    "rl_outcome": {"reward": OUTCOME, **BY_OUTCOME},
    "rl_process": {"reward": PROCESS, "keep_groups": "reward"},
    "rl_constant": {"reward": CONSTANT, **BY_OUTCOME},
    "rl_linear": {"reward": LINEAR, **BY_OUTCOME},
    "rl_logarithmic": {"reward": LOGARITHMIC, **BY_OUTCOME},
    "rl_linear_all": {"reward": LINEAR, "keep_groups": "reward"},
    # Its gradient is that of the replayed references alone: what an arm of RL owes to them.
    "rl_replay": {"reward": OUTCOME, **BY_OUTCOME, "replay": {"examples": 32, "weight": 2000.0}},
}


def get_config(variant: str = "ladder") -> ml_collections.ConfigDict:
    """`ladder`: nano models and the built-in problems. `ladder_long`: five rounds of search with SFT beside
    one run of policy gradient with all their tokens, in updates of 256 answers."""
    page = _ladder()
    if variant == "ladder_long":
        arms = ("search", "rl_outcome", "rl_linear", "rl_replay")
        page |= {"rounds": 5, "rl_at_once": True, "arms": {arm: page["arms"][arm] for arm in arms}}
        after_search = {"prm": {"train_tokens": 1_000_000}, "policy_rl": {"reward": LINEAR, **BY_OUTCOME}}
        page["arms"]["loop"] = {"searched_rounds": 3, **after_search}
        page["arms"]["rl_replay"] |= {"replay": {"examples": 64, "weight": 2000.0}}
        page["policy_rl"] |= {"updates": 110, "problems_per_update": 32}
        page["policy_rl"]["train"]["learning_rate"] = 6e-4
        page["policy_rl"]["replay"] |= {"examples": 64, "weight": 1.0}
    elif variant != "ladder":
        raise ValueError(f"variant {variant!r}: there are ladder and ladder_long")
    return ml_collections.ConfigDict(page)


def _ladder() -> dict:
    sample = {**SAMPLING, "max_tokens": 176}
    loop = {
        "search_pool": ladder_problems("pool", {2: 300, 3: 525, 4: 300}),
        "sft_share": 0.75,
        "prm": {"train_tokens": 1_000_000},
    }
    return {
        "seed": 0,
        "policy": "",
        "references_from": "",
        "prm_from": "",
        "pool_trees": "",
        "more_trees": "",
        "prm_start": "continue",
        "rounds": 2,
        "rl_at_once": False,
        "arms": {
            **{arm: {**page} for arm, page in ARMS.items()},
            "loop": {**loop, "policy_rl": {"updates": 40, "reward": LINEAR, **BY_OUTCOME}},
            "loop_outcome": {**loop, "policy_rl": {"updates": 40, "reward": OUTCOME, **BY_OUTCOME}},
        },
        "references": ladder_problems("warm_up", {1: 60, 2: 120, 3: 120, 4: 100}),
        "validation": ladder_problems("pool", {2: 40, 3: 40, 4: 40}),
        "warm_up": {
            "max_steps": 600,
            "evaluate_every": 300,
            "sample": {**sample, "n": 4},
            "engine": {**ENGINE},
        },
        "pool": ladder_problems("pool", {2: 400, 3: 700, 4: 400}),
        "held_out": ladder_problems("held_out", {2: 100, 3: 100, 4: 100}),
        "search": {
            "search": {
                **SAMPLING,
                "rollouts": 6,
                "stop_after_passes": 1,
                "max_depth": 3,
                "samples": 3,
                "c": 0.4,
                "max_step_tokens": 100,
                "max_path_tokens": 176,
                "compile_weight": 0.1,
            },
            "engine": {**ENGINE},
        },
        "sample": {"sample": {**sample, "n": 1}, "engine": {**ENGINE}},
        "policy_sft": {
            "train_tokens": 600_000,
            "max_per_problem": 2,
            "style": "nano",
            "reference_share": 0.25,
            "reference_prompts": ("pseudocode",),
        },
        "policy_dpo": {
            "train_tokens": 600_000,
            "pairs": "both",
            "beta": 0.1,
            "nll_weight": 1.0,
            "train": {"row_length": 512, "rows_per_batch": 8, "learning_rate": 5e-5},
        },
        "prm": {
            "train_tokens": 3_000_000,
            "objective": "hard",
            "likelihood": 0.3,
            "train": {"row_length": 512, "rows_per_batch": 8, "learning_rate": 7e-4},
        },
        "policy_rl": {
            "updates": 75,
            "problems_per_update": 8,
            "draw": "by_difficulty",
            "sample": {**sample, "n": 8},
            "engine": {**ENGINE},
            "advantage": "group_mean",
            "replay": {"examples": 32, "weight": 2.0, "prompts": ("pseudocode",)},
            "train": {
                "row_length": 256,
                "rows_per_batch": 16,
                "learning_rate": 3e-4,
                "schedule": "cosine",
                "warmup_steps": 10,
            },
        },
        "evaluate": {
            "sample": {**sample, "n": 8},
            "prompts": ("pseudocode",),
            "ks": (1, 8),
            "engine": {**ENGINE},
        },
    }


def ladder_problems(split: str, counts: dict[int, int]) -> dict:
    """The settings of check_problems for a split of the ladder."""
    return {"source": f"ladder:{split}", "counts": {f"rung_{rung}": n for rung, n in counts.items()}}
