"""Prepares problems: read or downloaded, filtered, kept apart from evaluation sets, references run.

    python launch/prepare.py --config=configs/prepare.py:mbpp --workdir=runs/mbpp
    python launch/prepare.py --config.check_problems.source=problems.jsonl --workdir=runs/mine

Variants: ladder, mbpp, mbpp_few_shot, mbpp_sanitized, humaneval, humaneval_plus; and, for training, so kept
apart from mbpp:test and humaneval, taco, apps, codecontests. A source may also be a local file:
o1jax/problems/load.py says how it is spelled. Writes problems.parquet, card.md and card.json.

With --config.check_problems.calls=True, MBPP is in call form (all but two of the test tasks), which has
inputs that a test-case generator can write and a majority be asked for; 499 of 500 pass (one returns 0 for
False).

Hardware: any CPU, a core a slot of the judge. Expected: mbpp 500 of 500, humaneval 164 of 164,
humaneval_plus 163 of 164; on 2 cores a few dozen problems a second (humaneval_plus: one or two).
"""

import ml_collections

EVALUATED_ON = ("mbpp:test", "humaneval")
SLOWEST_S = 10.0  # a reference or two of MBPP counts through millions
TESTS_A_PROBLEM = 100  # CodeContests has hundreds


def get_config(variant: str = "ladder") -> ml_collections.ConfigDict:
    """The ladder's pool, unless another source is given."""
    mbpp = {"shown_tests": 1, "cpu_s": SLOWEST_S}
    training = {"keep_apart": EVALUATED_ON, "max_tests": TESTS_A_PROBLEM}
    variants = {
        "ladder": {
            "source": "ladder:pool",
            "counts": {"rung_2": 50, "rung_3": 50, "rung_4": 50},
        },
        "mbpp": {"source": "mbpp:test", **mbpp},
        "mbpp_few_shot": {
            "source": "mbpp:prompt",
            "filter": {"ids": ("mbpp/2", "mbpp/3", "mbpp/4")},
        },
        "mbpp_sanitized": {"source": "mbpp_sanitized:test", **mbpp},
        "humaneval": {"source": "humaneval"},
        "humaneval_plus": {"source": "humaneval_plus", "judge_packages": ("numpy",), "output_mb": 256},
        "taco": {"source": "taco:train", **training},
        "apps": {"source": "apps:train", **training},
        "codecontests": {"source": "codecontests:train", **training},
    }
    if variant not in variants:
        raise ValueError(f"variant {variant!r}: there are {', '.join(variants)}")
    chosen = variants[variant]
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "inputs": {},
            "check_problems": {
                "source": chosen["source"],
                "counts": chosen.get("counts", {}),
                "strict": False,
                "calls": False,
                "small_tests": 0,
                "drawn_tests": 0,
                "filter": {
                    "ids": (),
                    "difficulties": (),
                    "tags": (),
                    "forms": (),
                    "min_characters": 0,
                    "max_characters": 0,
                    **chosen.get("filter", {}),
                },
                "keep_apart": chosen.get("keep_apart", ()),
                "near": {"words": 3, "threshold": 0.6},
                "max_problems": 0,
                "max_tests": chosen.get("max_tests", 0),
                "shown_tests": chosen.get("shown_tests", 0),
                "max_solutions": 10,
                "keep": "consistent",
                "grader": "",
                "judge_slots": 2,
                "judge_packages": chosen.get("judge_packages", ()),
                "cpu_s": chosen.get("cpu_s", 2.0),
                "memory_mb": 512,
                "output_mb": chosen.get("output_mb", 1),
            },
        }
    )
