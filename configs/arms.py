"""The loop's terms one at a time: arms from one start, at equal tokens, for several seeds.

    python launch/arms.py --config=configs/arms.py:demo --workdir=runs/arms
    python tests/benchmarks/arms.py runs/arms

demo: nano models, 2 CPU cores, 4 GiB; the first four arms, about 3 minutes an arm and seed on an idle core.
More arms, or seeds, by the same command in the same directory, as --config.arms="('progress', 'negatives')":

- references: SFT on the warm-up's references alone, again
- uct: search as published, with c .4; its tokens are the budget of a round
- sampling: plain sampling with search's stop rule
- scout_vine: an answer to each of many problems, and vine search of those that are likely to be mixed (about
  40 and 50 % of the tokens; the rest are answers again)
- hardness, progress, negatives: scout_vine's answers; paths of hard problems weigh more, steps that gain
  value are imitated, steps that lose it are made less likely
- step_mc, step_mc_prm: both of these, without and with the reward model's share in a step's value
- polish: scout_vine, and 15 % of the tokens in policy gradient at the end
- dpo: preferences in scout_vine's trees
- rl_outcome, rl_phi, rl_steps: the scout, and policy gradient; with the reward model of `progress`

Figures: tests/benchmarks/RESULTS.md. No setting was chosen on these seeds.
"""

import ml_collections

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "style": "nano"}
ENGINE = {"slots": 64, "context": 256}
ANSWER = {**SAMPLING, "max_tokens": 176}
VINE = {"algorithm": "vine", "stop_after_passes": 2, "stop_after_fails": 2}
FIRST = ("uct", "sampling", "references", "scout_vine")
PROGRESS, NEGATIVES = {"weight": 0.5}, {"weight": 0.1, "threshold": 0.2}
ALPHA = {"kind": "constant", "start": 0.5}


def get_config(variant: str = "demo") -> ml_collections.ConfigDict:
    """`demo`: one round. `ladder`: three longer ones."""
    if variant not in ("demo", "ladder"):
        raise ValueError(f"variant {variant!r}: there are demo and ladder")
    demo = variant == "demo"
    return ml_collections.ConfigDict(
        {
            "seed": 1,  # of the start; seed 0's warm-up ends at .08, where a round of any arm moves little
            "seeds": (11, 12, 13, 14, 15),
            "policy": "",
            "references_from": "",
            "prm_start": "continue",
            "rounds": 1 if demo else 3,
            "arms": FIRST,
            "budget_of": "uct",
            "trained_tokens": 300_000 if demo else 600_000,
            "tokens_of": {"scout": 93.0, "search": 1000.0},
            "pages": arms(500 if demo else 1500),
            "references": problems("warm_up", {1: 60, 2: 170, 3: 200, 4: 170}),
            "validation": problems("pool", {2: 40, 3: 40, 4: 40}),
            "pool": {
                **problems("pool", {2: 400, 3: 2400, 4: 1700}),
                "filter": {"hashed": (0.0, 0.9)},
            },
            "calibration": {
                **problems("pool", {2: 300, 3: 500, 4: 300}),
                "filter": {"hashed": (0.9, 1.0)},
            },
            "held_out": problems("held_out", {2: 250, 3: 300, 4: 300}),
            "warm_up": {
                "max_steps": 700,
                "evaluate_every": 150,
                "sample": {**ANSWER, "n": 4},
                "engine": {**ENGINE},
            },
            **dict.fromkeys(
                ("scout", "rest"),
                {"sample": {**ANSWER, "n": 1}, "stop": {"answers": 1}, "engine": {**ENGINE}},
            ),
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
                },
                "engine": {**ENGINE},
            },
            "sample": {"sample": {**ANSWER, "n": 1}, "engine": {**ENGINE}},
            **training(),
            "evaluate": {
                "sample": {**ANSWER, "n": 4},
                "prompts": ("pseudocode",),
                "ks": (1, 4),
                "engine": {**ENGINE},
            },
        }
    )


