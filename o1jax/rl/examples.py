"""From the answers of an update to what is trained on: rewards, the groups that teach, advantages a token.

Pure functions of the answers; what a model must say of them (values) comes as an argument. Trains nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from o1jax.batches.encode import Example, encode_rollout
from o1jax.losses import advantages
from o1jax.rewards.outcome import outcome_of
from o1jax.rewards.phi import RewardParts, is_complete
from o1jax.rl.rollouts import Answer
from o1jax.rl.settings import Settings

Group = Sequence[Answer]  # the answers to one problem

OF_ANSWERS = {
    "group_mean": advantages.group_mean,
    "group_normalized": advantages.group_normalized,
    "leave_one_out": advantages.leave_one_out,
}
OF_STEPS = {
    "step_group_mean": advantages.step_group_mean,
    "step_group_normalized": advantages.step_group_normalized,
}


class Lesson(NamedTuple):
    """What update t trains on: the groups that were kept, and examples replayed beside them; the tokens of
    both (prompts included, in one epoch), and the figures of all groups."""

    t: int
    kept: list[Group]
    tokens: int
    figures: dict[str, float]
    replay: Sequence[Example] = ()


def lesson_of(
    groups: Sequence[Group], settings: Settings, t: int, *, scored: bool, replay: Sequence[Example] = ()
) -> Lesson:
    """Rewards the groups and drops those whose answers are alike (settings.keep_groups): beside the others
    they only take room. If none is left, nothing is replayed either. `scored`: a process reward model
    scored the steps."""
    parts_P_G = [[reward_of(answer, settings, t) for answer in group] for group in groups]
    pairs = zip(groups, parts_P_G, strict=True)
    kept = [[on_path(answer) for answer in group] for group, parts in pairs if teaches(parts, settings)]
    rollouts = [answer.rollout for group in kept for answer in answers_of(group, settings, t)]
    figures = reward_figures(groups, parts_P_G, scored)
    figures |= {"groups_kept": len(kept), "groups_dropped": len(groups) - len(kept)}
    replay = replay if kept else ()
    tokens = sum(len(r.prompt_ids) + len(r.token_ids) for r in rollouts)
    return Lesson(t, kept, tokens + sum(len(example.token_ids) for example in replay), figures, replay)


def on_path(answer: Answer) -> Answer:
    """The answer without what it goes on to say after its program or a malformed step: that was not judged,
    and a tree drops it too."""
    rollout = answer.rollout
    end = answer.step_ends[-1] if answer.step_ends else len(rollout.token_ids)
    kept = dataclasses.replace(
        rollout,
        token_ids=rollout.token_ids[:end],
        log_probs=rollout.log_probs[:end],
        is_policy_token=rollout.is_policy_token[:end],
    )
    return dataclasses.replace(answer, rollout=kept)


def teaches(parts: Sequence[RewardParts], settings: Settings) -> bool:
    """Whether a group's answers differ in what they are compared by; `gae` compares each with its value."""
    by_outcome = settings.keep_groups == "outcome"
    compared = [part.outcome if by_outcome else part.total for part in parts]
    return settings.advantage == "gae" or not advantages.is_zero_variance(compared)


def reward_of(answer: Answer, settings: Settings, t: int) -> RewardParts:
    """phi of an answer at update t, and what it is made of."""
    outcome = outcome_of(answer.rollout.verdict, settings.reward.outcome)
    return settings.reward.of(outcome, answer.scores, answer.actions, t)


def step_rewards_of(answer: Answer, settings: Settings, t: int) -> np.ndarray:
    """rewards_M, one a step; their sum is phi."""
    outcome = outcome_of(answer.rollout.verdict, settings.reward.outcome)
    return settings.reward.step_rewards_of(outcome, answer.scores, answer.actions, t)


