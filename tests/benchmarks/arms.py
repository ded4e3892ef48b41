"""The table of the loop's arms: held-out pass@1 of each, and its differences, paired by problem and seed.

    python launch/arms.py --config=configs/arms.py:demo --workdir=runs/arms
    python tests/benchmarks/arms.py runs/arms

Counts the arms and seeds that are finished: of two arms, the seeds that both have. Prints the hash of the
start and its recipe, a table, then one JSON line. Intervals (95 %) resample seeds and problems; of a few
seeds they cover less of what further ones would give.
"""

from __future__ import annotations

import json
import sys

from etils import epath
from ladder import difference, rates

from o1jax.stages.manifest import input_hash

AGAINST = ("references", "sampling", "scout_vine")
TRAIN = ("policy_sft", "policy_dpo", "policy_rl")  # stages that train the policy


def finished(workdir: epath.Path) -> dict[str, dict[str, epath.Path]]:
    """arm -> seed -> the directory of the evaluation after its last round."""
    found: dict[str, dict[str, epath.Path]] = {}
    for path in sorted(workdir.glob("seed_*/compare/*/round_*/evaluate/manifest.json")):
        arm, seed = path.parents[2].name, path.parents[4].name
        found.setdefault(arm, {})[seed] = path.parent
    return found


def figures(directory: epath.Path) -> dict:
    return json.loads((directory / "manifest.json").read_text(encoding="utf-8"))["figures"]


def tokens(evaluation: epath.Path) -> tuple[int, int]:
    """What the arm whose evaluation this is generated and trained on, over its rounds."""
    stages = [
        (path.parent, json.loads(path.read_text(encoding="utf-8")))
        for path in evaluation.parents[1].glob("round_*/*/manifest.json")
        if path.parent.name in TRAIN
    ]
    # Found answers may be another arm's, which this one shares.
    found = {
        place
        for directory, manifest in stages
        for name, place in manifest["places"].items()
        if name.startswith("found_") or name == "scout"
    }
    generated = sum(figures(epath.Path(place))["generated_tokens"] for place in found)
    generated += sum(manifest["figures"].get("generated_tokens", 0) for _, manifest in stages)
    return generated, sum(manifest["figures"]["trained_tokens"] for _, manifest in stages)


def main(workdir: epath.Path) -> None:
    start, arms = workdir / "start", finished(workdir)
    print(f"start {input_hash(start / 'warm_up')[:16]}: pass@1 {mean([rates(start / 'evaluate')]):.3f}")
    names = f"{'arm':12} {'seeds':>5} {'generated':>10} {'trained':>9} {'pass@1':>7}"
    print(f"{names}   less {' / '.join(AGAINST)}")
    line = {}
    for arm, evaluations in arms.items():
        rates_S = {seed: rates(at) for seed, at in evaluations.items()}
        spent = [tokens(at) for at in evaluations.values()]
        generated, trained = (sum(of) / len(of) for of in zip(*spent, strict=True))
        line[arm] = {"seeds": sorted(rates_S), "pass_at_1": round(mean(list(rates_S.values())), 4)}
        line[arm] |= {"generated_tokens": round(generated), "trained_tokens": round(trained)}
        shown = []
        for other in AGAINST:
            seeds = sorted(rates_S.keys() & arms.get(other, {}).keys())
            if other == arm or not seeds:
                shown.append("-")
                continue
            of_other = [rates(arms[other][seed]) for seed in seeds]
            paired = line[arm][f"less {other}"] = difference([rates_S[seed] for seed in seeds], of_other)
            shown.append(f"{paired['mean']:.3f} [{paired['low']:.3f}, {paired['high']:.3f}]")
        said = f"{len(rates_S):5} {generated:10,.0f} {trained:9,.0f} {line[arm]['pass_at_1']:7.3f}"
        print(f"{arm:12} {said}   " + " / ".join(shown))
    print(json.dumps(line))


def mean(rates_S: list[dict[str, float]]) -> float:
    """Over seeds and problems."""
    return sum(sum(rates.values()) / len(rates) for rates in rates_S) / len(rates_S)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/benchmarks/arms.py runs/arms")
    main(epath.Path(sys.argv[1]))
