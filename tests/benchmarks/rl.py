"""The table of RL and what stands beside it, over seeds: each arm's held-out pass@1 and pass@8 by round.

    for s in 5 6 7; do python launch/rl.py --config=configs/rl.py:ladder --config.seed=$s \
        --config.policy=runs/ladder/seed_$s/round_00/policy_sft \
        --config.references_from=runs/ladder/seed_$s/problems/references \
        --config.pool_trees=runs/ladder/seed_$s/round_00/search --workdir=runs/rl/seed_$s; done
    python tests/benchmarks/rl.py runs/rl/seed_*

Prints a table, then one JSON line: for each arm the difference of its final pass@1 to the start's, to that
of search with SFT, and to that of the references that RL replays, trained on alone, each with a 95 % interval
from a bootstrap over seeds and problems (of two or three seeds it covers less of further ones, and the output
says so); the tokens of each arm; the ratio of the loop's gain to search's.
"""

from __future__ import annotations

import json
import sys

from etils import epath
from ladder import COVERS, difference, table

AGAINST = ("start", "search", "rl_replay")
COUNTED = ("generated_tokens", "trained_tokens")


def tokens(workdir: epath.Path, arm: str) -> dict[str, int]:
    """What the arm's policies cost: the tokens of search, sampling and RL, and of their training."""
    total = dict.fromkeys(COUNTED, 0)
    for path in workdir.glob(f"compare/{arm}/round_*/*/manifest.json"):
        if path.parent.name not in ("evaluate", "prm"):
            figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
            for name in COUNTED:
                total[name] += figures.get(name, 0)
    return total


def main(workdirs: list[epath.Path]) -> None:
    final = table(workdirs)
    arms = [arm for arm in final if arm != "start"]
    line = {
        "seeds": len(workdirs),
        "differences": {
            f"{arm} - {other}": difference(final[arm], final[other])
            for arm in arms
            for other in AGAINST
            if other in final and other != arm
        },
        "tokens": {arm: [tokens(workdir, arm) for workdir in workdirs] for arm in arms},
    }
    if {"loop", "search"} <= set(arms):
        gain = {arm: line["differences"][f"{arm} - start"]["mean"] for arm in ("loop", "search")}
        line["ratio"] = round(gain["loop"] / gain["search"], 3) if gain["search"] else None
    print(COVERS)
    print(json.dumps(line))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python tests/benchmarks/rl.py runs/rl/seed_0 [runs/rl/seed_1 ...]")
    main([epath.Path(name) for name in sys.argv[1:]])
