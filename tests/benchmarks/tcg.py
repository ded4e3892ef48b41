"""The generator benchmark's table over seeds: what its cases are worth after SFT and after each DPO.

    for s in 0 1 2; do python launch/tcg.py --config=configs/tcg.py:ladder --config.seed=$s \
        --workdir=runs/tcg/seed_$s; done
    python tests/benchmarks/tcg.py runs/tcg/seed_*

Prints a table of means over seeds, then one JSON line: for each DPO the difference to its SFT in validity,
validity without degenerate cases, degenerate share and useful cases, with 95 % intervals from a paired
bootstrap over seeds and problems (of two or three seeds it covers less of further ones, and the output says
so); and false accepts and rejects beside those of other tests.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from etils import epath
from ladder import COVERS

from o1jax.store import read_records
from o1jax.tcg.evaluate import Tally

DRAWS = 2000
FIGURES = {  # name -> (part, whole) of a tally
    "parse_rate": lambda t: (t.parsed, t.asked),
    "validity": lambda t: (t.true, t.parsed),
    "not_degenerate": lambda t: (t.true_not_degenerate, t.parsed - t.degenerate),
    "degenerate": lambda t: (t.degenerate, t.parsed),
    "distinct": lambda t: (t.distinct_inputs, t.parsed),
    "useful": lambda t: (t.true_not_degenerate, t.asked),
}
AFTER = ("false_accept_mutants", "false_accept_policy", "false_reject")


def arms(workdir: epath.Path) -> dict[str, epath.Path]:
    """plain/sft, traced/shuffled, ... -> the directory of its evaluation."""
    found = sorted(workdir.glob("tcg/*/*_evaluate/manifest.json"))
    return {f"{p.parent.parent.name}/{p.parent.name.removesuffix('_evaluate')}": p.parent for p in found}


def counts(evaluation: epath.Path, prompt: str) -> dict[str, np.ndarray]:
    """name -> [problems, 2], parts and wholes in order of problem id."""
    tallies = [t for t in read_records(evaluation / "tallies.parquet", Tally) if t.prompt == prompt]
    tallies.sort(key=lambda t: t.problem_id)
    return {name: np.array([of(t) for t in tallies], np.float64) for name, of in FIGURES.items()}


def ratio(counts_P2: np.ndarray) -> float:
    part, whole = counts_P2.sum(axis=0)
    return part / whole if whole else float("nan")


def difference(a_S: list[np.ndarray], b_S: list[np.ndarray]) -> dict[str, float]:
    """The mean over seeds of ratio(a) - ratio(b), and an interval that resamples seeds and problems."""
    rng, means = np.random.default_rng(0), []
    for _ in range(DRAWS):
        drawn = []
        for s in rng.integers(0, len(a_S), len(a_S)):
            problems = rng.integers(0, len(a_S[s]), len(a_S[s]))
            drawn.append(ratio(a_S[s][problems]) - ratio(b_S[s][problems]))
        means.append(np.mean(drawn))
    low, high = np.nanpercentile(means, [2.5, 97.5])
    mean = np.mean([ratio(a) - ratio(b) for a, b in zip(a_S, b_S, strict=True)])
    return {"mean": round(float(mean), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def after(evaluation: epath.Path) -> dict[str, dict[str, float | None]]:
    """generated, own, random -> false accepts and rejects."""
    found = json.loads((evaluation / "manifest.json").read_text(encoding="utf-8"))["figures"]["after"]
    return {tests: {name: figures[name]["mean"] for name in AFTER} for tests, figures in found.items()}


def main(workdirs: list[epath.Path]) -> None:
    arms_S = [arms(workdir) for workdir in workdirs]
    shared = [arm for arm in arms_S[0] if all(arm in found for found in arms_S)]
    print(f"{'generator':22} {'prompt':9} " + " ".join(f"{name:>14}" for name in FIGURES))
    counted = {}
    for arm in shared:
        for prompt in ("program", "question"):
            counted[arm, prompt] = [counts(found[arm], prompt) for found in arms_S]
            means = [np.nanmean([ratio(c[name]) for c in counted[arm, prompt]]) for name in FIGURES]
            print(f"{arm:22} {prompt:9} " + " ".join(f"{mean:14.3f}" for mean in means))
    line = {"seeds": len(workdirs), "dpo_less_sft": {}, "after": {}}
    for arm in shared:
        line["after"][arm] = [after(found[arm]) for found in arms_S]
        if not arm.endswith("/sft"):
            sft, own = counted[arm.split("/")[0] + "/sft", "program"], counted[arm, "program"]
            line["dpo_less_sft"][arm] = {
                name: difference([c[name] for c in own], [c[name] for c in sft]) for name in FIGURES
            }
    print(COVERS)
    print(json.dumps(line))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python tests/benchmarks/tcg.py runs/tcg/seed_0 [runs/tcg/seed_1 ...]")
    main([epath.Path(name) for name in sys.argv[1:]])
