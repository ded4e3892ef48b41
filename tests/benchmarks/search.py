"""Trees a second with 64 problems at once, against one problem after the other, in one process.

    python tests/benchmarks/search.py --policy=runs/demo/warm_up --problems=runs/demo/problems/held_out
    ... --engine=vllm, or --engine=vllm_server --endpoints=http://127.0.0.1:8000,http://127.0.0.1:8001

Prints one JSON line: rates, the engine's occupancy and busy share of the wall time, and the ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time

from etils import epath

from o1jax.records import Problem
from o1jax.search.growth import Searcher, SearchSettings
from o1jax.search.mcts import search_many
from o1jax.stages.problems import read_problems
from o1jax.stages.training import open_policy
from o1jax.stages.workers import EngineSettings, open_workers
from o1jax.train.checkpoint import Policy

SETTINGS = SearchSettings(
    temperature=1.0, top_p=1.0, top_k=0, style="nano", max_depth=3, max_step_tokens=120, max_path_tokens=240
)


async def measure(
    policy: Policy, engine: EngineSettings, problems: list[Problem], warm: list[Problem], concurrency: int
) -> dict:
    """Rates of searching `problems`, after `warm` have compiled everything."""
    async with open_workers(policy, engine) as workers:

        async def search(problems: list[Problem]) -> list:
            searcher = Searcher(workers.engine, workers.judge, workers.tokenizer, SETTINGS)
            return await search_many(searcher, problems, 0, concurrency=concurrency)

        await search(warm)
        before, began = workers.engine.stats(), time.monotonic()
        trees = await search(problems)
        seconds, after = time.monotonic() - began, workers.engine.stats()
    busy_s = after["busy_s"] - before["busy_s"]
    slot_s = [stats["busy_s"] * stats["slot_occupancy"] for stats in (before, after)]
    return {
        "concurrency": concurrency,
        "problems": len(problems),
        "trees_per_s": round(len(trees) / seconds, 3),
        "rollouts_per_s": round(sum(tree.rollouts for tree in trees) / seconds, 2),
        "generated_tokens_per_s": round(sum(tree.generated_tokens for tree in trees) / seconds),
        "slot_occupancy": round((slot_s[1] - slot_s[0]) / busy_s, 3),
        "engine_busy_share": round(busy_s / seconds, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--problems", required=True)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--engine", default="jax")
    parser.add_argument("--endpoints", default="", help="of vllm_server, with commas between")
    args = parser.parse_args()
    endpoints = tuple(filter(None, args.endpoints.split(",")))
    engine = EngineSettings(args.engine, slots=64, context=320, endpoints=endpoints)
    policy = open_policy(epath.Path(args.policy))
    problems = read_problems(epath.Path(args.problems))
    warm, problems = problems[:2], problems[2:]
    at_once = asyncio.run(measure(policy, engine, problems[: args.count], warm, 64))
    one = asyncio.run(measure(policy, engine, problems[: max(4, args.count // 32)], warm, 1))
    ratio = round(at_once["trees_per_s"] / one["trees_per_s"], 2)
    print(json.dumps({"engine": args.engine, "at_once": at_once, "one_after_the_other": one, "ratio": ratio}))


if __name__ == "__main__":
    main()
