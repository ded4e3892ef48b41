"""The ladder benchmark's table over seeds: each arm's held-out pass@1 and pass@8 by round.

    for s in 0 1 2; do python launch/self_play.py --config=configs/self_play.py:search --config.seed=$s \
        --workdir=runs/ladder/seed_$s; done
    python tests/benchmarks/ladder.py runs/ladder/seed_*

Prints a table, then one JSON line: means over seeds; differences of final pass@1 between arms, each
with a 95 % interval from a bootstrap over seeds and problems; the ratio of the loop's gain to the
upper bound's. A bootstrap over two or three seeds covers less than 95 % of further ones; the output says so.
"""

from __future__ import annotations

import collections
import json
import sys

import numpy as np
from etils import epath

from o1jax.records import Rollout
from o1jax.store import read_records

DRAWS = 2000
COVERS = (
    "intervals resample problems and these seeds; of two or three seeds they cover less than 95 % of what "
    "further ones would give"
)


def evaluations(workdir: epath.Path) -> dict[tuple[str, str], epath.Path]:
    """(arm, round) -> directory of its evaluation."""
    found = {(name, name): workdir / f"{name}_evaluate" for name in ("warm_up", "start")}
    for path in sorted(workdir.glob("round_*/evaluate")):
        found["search", path.parent.name] = path
    for path in sorted(workdir.glob("compare/*/round_*/evaluate")):
        found[path.parent.parent.name, path.parent.name] = path
    return {key: path for key, path in found.items() if (path / "manifest.json").exists()}


def rates(evaluation: epath.Path) -> dict[str, float]:
    """Problem id -> share of its samples that pass, pseudocode prompt."""
    rewards = collections.defaultdict(list)
    for rollout in read_records(evaluation / "rollouts" / "pseudocode.parquet", Rollout):
        rewards[rollout.problem_id].append(rollout.reward)
    return {problem_id: float(np.mean(values)) for problem_id, values in rewards.items()}


def difference(a_S: list[dict[str, float]], b_S: list[dict[str, float]]) -> dict[str, float]:
    """Mean of a - b over seeds and problems, with a 95 % interval that resamples both."""
    differences_S = [np.array([a[key] - b[key] for key in sorted(a)]) for a, b in zip(a_S, b_S, strict=True)]
    rng, means = np.random.default_rng(0), []
    for _ in range(DRAWS):
        seeds = rng.integers(0, len(differences_S), len(differences_S))
        means.append(np.mean([rng.choice(differences_S[s], len(differences_S[s])).mean() for s in seeds]))
    low, high = np.percentile(means, [2.5, 97.5])
    mean = float(np.mean([d.mean() for d in differences_S]))
    return {"mean": round(mean, 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def table(workdirs: list[epath.Path]) -> dict[str, list[dict[str, float]]]:
    """Prints every arm and round that all seeds have; arm -> its last round's rates, a seed each."""
    found_S = [evaluations(workdir) for workdir in workdirs]
    shared = [key for key in found_S[0] if all(key in found for found in found_S)]
    print(f"{'arm':16} {'round':10} {'pass@1':>7} {'pass@8':>7}   pass@1 (pass@8) by rung")
    for key in shared:
        figures_S = [
            json.loads((found[key] / "manifest.json").read_text(encoding="utf-8"))["figures"]
            for found in found_S
        ]
        rungs = "  ".join(
            f"{r}: {at(figures_S, 1, r):.3f} ({at(figures_S, 8, r):.3f})" for r in rungs_of(figures_S)
        )
        print(f"{key[0]:16} {key[1]:10} {at(figures_S, 1):7.3f} {at(figures_S, 8):7.3f}   {rungs}")
    last = {arm: max(name for a, name in shared if a == arm) for arm, _ in shared}
    return {arm: [rates(found[arm, name]) for found in found_S] for arm, name in last.items()}


def main(workdirs: list[epath.Path]) -> None:
    final = table(workdirs)
    against = {f"search - {arm}": difference(final["search"], final[arm]) for arm in final if arm != "search"}
    gain = against["search - warm_up"]["mean"]
    line = {"seeds": len(workdirs), "final": against}
    if "pool_references" in final:
        upper = difference(final["pool_references"], final["warm_up"])["mean"]
        line |= {"upper_gain": upper, "ratio": round(gain / upper, 3) if upper else None}
    print(COVERS)
    print(json.dumps(line))


def rungs_of(figures_S: list[dict]) -> list[str]:
    return sorted(figures_S[0]["pseudocode"]["by_rung"])


def at(figures_S: list[dict], k: int, rung: str = "") -> float:
    """pass@k, mean over seeds, of all problems or of one rung."""
    of = [f["pseudocode"]["by_rung"][rung] if rung else f["pseudocode"] for f in figures_S]
    return float(np.mean([figures[f"pass_at_{k}"]["mean"] for figures in of]))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python tests/benchmarks/ladder.py runs/ladder/seed_0 [runs/ladder/seed_1 ...]")
    main([epath.Path(name) for name in sys.argv[1:]])
