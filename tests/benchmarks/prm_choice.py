"""A process reward model of the policy that searched: how it ranks steps of other problems, and what it
chooses among answers to them, over seeds.

    python tests/benchmarks/prm_choice.py runs/demo/warm_up runs/prm_choice --seeds=0,1,2

The policy of the first argument, a nano one of the ladder, searches --problems problems of the pool for each
seed's model, a third as many on which all are calibrated, and as many held-out ones. Prints a row a seed;
then one JSON line of means over seeds with 95 % intervals, which are of the held-out problems alone, for all
seeds share them. `likelihood` is that of the policy for its own steps.
--prm='{"trains": "body", "train_tokens": 300000, "likelihood": 0.3}' changes
settings of the prm stage. About 25 minutes on an idle core.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from o1jax.concurrency import run_in_order
from o1jax.evaluation.choice import by_vote, first_by_tests, last_scores, visible_outputs
from o1jax.intervals import mean_with_interval
from o1jax.records import Problem, Rollout
from o1jax.rewards.outcome import judge_program, search_tests
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Limits
from o1jax.stages import manifest
from o1jax.stages.problems import read_problems
from o1jax.stages.run import run
from o1jax.stages.training import open_policy
from o1jax.stages.workers import scorer_of
from o1jax.store import read_records, write_records

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "style": "nano"}
ENGINE = {"slots": 64, "context": 256}
SEARCH = {"rollouts": 12, "max_depth": 3, "samples": 3, "c": 2.0, "compile_weight": 0.1}
SEARCH |= {**SAMPLING, "max_step_tokens": 100, "max_path_tokens": 176}
ANSWERS = {**SAMPLING, "n": 8, "max_tokens": 176}
TRAIN = {"row_length": 512, "rows_per_batch": 8, "learning_rate": 7e-4, "weight_decay": 0.01}
PRM = {"train_tokens": 300_000, "objective": "soft"}
POOL, HELD_OUT = {2: 350, 3: 450, 4: 300}, {2: 160, 3: 160, 4: 130}
SIDES = ("prm", "likelihood", "baseline")
AUCS = ("auc", "within_problem_auc", "within_problem_auc_leaves")
WAYS = ("prm_vote", "majority", "random", "prm_tie", "majority_tie", "random_tie")
LESS = (("prm_vote", "majority"), ("prm_vote", "random"), ("prm_tie", "majority_tie"))


def problems_of(root: epath.Path, seeds: Sequence[int], n: int) -> list[str]:
    """Makes the sets of problems, which share none, and returns the names of their directories."""

    def checked(name: str, split: str, counts: dict[int, int]) -> list[Problem]:
        config = {"source": f"ladder:{split}", "counts": {f"rung_{k}": n for k, n in counts.items()}}
        run(root / name, manifest.StageSpec("check_problems", config, 0, {}))
        problems = read_problems(root / name)
        random.Random(1).shuffle(problems)
        return problems

    pool = checked("all_pool", "pool", POOL)
    few = n // 3  # two numbers a depth are fitted to them
    sets = {"calibration": pool[:few], "held_out": checked("all_held_out", "held_out", HELD_OUT)[:n]}
    sets |= {f"found_{s}": pool[few + s * n : few + (s + 1) * n] for s in seeds}
    for name, part in sets.items():
        if not part:
            raise SystemExit(f"no problems are left for {name}: the pool has {len(pool)}")
        if not (root / name / "manifest.json").exists():
            (root / name).mkdir(parents=True, exist_ok=True)
            write_records(root / name / "problems.parquet", Problem, part)
            spec = manifest.StageSpec("check_problems", {"part": name}, 0, {})
            manifest.finish(root / name, spec, manifest.StageResult({}, {}))
    return list(sets)


def chosen(root: epath.Path, prm: str) -> dict[str, Any]:
    """{way: pass rate} of the choices among the answers to each held-out problem, and the differences in
    LESS, each with its interval over problems."""
    groups: dict[str, list[Rollout]] = {}
    for rollout in read_records(root / "answers" / "rollouts" / "pseudocode.parquet", Rollout):
        groups.setdefault(rollout.problem_id, []).append(rollout)
    rows = asyncio.run(_choose_all(root / prm, read_problems(root / "held_out"), groups))
    figures = {way: mean_with_interval([row[way] for row in rows], 0) for way in WAYS}
    return figures | {f"{a} - {b}": mean_with_interval([row[a] - row[b] for row in rows], 0) for a, b in LESS}


async def _choose_all(
    prm: epath.Path, problems: Sequence[Problem], groups: dict[str, list[Rollout]]
) -> list[dict[str, float]]:
    model, judge, limits = open_policy(prm), ForkJudge(slots=1), Limits()
    scorer = scorer_of(model, slots=32, context=ENGINE["context"])

    async def choose(problem: Problem) -> dict[str, float]:
        formed = [r for r in groups[problem.id] if r.verdict is not None and not r.error]
        if not formed:
            return dict.fromkeys(WAYS, 0.0)
        programs, tests = [r.program for r in formed], search_tests(problem)
        outputs = await visible_outputs(judge, problem, programs, limits)
        scores = await last_scores(scorer, model.tokenizer, formed, ANSWERS["max_tokens"])
        verdicts = [await judge_program(judge, problem, text, tests, limits) for text in programs]
        judged = [dataclasses.replace(r, verdict=v) for r, v in zip(formed, verdicts, strict=True)]
        best, row = first_by_tests(judged), {}
        for name, weights in (("prm", scores), ("majority", [1.0] * len(formed))):
            row["prm_vote" if name == "prm" else name] = formed[by_vote(outputs, weights)].reward
            texts = [(programs[i].strip(),) for i in best]
            row[f"{name}_tie"] = formed[best[by_vote(texts, [weights[i] for i in best])]].reward
        row["random"] = sum(r.reward for r in formed) / len(formed)
        row["random_tie"] = sum(formed[i].reward for i in best) / len(best)
        return row

    try:
        return await run_in_order(choose, problems, 16)
    finally:
        await scorer.close()
        await judge.close()


def main(policy: epath.Path, root: epath.Path, seeds: Sequence[int], n: int, prm: dict[str, Any]) -> None:
    inputs, rated, picked = {"policy": str(policy)}, [], []
    for name in problems_of(root, seeds, n):
        spec, given = {"search": SEARCH, "engine": ENGINE}, {**inputs, "problems": str(root / name)}
        run(root / f"trees_{name}", manifest.StageSpec("search", spec, 1, given))
    spec = {"sample": ANSWERS, "prompts": ("pseudocode",), "engine": ENGINE}
    given = {**inputs, "problems": str(root / "held_out")}
    run(root / "answers", manifest.StageSpec("evaluate", spec, 1, given))
    inputs |= {use: str(root / f"trees_{use}") for use in ("calibration", "held_out")}
    for seed in seeds:
        spec, name = {**PRM, **prm, "train": {**TRAIN, **prm.get("train", {})}}, f"prm_{seed}"
        given = {**inputs, "found_0": str(root / f"trees_found_{seed}")}
        made = run(root / name, manifest.StageSpec("prm", spec, seed, given))
        rated.append(made["figures"]["held_out"])
        picked.append(chosen(root, name))
        print(seed, json.dumps(_row(rated[-1], picked[-1])), flush=True)
    line: dict[str, Any] = {"seeds": len(seeds), "prm": prm}
    for side in SIDES:
        line[side] = {key: shared([found[side][key] for found in rated]) for key in AUCS}
        line[side]["calibration_error"] = [found[side].get("calibration_error") for found in rated]
    less = [found["less_likelihood"] for found in rated]
    line["less_likelihood"] = {key: shared([found[key] for found in less]) for key in less[0]}
    line["choice"] = {key: shared([found[key] for found in picked]) for key in picked[0]}
    print(json.dumps(line))


def shared(found_S: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of {mean, low, high} over seeds that have the same problems."""
    # These are not independent: an interval of their mean is no narrower than one of them.
    return {
        key: round(float(np.mean([found[key] for found in found_S])), 4) for key in ("mean", "low", "high")
    }


def _row(found: dict[str, Any], picked: dict[str, Any]) -> dict[str, Any]:
    """A seed's figures, without intervals."""
    means = {side: {key: found[side][key]["mean"] for key in AUCS} for side in SIDES}
    errors = {side: found[side].get("calibration_error") for side in SIDES}
    return means | {"calibration_error": errors} | {way: picked[way]["mean"] for way in picked}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("policy", type=epath.Path)
    parser.add_argument("workdir", type=epath.Path)
    parser.add_argument("--seeds", default="0,1,2", type=lambda text: [int(s) for s in text.split(",")])
    parser.add_argument("--problems", default=300, type=int)
    parser.add_argument("--prm", default={}, type=json.loads)
    given = parser.parse_args()
    main(given.policy, given.workdir, given.seeds, given.problems, given.prm)
