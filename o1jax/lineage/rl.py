"""The rollouts that a policy_rl stage trained on, by what its updates left, with their rewards.

A rollout's steps are scored once more where there is a process reward model: scores are not kept.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

from etils import epath

from o1jax.lineage.paths import Archive, of_rollout
from o1jax.lineage.samples import Sample, Wanted, of_answers, read_inputs, settings_of, tokenizer_of
from o1jax.lineage.stages import Input, Stage
from o1jax.prompts.chat import Tokenizer
from o1jax.records import Rollout
from o1jax.rl import draw
from o1jax.rl.examples import Group, lesson_of, reward_of
from o1jax.rl.progress import read_rows
from o1jax.rl.rollouts import groups_in, read_answers, rollouts_path
from o1jax.rl.settings import Settings
from o1jax.stages.workers import open_scorer

Played = tuple[int, Sequence[Rollout]]  # an update, and a problem's rollouts in it


def of_policy_rl(archive: Archive, stage: Stage, wanted: Wanted) -> list[Sample]:
    """Rollouts of the updates that were learned from, and what was replayed beside them."""
    settings, tokenizer = settings_of(stage), tokenizer_of(stage)
    played = [
        (t, group)
        for t in _updates(stage)
        for group in groups_in(rollouts_path(epath.Path(stage.place) / "rollouts", t)).values()
        if any(wanted.has(rollout.id, rollout.problem_id) for rollout in group)
    ]
    samples = []
    groups = asyncio.run(_answers(stage, settings, tokenizer, played))
    for (t, _), group in zip(played, groups, strict=True):
        is_kept = bool(lesson_of([group], settings, t, scored=False).kept)
        for answer in group:
            rollout = answer.rollout
            if wanted.has(rollout.id, rollout.problem_id):
                scores = answer.scores if stage.given("prm") else ()
                path = of_rollout(archive, stage.place, rollout, tokenizer, settings.sample, scores)
                if rollout.policy_version > settings.first_update:
                    path = dataclasses.replace(path, policy=Input("this stage's", "", stage.place))
                left_out = "" if is_kept else f"the {len(group)} answers of its group were rewarded alike"
                parts = reward_of(answer, settings, t)
                facts = {"update": t, "reward": parts.total, "outcome": parts.outcome, "alpha": parts.alpha}
                facts |= {"process": parts.process} if scores else {}
                samples.append(Sample(rollout.id, rollout.problem_id, "rollout", left_out, facts, (path,)))
    return samples + _replayed(archive, stage, settings, tokenizer, wanted)


def _replayed(
    archive: Archive, stage: Stage, settings: Settings, tokenizer: Tokenizer, wanted: Wanted
) -> list[Sample]:
    """Found paths and references, each with the updates that drew it."""
    inputs = read_inputs(stage, "found_", "references")
    found, references = draw.samples_of(settings, inputs, tokenizer, stage.seed)
    examples = draw.replay_buffer(settings, inputs, tokenizer, stage.seed)
    drawn: dict[str, list[int]] = {}
    for t in _updates(stage):
        for example in draw.replay(examples, settings.replay.examples, stage.seed, t):
            drawn.setdefault(example.id, []).append(t)
    return [
        dataclasses.replace(
            sample,
            left_out=sample.left_out or ("" if sample.id in drawn else "no update drew it"),
            facts={"updates": ", ".join(map(str, drawn.get(sample.id, [])))},
        )
        for sample in of_answers(archive, stage, found, references, tokenizer, settings.row_length, wanted)
    ]


def _updates(stage: Stage) -> list[int]:
    """The updates that were learned from so far."""
    log = epath.Path(stage.place) / "fit" / "metrics.jsonl"
    return [int(row["update"]) for row in read_rows(log)] if log.exists() else []


async def _answers(
    stage: Stage, settings: Settings, tokenizer: Tokenizer, played: Sequence[Played]
) -> list[Group]:
    inputs = {"prm": stage.read("prm")} if stage.given("prm") and played else {}
    slots, context = settings.scorer_slots, settings.engine.context
    async with open_scorer(inputs, tokenizer, slots=slots, context=context) as scorer:
        return [await read_answers(group, tokenizer, scorer, settings) for _, group in played]
