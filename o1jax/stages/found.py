"""What earlier stages found: the paths that passed, as SFT samples (D+), over all rounds.

Reads trees/ of search stages and rollouts/ of sample stages. Trains nothing.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from etils import epath

from o1jax.parallel.seeds import fold_seed
from o1jax.records import Rollout, SftSample
from o1jax.search.samples import passing_samples
from o1jax.search.store import read_shards, read_trees


def passing_paths(
    places: Sequence[epath.Path], eos_id: int, max_per_problem: int, seed: int
) -> list[SftSample]:
    """At most `max_per_problem` different passing answers a problem, drawn by seed from all `places`.

    The cap keeps problems that pass often from drowning those that pass rarely.
    """
    by_problem: dict[str, dict[tuple[int, ...], SftSample]] = {}
    for number, place in enumerate(places):
        for sample in _of_stage(place, eos_id):
            answers = by_problem.setdefault(sample.problem_id, {})
            answers.setdefault(sample.answer_ids, _renamed(sample, number))
    chosen = []
    for problem_id, answers in sorted(by_problem.items()):
        samples = list(answers.values())
        random.Random(fold_seed(seed, "passing_paths", problem_id)).shuffle(samples)
        chosen += samples[:max_per_problem]
    return chosen


def _of_stage(place: epath.Path, eos_id: int) -> list[SftSample]:
    if (place / "trees").exists():
        trees = read_trees(place / "trees")
        return [
            s for tree in trees for s in passing_samples(tree, eos_id=eos_id, max_per_problem=len(tree.nodes))
        ]
    return [
        _sft_sample(r)
        for r in read_shards(place / "rollouts", Rollout)
        if r.reward == 1.0 and r.token_ids[-1] == eos_id
    ]


def _sft_sample(rollout: Rollout) -> SftSample:
    return SftSample(
        id=rollout.id,
        problem_id=rollout.problem_id,
        prompt_ids=rollout.prompt_ids,
        answer_ids=rollout.token_ids,
        is_trained=(True,) * len(rollout.token_ids),
    )


def _renamed(sample: SftSample, number: int) -> SftSample:
    return dataclasses.replace(sample, id=f"{number}/{sample.id}")