def reward_figures(
    groups: Sequence[Group], parts_P_G: Sequence[Sequence[RewardParts]], scored: bool
) -> dict[str, float]:
    """Of all answers: alpha, the mean reward and outcome, process (the mean score of the well-formed steps,
    if scored), pass_any (the share of problems with a pass), all_pass and all_fail (such problems), steps
    (a well-formed answer), complete (the share with all three actions), malformed, overrun (the share that
    go on after their path's end), answer_tokens, finish_length (the share cut by length), samples,
    generated_tokens, false_accept (of programs audited)."""
    answers = [answer for group in groups for answer in group]
    parts = [part for group in parts_P_G for part in group]
    passes_P = [[answer.rollout.reward > 0 for answer in group] for group in groups]
    formed = [answer for answer in answers if answer.rollout.verdict is not None]
    lengths = [len(answer.rollout.token_ids) for answer in answers]
    figures = {
        "alpha": parts[0].alpha,
        "reward": mean([part.total for part in parts]),
        "outcome": mean([part.outcome for part in parts]),
        "pass_any": mean([any(passes) for passes in passes_P]),
        "all_pass": sum(all(passes) for passes in passes_P),
        "all_fail": sum(not any(passes) for passes in passes_P),
        "complete": mean([len(a.actions) > 0 and is_complete(a.actions) for a in answers]),
        "malformed": 1 - len(formed) / len(answers),
        "overrun": mean([on_path(a).rollout.token_ids != a.rollout.token_ids for a in answers]),
        "answer_tokens": mean(lengths),
        "finish_length": mean([answer.rollout.finish_reason == "length" for answer in answers]),
        "samples": len(answers),
        "generated_tokens": sum(lengths),
    }
    scores = [s for a in answers for s, action in zip(a.scores, a.actions, strict=True) if action]
    audited = [answer.false_accept for answer in answers if answer.false_accept is not None]
    sometimes = {"process": scores if scored else [], "false_accept": audited}
    sometimes["steps"] = [len(answer.actions) for answer in formed]
    return figures | {name: mean(values) for name, values in sometimes.items() if values}


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def examples_of(lesson: Lesson, settings: Settings) -> list[Example]:
    """The kept answers with their advantages, by any `advantage` but gae."""
    return [
        encode_rollout(answer.rollout, values_T)
        for group in lesson.kept
        for answer, values_T in taught(group, settings, lesson.t)
    ]


def answers_of(group: Group, settings: Settings, t: int) -> list[Answer]:
    """The answers of a kept group that are trained on; all by `gae`, which fits their values too."""
    if settings.advantage == "gae":
        return list(group)
    return [answer for answer, _ in taught(group, settings, t)]


def taught(group: Group, settings: Settings, t: int) -> list[tuple[Answer, np.ndarray]]:
    """The answers of a kept group that are trained on, with their advantages_T: all, or where no negative
    advantage counts those that have a positive one."""
    pairs = list(zip(group, advantages_of(group, settings, t), strict=True))
    return [pair for pair in pairs if settings.negative_weight or pair[1].any()]


def advantages_of(group: Group, settings: Settings, t: int) -> list[np.ndarray]:
    """One advantages_T, a token's each, for every answer of a group."""
    if settings.advantage in OF_ANSWERS:
        totals_G = [reward_of(answer, settings, t).total for answer in group]
        values_G = advantages.tempered(OF_ANSWERS[settings.advantage](totals_G), settings.negative_weight)
        return [np.full(len(a.rollout.token_ids), v) for a, v in zip(group, values_G, strict=True)]
    steps_G = OF_STEPS[settings.advantage]([step_rewards_of(answer, settings, t) for answer in group])
    tempered_G = [advantages.tempered(values_M, settings.negative_weight) for values_M in steps_G]
    return [on_tokens(answer, values_M) for answer, values_M in zip(group, tempered_G, strict=True)]


def on_tokens(answer: Answer, values_M: np.ndarray) -> np.ndarray:
    """values_T: a step's value at each of its tokens."""
    return np.repeat(values_M, np.diff([0, *answer.step_ends]))


def gae_examples_of(lesson: Lesson, settings: Settings, values: Sequence[np.ndarray]) -> list[Example]:
    """The kept answers with their advantages by `gae`, and the columns value_target and value_weight at the
    first token of every step. `values`: for each answer, the values before its steps."""
    answers = [answer for group in lesson.kept for answer in group]
    estimates = [
        advantages.gae(
            step_rewards_of(answer, settings, lesson.t), values_M, settings.gae_gamma, settings.gae_lambda
        )
        for answer, values_M in zip(answers, values, strict=True)
    ]
    advantages_M = [estimate.advantages_M for estimate in estimates]
    if settings.whiten:
        advantages_M = advantages.whiten(advantages_M)
    examples = []
    for answer, estimate, values_M in zip(answers, estimates, advantages_M, strict=True):
        targets_T, weights_T = np.zeros((2, len(answer.rollout.token_ids)))
        targets_T[step_starts(answer)], weights_T[step_starts(answer)] = estimate.returns_M, 1.0
        columns = {"value_target": targets_T, "value_weight": weights_T}
        values_T = on_tokens(answer, advantages.tempered(values_M, settings.negative_weight))
        examples.append(encode_rollout(answer.rollout, values_T, columns=columns))
    return examples


def step_starts(answer: Answer) -> list[int]:
    """The index in token_ids of every step's first token."""
    return [0, *answer.step_ends[:-1]]
