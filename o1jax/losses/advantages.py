"""Advantages of sampled answers and of their steps: one function an algorithm, numpy on the host, float64.

rewards_G are the G samples of one problem; step rewards are one array a sample, one value a step. Does
not make rewards (rewards/phi.py), spread advantages over tokens or drop groups. Every function
raises ValueError for values that are not finite: a sample without a verdict has no reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

EPS = 1e-6  # beside a standard deviation; the papers' equations have none


class Gae(NamedTuple):
    """Advantages of M steps, and the returns that a value function is fitted to: advantage + value."""

    advantages_M: np.ndarray
    returns_M: np.ndarray


def group_mean(rewards_G: ArrayLike) -> np.ndarray:
    """advantages_G: reward less the group's mean (Dr. GRPO, Liu et al. 2025, arXiv 2503.20783)."""
    rewards_G = vector(rewards_G)
    return rewards_G - rewards_G.mean()


def group_normalized(rewards_G: ArrayLike, eps: float = EPS) -> np.ndarray:
    """advantages_G: (reward - mean) / (population std + eps) of the group (GRPO, Shao et al. 2024, arXiv
    2402.03300, sec. 4.1.2). eps bounds the advantages of a group whose rewards hardly differ."""
    rewards_G = vector(rewards_G)
    return group_mean(rewards_G) / (rewards_G.std() + eps)


def leave_one_out(rewards_G: ArrayLike) -> np.ndarray:
    """advantages_G: reward less the mean of the other samples (RLOO, Ahmadian et al. 2024, arXiv
    2402.14740). ValueError for a group of one."""
    rewards_G = vector(rewards_G)
    G = len(rewards_G)
    if G < 2:
        raise ValueError(f"a group of {G} leaves no other sample; leave_one_out needs at least two")
    return group_mean(rewards_G) * G / (G - 1)


def reward_to_go(rewards_M: ArrayLike, gamma: float = 1.0) -> np.ndarray:
    """returns_M[j] = sum over k >= j of gamma^(k - j) * rewards_M[k]."""
    rewards_M = vector(rewards_M)
    returns_M = np.zeros_like(rewards_M)
    later = 0.0
    for j in reversed(range(len(rewards_M))):
        returns_M[j] = later = rewards_M[j] + gamma * later
    return returns_M


def step_group_mean(step_rewards: Sequence[ArrayLike]) -> list[np.ndarray]:
    """One advantages_M a sample: each step's reward less the mean over the group's steps of its number, then
    the reward to go within the sample. step_group_normalized without the std (Dr. GRPO's change)."""
    return [reward_to_go(deviations_M) for deviations_M in less_mean_by_number(step_rewards)]


def step_group_normalized(step_rewards: Sequence[ArrayLike], eps: float = EPS) -> list[np.ndarray]:
    """One advantages_M a sample: each step's reward less the mean over the group's steps of its number,
    divided by (population std of all these differences + eps), then the reward to go within the sample. GRPO
    with process supervision (arXiv 2402.03300, sec. 4.1.3) but for its one mean of all steps."""
    deviations_G = less_mean_by_number(step_rewards)
    # One scale for all step numbers: of the last ones there are often two, whose own would say nothing.
    std = all_entries(deviations_G).std()
    return [reward_to_go(deviations_M) / (std + eps) for deviations_M in deviations_G]


def less_mean_by_number(step_rewards: Sequence[ArrayLike]) -> list[np.ndarray]:
    """Each step's reward less the mean reward of the group's steps of the same number: first steps are
    compared with first steps. With one mean of all steps, where rewards rise along a path (an outcome stands
    at the last), longer answers would get more or less than shorter ones for their length alone."""
    steps_G = [vector(rewards) for rewards in step_rewards]
    all_entries(steps_G)  # at least one
    sums_M, counts_M = np.zeros((2, max(map(len, steps_G))))
    for rewards_M in steps_G:
        sums_M[: len(rewards_M)] += rewards_M
        counts_M[: len(rewards_M)] += 1
    return [rewards_M - (sums_M / counts_M)[: len(rewards_M)] for rewards_M in steps_G]


def progress(step_values: Sequence[ArrayLike]) -> list[np.ndarray]:
    """One advantages_M a sample: what each step adds, V_j - V_{j-1}, of values V_1 to V_M after its steps.
    V_0, before the first step, is the group's mean V_1, for a state is worth what its next steps are on the
    mean (progress of a process reward, Setlur et al. 2024, arXiv 2410.08146)."""
    values_G = [vector(values) for values in step_values]
    all_entries(values_G)  # at least one
    before = float(np.mean([values_M[0] for values_M in values_G if len(values_M)]))
    return [np.diff(values_M, prepend=before) for values_M in values_G]


def gae(rewards_M: ArrayLike, values_M: ArrayLike, gamma: float, lam: float) -> Gae:
    """Generalized advantage estimation of one sample (Schulman et al. 2015, arXiv 1506.02438, eq. 16).
    values_M[j] is the value before step j; after the last step it is 0. lam = 1 gives discounted returns less
    values, lam = 0 the one-step errors rewards_M[j] + gamma * values_M[j + 1] - values_M[j]."""
    rewards_M, values_M = vector(rewards_M), vector(values_M)
    if len(rewards_M) != len(values_M):
        raise ValueError(f"{len(rewards_M)} rewards and {len(values_M)} values; wanted one value a step")
    errors_M = rewards_M + gamma * np.append(values_M[1:], 0.0) - values_M
    advantages_M = reward_to_go(errors_M, gamma * lam)
    return Gae(advantages_M, advantages_M + values_M)


def whiten(advantages: Sequence[ArrayLike], eps: float = EPS) -> list[np.ndarray]:
    """Each array, shifted and scaled so that all entries together have mean 0 and population std 1."""
    arrays = [vector(values) for values in advantages]
    entries = all_entries(arrays)
    return [(values - entries.mean()) / (entries.std() + eps) for values in arrays]


def tempered(advantages: ArrayLike, negative_weight: float) -> np.ndarray:
    """The advantages, those below 0 times `negative_weight` (Zhu et al. 2025, arXiv 2506.01347): at 0 only
    the better answers are learned from, by as much as they are better; no answer is unlearned."""
    values = vector(advantages)
    return np.where(values < 0, negative_weight * values, values)


def is_zero_variance(rewards_G: ArrayLike, tolerance: float = 1e-9) -> bool:
    """Whether the rewards differ by at most `tolerance`: such a group teaches nothing."""
    return bool(np.ptp(vector(rewards_G)) <= tolerance)


def vector(values: ArrayLike) -> np.ndarray:
    """The values as a 1-D float64 array; ValueError for another shape, or a value that is not finite."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"values {array.tolist()}; wanted one axis of finite numbers")
    return array


def all_entries(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """All entries; ValueError if there are none."""
    if not any(map(len, arrays)):
        raise ValueError(f"{len(arrays)} samples without a step; wanted at least one step")
    return np.concatenate(arrays)
