"""Where each sample of a policy_rl stage came from: the rows of o1jax/stages/provenance.py, for lineage.

The rows of its rollouts are made of rewards/, which grows by a file an update; provenance.parquet has those
of what may be replayed. The stage has ended or is under way. Writes nothing.
"""

from __future__ import annotations

import collections
import dataclasses
import json

from etils import epath

from o1jax.rl.progress import read_rows
from o1jax.rl.rollouts import ReplayedSample, RewardedRollout, replayed_path, rewards_path
from o1jax.stages import provenance
from o1jax.stages.provenance import OWN, Provenance, Source
from o1jax.store import read_records


def read(out: epath.Path) -> list[Provenance]:
    """The rollouts of every update, then what may be replayed, with the updates that drew it. InputError for
    a stage that has not begun."""
    buffer, rollouts, drawn = provenance.read(out, "policy_rl"), [], collections.defaultdict(list)
    # An update that a kill cut short has its files, but no row of the log: nothing was learned from it yet.
    log = out / "fit" / "metrics.jsonl"
    for t in [int(row["update"]) for row in read_rows(log)] if log.exists() else []:
        rollouts += _rollout_rows(read_records(rewards_path(out, t), RewardedRollout))
        if replayed_path(out, t).exists():
            for sample in read_records(replayed_path(out, t), ReplayedSample):
                drawn[sample.sample_id].append(str(t))
    return rollouts + [
        dataclasses.replace(
            row,
            left_out=row.left_out or ("" if row.id in drawn else "no update drew it"),
            facts=json.dumps({"updates": ", ".join(drawn[row.id])}),
        )
        for row in buffer
    ]


def _rollout_rows(rewarded: list[RewardedRollout]) -> list[Provenance]:
    """Of one update."""
    sizes = collections.Counter(rollout.problem_id for rollout in rewarded)
    rows = []
    for one in rewarded:
        alike = f"the {sizes[one.problem_id]} answers of its group do not differ in what keep_groups names"
        facts = {"update": one.update, "reward": one.reward, "outcome": one.outcome, "alpha": one.alpha}
        facts |= {"process": one.process} if one.step_scores else {}
        source = Source("answer", OWN, rollout=one.rollout_id)
        left_out = "" if one.kept else alike
        rows.append(
            Provenance(one.rollout_id, one.problem_id, "rollout", left_out, json.dumps(facts), (source,))
        )
    return rows