def arms(searched: int) -> dict:
    """Name -> steps, their shares of the generated and trained tokens, and changes on pages; `searched`:
    problems that UCT searches in a round."""
    find, finds = ("scout", "search", "rest"), {"scout": 0.4, "search": 0.5, "rest": 0.1}
    vine = {"search": {"search": {**VINE}}}
    sft = {"shares": {**finds, "policy_sft": 1.0}}
    alike = {**sft, "found_of": "scout_vine"}
    steps, valued = (*find, "policy_sft"), (*find, "prm", "policy_sft")
    rl = {"steps": ("scout", "policy_rl"), "shares": {"scout": 0.4, "policy_rl": 1.0}}
    scored = {**rl, "prm_of": "progress"}
    both = {"progress": {**PROGRESS}, "negatives": {**NEGATIVES}}
    return {
        "references": {"steps": ("policy_sft",), "shares": {"policy_sft": 1.0}},
        "uct": {
            "steps": ("search", "policy_sft"),
            "shares": {"policy_sft": 1.0},
            "changes": {"search": {"draw": {"problems": searched}}},
        },
        # Fewer problems than the budget has answers, for each gets one.
        "sampling": {
            "steps": ("sample", "policy_sft"),
            "shares": {"policy_sft": 1.0},
            "changes": {"sample": {"draw": {"problems": 4 * searched}}},
        },
        "scout_vine": {"steps": steps, **sft, "changes": {**vine}},
        "hardness": {"steps": steps, **alike, "changes": {**vine, "policy_sft": {"hardness_bound": 3.0}}},
        "progress": {
            "steps": valued,
            **alike,
            "changes": {**vine, "policy_sft": {"progress": {**PROGRESS}}},
        },
        "negatives": {
            "steps": valued,
            **alike,
            "changes": {**vine, "policy_sft": {"negatives": {**NEGATIVES}}},
        },
        "step_mc_prm": {"steps": valued, **alike, "changes": {**vine, "policy_sft": {**both}}},
        "step_mc": {"steps": steps, **alike, "changes": {**vine, "policy_sft": {**both}}},
        "polish": {
            "steps": (*steps, "policy_rl"),
            "shares": {"scout": 0.34, "search": 0.42, "rest": 0.09, "policy_sft": 0.85, "policy_rl": 0.15},
            "changes": {**vine},
        },
        "dpo": {
            "steps": (*find, "policy_dpo"),
            "shares": {**finds, "policy_dpo": 1.0},
            "found_of": "scout_vine",
            "changes": {**vine},
        },
        "rl_outcome": rl,
        "rl_phi": {**scored, "changes": {"policy_rl": {"reward": {"alpha": {**ALPHA}}}}},
        "rl_steps": {
            **scored,
            "changes": {"policy_rl": {"advantage": "progress", "reward": {"alpha": {**ALPHA}}}},
        },
    }


def training() -> dict:
    """The pages of what is trained."""
    prompts = ("pseudocode",)
    return {
        "policy_sft": {
            "train_tokens": 300_000,
            "max_per_problem": 2,
            "style": "nano",
            "reference_share": 0.25,
            "reference_prompts": prompts,
        },
        "prm": {
            "train_tokens": 300_000,
            "objective": "soft",
            "likelihood": 0.3,
            "train": {"row_length": 512, "rows_per_batch": 8, "learning_rate": 7e-4},
        },
        "policy_dpo": {
            "train_tokens": 300_000,
            "beta": 0.1,
            "nll_weight": 1.0,
            "train": {"row_length": 512, "rows_per_batch": 8, "learning_rate": 5e-5},
        },
        "policy_rl": {
            "updates": 20,
            "problems_per_update": 32,
            "draw": "by_difficulty",
            "sample": {**ANSWER, "n": 8},
            "engine": {**ENGINE},
            "reward": {"alpha": {"kind": "constant", "start": 1.0}},
            "replay": {"examples": 96, "weight": 1.0, "prompts": prompts},
            "minibatches": 4,
            "average": {"kind": "tail"},
            "train": {
                "row_length": 256,
                "rows_per_batch": 16,
                "learning_rate": 3e-4,
                "schedule": "cosine",
                "warmup_steps": 2,
            },
        },
    }


def problems(split: str, counts: dict[int, int]) -> dict:
    """The settings of check_problems for a split of the ladder."""
    return {"source": f"ladder:{split}", "counts": {f"rung_{rung}": n for rung, n in counts.items()}}
