"""From the answers of an update to what is trained on: rewards, the groups that teach, advantages a token.

Pure functions of the answers, by the settings and the update's number t; what a model must say of them (the
values of gae) comes as an argument. Trains nothing and keeps nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from o1jax.batches.encode import Example, encode_rollout
from o1jax.losses import advantages
from o1jax.rewards.outcome import outcome_of
from o1jax.rewards.phi import RewardParts
from o1jax.rl.rollouts import Answer
from o1jax.rl.settings import Settings

Group = Sequence[Answer]  # the answers to one problem

OF_ANSWERS = (advantages.group_mean, advantages.group_normalized, advantages.leave_one_out)
OF_STEPS = (advantages.step_group_mean, advantages.step_group_normalized)
BY_NAME = {function.__name__: function for function in OF_ANSWERS + OF_STEPS}


def reward_of(answer: Answer, settings: Settings, t: int) -> RewardParts:
    """phi = alpha(t) * outcome + (1 - alpha(t)) * process, and its parts (O1-CODER, sec. 3.5)."""
    outcome = outcome_of(answer.rollout.verdict, settings.reward.outcome)
    return settings.reward.of(outcome, answer.scores, answer.actions, t)


def step_rewards_of(answer: Answer, settings: Settings, t: int) -> np.ndarray:
    """rewards_M, one a step; their sum is phi."""
    outcome = outcome_of(answer.rollout.verdict, settings.reward.outcome)
    return settings.reward.step_rewards_of(outcome, answer.scores, answer.actions, t)


def groups_that_teach(
    groups: Sequence[Group], rewards_P_G: Sequence[Sequence[RewardParts]], settings: Settings
) -> list[Group]:
    """The groups whose answers differ in what they are compared by, each answer cut as `on_path`."""
    # A group of equal rewards has advantages of 0. Dropped whole, it does not enlarge the number of tokens
    # that the loss is divided by, so that the step's size does not fall as the policy gets better (DAPO,
    # arXiv 2503.14476, filters them by sampling on; here max_samples does that, within a group).
    pairs = zip(groups, rewards_P_G, strict=True)
    return [[on_path(answer) for answer in group] for group, rewards in pairs if differ(rewards, settings)]


def differ(rewards_G: Sequence[RewardParts], settings: Settings) -> bool:
    """Whether a group's answers differ in what settings.keep_groups names."""
    # gae compares an answer with its own value, not with the others; equal rewards teach that value too.
    if settings.advantage == "gae":
        return True
    outcomes_G = [parts.outcome for parts in rewards_G]
    if not advantages.is_zero_variance(outcomes_G):
        return True
    counts = settings.keep_groups == "reward" or settings.keep_groups == "fails" and not any(outcomes_G)
    return counts and not advantages.is_zero_variance([parts.total for parts in rewards_G])


def on_path(answer: Answer) -> Answer:
    """The answer without what it goes on to say after its program or a malformed step."""
    # That was not judged, and a tree drops it too: its tokens have earned neither praise nor blame.
    rollout = answer.rollout
    end = answer.step_ends[-1] if answer.step_ends else len(rollout.token_ids)
    kept = dataclasses.replace(
        rollout,
        token_ids=rollout.token_ids[:end],
        log_probs=rollout.log_probs[:end],
        is_policy_token=rollout.is_policy_token[:end],
    )
    return dataclasses.replace(answer, rollout=kept)


def examples_of(groups: Sequence[Group], settings: Settings, t: int) -> list[Example]:
    """The answers of groups that teach with their advantages, by any `advantage` but gae. Where negative
    advantages count nothing, answers without a positive one are left out."""
    pairs = [pair for group in groups for pair in zip(group, advantages_of(group, settings, t), strict=True)]
    return [
        encode_rollout(answer.rollout, advantages_T)
        for answer, advantages_T in pairs
        if settings.negative_weight or advantages_T.any()
    ]


def advantages_of(group: Group, settings: Settings, t: int) -> list[np.ndarray]:
    """One advantages_T, a token's each, for every answer of a group: its reward less the group's baseline, or
    each step's."""
    advantages_in = BY_NAME.get(settings.advantage)
    if advantages_in in OF_ANSWERS:
        totals_G = [reward_of(answer, settings, t).total for answer in group]
        values_G = advantages.tempered(advantages_in(totals_G), settings.negative_weight)
        return [np.full(len(a.rollout.token_ids), v) for a, v in zip(group, values_G, strict=True)]
    if settings.advantage == "progress":
        steps_G = progress_of(group, settings, t)
    else:
        steps_G = advantages_in([step_rewards_of(answer, settings, t) for answer in group])
    tempered_G = [advantages.tempered(values_M, settings.negative_weight) for values_M in steps_G]
    return [on_tokens(answer, values_M) for answer, values_M in zip(group, tempered_G, strict=True)]


def progress_of(group: Group, settings: Settings, t: int) -> list[np.ndarray]:
    """advantages_M of every answer of a group: alpha (R - mean R) + (1 - alpha) (V_j - V_{j-1}), where V_j is
    the step's score and, after the last step, R."""
    rewards_G = [reward_of(answer, settings, t) for answer in group]
    whole_G = advantages.group_mean([parts.outcome for parts in rewards_G])
    # The sum over an answer's steps is R less what was expected: no step earns by there being more of them.
    values_G = [[*a.scores[:-1], parts.outcome] for a, parts in zip(group, rewards_G, strict=True)]
    steps_G, alpha = advantages.progress(values_G), rewards_G[0].alpha
    return [alpha * whole + (1 - alpha) * steps_M for whole, steps_M in zip(whole_G, steps_G, strict=True)]


def gae_examples_of(
    groups: Sequence[Group], settings: Settings, t: int, values: Sequence[np.ndarray]
) -> list[Example]:
    """All answers with their advantages by gae, and the columns value_target and value_weight at the first
    token of every step. `values`: for each answer, the values before its steps."""
    answers = [answer for group in groups for answer in group]
    rewards = [step_rewards_of(answer, settings, t) for answer in answers]
    estimates = [
        advantages.gae(rewards_M, values_M, settings.gae_gamma, settings.gae_lambda)
        for rewards_M, values_M in zip(rewards, values, strict=True)
    ]
    advantages_M = [estimate.advantages_M for estimate in estimates]
    if settings.whiten:
        advantages_M = advantages.whiten(advantages_M)
    examples = []
    for answer, estimate, values_M in zip(answers, estimates, advantages_M, strict=True):
        targets_T, weights_T = np.zeros((2, len(answer.rollout.token_ids)))
        targets_T[step_starts(answer)], weights_T[step_starts(answer)] = estimate.returns_M, 1.0
        columns = {"value_target": targets_T, "value_weight": weights_T}
        # Unlike the group baselines' an answer without a positive advantage stays: its values are fitted.
        values_T = on_tokens(answer, advantages.tempered(values_M, settings.negative_weight))
        examples.append(encode_rollout(answer.rollout, values_T, columns=columns))
    return examples


def on_tokens(answer: Answer, values_M: np.ndarray) -> np.ndarray:
    """values_T: a step's value at each of its tokens."""
    return np.repeat(values_M, np.diff([0, *answer.step_ends]))


def step_starts(answer: Answer) -> list[int]:
    """The index in token_ids of every step's first token."""
    return [0, *answer.step_ends[:-1]]
