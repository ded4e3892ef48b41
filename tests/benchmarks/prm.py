"""The process reward models' table over seeds: how they rank held-out steps, and what search gains by them.

    for s in 0 1 2; do python launch/prm.py --config=configs/prm.py:ladder --config.seed=$s \
        --workdir=runs/prm/seed_$s; done
    python tests/benchmarks/prm.py runs/prm/seed_*

Prints a table of means over seeds, then one JSON line: each PRM's AUC, that of the model it began as by the
likelihood of its own steps, that of the baseline which knows only a step's number and length, and what uses
of the hard PRM gain, with 95 % intervals. An interval is
that of the seeds' own (bootstrap over problems) or that between seeds, by Student's t of one degree of
freedom less than seeds, the wider; of one seed, its own.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from etils import epath
from scipy.stats import t as student

OBJECTIVES = ("hard", "soft", "pair")
COLUMNS = ("log_loss", "calibration_error", "pair_accuracy", "auc_inner", "auc_leaves")
Z = 1.96  # standard errors that a 95 % interval reaches


def figures_of(workdir: epath.Path, stage: str) -> dict[str, Any]:
    return json.loads((workdir / "prm" / stage / "manifest.json").read_text(encoding="utf-8"))["figures"]


def over_seeds(found_S: list[dict[str, float]]) -> dict[str, float]:
    """The mean of {mean, low, high} over seeds, with its interval."""
    mean_S = np.array([found["mean"] for found in found_S])
    own = np.mean([((found["high"] - found["low"]) / (2 * Z)) ** 2 for found in found_S])
    between_seeds = student.ppf(0.975, len(mean_S) - 1) * mean_S.std(ddof=1) if len(mean_S) > 1 else 0.0
    half = max(Z * np.sqrt(own), between_seeds) / np.sqrt(len(mean_S))
    low, high = mean_S.mean() - half, mean_S.mean() + half
    return {"mean": round(mean_S.mean(), 4), "low": round(low, 4), "high": round(high, 4)}


def row(name: str, found_S: list[dict[str, Any]], floor: float) -> str:
    rated = [[found.get(column) for found in found_S] for column in COLUMNS]
    means = ["-" if None in of_S else f"{np.mean(of_S):.3f}" for of_S in rated]  # a ranking has no log-loss
    within = np.mean([found["within_problem_auc"]["mean"] for found in found_S])
    auc = np.mean([found["auc"]["mean"] for found in found_S])
    return f"{name:22} {auc:8.3f} {within:15.3f} " + " ".join(f"{m:>17}" for m in means) + f" {floor:7.3f}"


def main(workdirs: list[epath.Path]) -> None:
    held_out = {o: [figures_of(w, o)["held_out"] for w in workdirs] for o in OBJECTIVES}
    columns = " ".join(f"{name:>17}" for name in COLUMNS)
    print(f"{'prm':22} {'auc':>8} {'within a problem':>15} {columns} {'floor':>7}")
    for objective, found_S in held_out.items():
        floor = float(np.mean([found["log_loss_floor"] for found in found_S]))
        for side, name in (("uncalibrated", f"{objective}, uncalibrated"), ("prm", objective)):
            if side in found_S[0]:
                print(row(name, [found[side] for found in found_S], floor))
    floor = float(np.mean([found["log_loss_floor"] for found in held_out["soft"]]))
    for side, name in (("likelihood", "likelihood, untrained"), ("baseline", "number and length")):
        print(row(name, [found[side] for found in held_out["soft"]], floor))
    uses = [figures_of(workdir, "evaluate") for workdir in workdirs]
    print(f"\n{'chosen by, or search':22} {'pass rate':>9} {'tokens':>9}   by seed")
    for name in uses[0]["search"]:
        arms = [found["search"][name] for found in uses]
        rates, tokens = [arm["pass_rate"]["mean"] for arm in arms], [arm["generated_tokens"] for arm in arms]
        by_seed = " ".join(f"{rate:.3f}" for rate in rates)
        print(f"{name:22} {np.mean(rates):9.3f} {np.mean(tokens):9.0f}   {by_seed}")
    line = {
        "seeds": len(workdirs),
        "auc": {o: over_seeds([found["prm"]["auc"] for found in held_out[o]]) for o in OBJECTIVES},
        "likelihood_auc": over_seeds([found["likelihood"]["auc"] for found in held_out["soft"]]),
        "baseline_auc": over_seeds([found["baseline"]["auc"] for found in held_out["soft"]]),
        "auc_less_baseline": {
            o: over_seeds([found["auc_difference"] for found in held_out[o]]) for o in OBJECTIVES
        },
        "auc_less_likelihood": {
            o: over_seeds([found["less_likelihood"]["auc"] for found in held_out[o]]) for o in OBJECTIVES
        },
        "uses": {
            name: over_seeds([found["search_differences"][name] for found in uses])
            for name in uses[0]["search_differences"]
        },
    }
    line["ratio"] = round(line["auc"]["hard"]["mean"] / line["baseline_auc"]["mean"], 3)
    print(json.dumps(line))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python tests/benchmarks/prm.py runs/prm/seed_0 [runs/prm/seed_1 ...]")
    main([epath.Path(name) for name in sys.argv[1:]])
