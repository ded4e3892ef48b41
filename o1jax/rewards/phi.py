"""The reward of RL: the outcome and the steps' scores in one number, phi, and the schedule of their weight.

O1-CODER (arXiv 2412.00154) rewards an answer of m steps by

    phi = alpha R + (1 - alpha) (1/m) sum_{j=1..m} gamma^j r_j

and lets alpha fall during training. Departures, each a setting (D7):
  - At gamma < 1 that process term prefers short chains: at gamma = .9 perfect steps are worth .90 at m = 1
    and .59 at m = 10. So it counts only where all three actions are there, in order (`guard`).
  - Other forms stand beside the paper's: the lowest score, the last step's, and at gamma = 1 the plain mean.
  - alpha stays at .5 or above, where the paper lets it fall to .1: the outcome keeps half.

Runs no program (outcome.py), scores no step (engine/step_scorer.py), and knows no other samples of the
problem (losses/advantages.py).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from o1jax.records import ACTIONS, InputError
from o1jax.rewards.outcome import Outcome

Share = Annotated[float, Field(ge=0, le=1)]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """alpha, the outcome's weight, as a function of t: the global update, counted over all rounds from 0."""

    kind: Literal["constant", "linear", "logarithmic"] = "linear"  # start; less rate t; less rate ln(1 + t)
    start: Share = 1.0  # at t = 0; the paper's
    floor: Share = 0.5  # what a falling alpha never falls below; the paper's is .1
    rate: Share = 0.01  # an update; the paper's

    def __post_init__(self):
        if self.kind != "constant" and self.floor > self.start:
            raise InputError(f"alpha.floor: saw {self.floor}, wanted at most alpha.start, {self.start}")

    def at(self, t: int) -> float:
        """alpha in [0, 1] at update t. ValueError for t < 0."""
        if t < 0:
            raise ValueError(f"update {t}: alpha is counted from update 0")
        if self.kind == "constant":
            return self.start
        fallen = self.rate * (t if self.kind == "linear" else math.log1p(t))
        return max(self.floor, self.start - fallen)

    @property
    def lowest(self) -> float:
        """What alpha never falls below."""
        return self.start if self.kind == "constant" or self.rate == 0 else self.floor


class RewardParts(NamedTuple):
    """What a reward is made of; all in [0, 1]."""

    total: float  # alpha * outcome + (1 - alpha) * process
    outcome: float  # R
    process: float  # the process term, not yet weighted
    alpha: float


@dataclasses.dataclass(frozen=True)
class Reward:
    """How an answer is rewarded."""

    form: Literal["paper", "min", "last"] = (
        "paper"  # the scores' discounted mean, the lowest, the last step's
    )
    gamma: Share = 0.9  # the discount of form "paper"; 1 is the plain mean
    alpha: Schedule = dataclasses.field(default_factory=Schedule)
    outcome: Outcome = "all"  # R is 1 only if all tests pass, or the fraction that does
    guard: bool = True  # no process term for an answer that is not is_complete

    @property
    def needs_scores(self) -> bool:
        """Whether the steps' scores ever count: False if alpha is always 1."""
        return self.alpha.lowest < 1.0

    def of(self, outcome: float, scores: Sequence[float], actions: Sequence[int], t: int) -> RewardParts:
        """The reward at update t of an answer whose well-formed steps have these scores and actions.

        An answer without a step has no process term. ValueError for an outcome or a score outside [0, 1],
        and for other than one score an action.
        """
        check_in_range("outcome", [outcome])
        alpha, process = self.alpha.at(t), self.process_term(scores, actions)
        return RewardParts(alpha * outcome + (1.0 - alpha) * process, outcome, process, alpha)

    def process_term(self, scores: Sequence[float], actions: Sequence[int]) -> float:
        """The process term in [0, 1], not yet weighted. Raises as `of`."""
        if len(scores) != len(actions):
            raise ValueError(f"{len(scores)} scores for {len(actions)} actions; there must be one a step")
        check_in_range("scores", scores)
        if not self._counts(actions):
            return 0.0
        if self.form == "min":
            return smallest(scores)
        return last_step(scores) if self.form == "last" else mean_discounted(scores, self.gamma)

    def step_rewards_of(
        self, outcome: float, scores: Sequence[float], actions: Sequence[int], t: int
    ) -> np.ndarray:
        """rewards_M, float64, one a step, whose sum is the total of `of`: alpha * outcome at the last step,
        and (1 - alpha) times each step's share of the process term at that step.

        Raises as `of`, and ValueError for an outcome above 0 without a step that it could stand at.
        """
        parts = self.of(outcome, scores, actions, t)
        if len(scores) == 0 and outcome > 0:
            raise ValueError(f"outcome {outcome} of an answer without steps; wanted at least its last one")
        rewards_M = (1.0 - parts.alpha) * self._shares(scores, actions)
        # The outcome is known once the program has run, so it is nobody's but the last step's; what earlier
        # steps are worth of it is for the advantage to say (losses/advantages.py).
        rewards_M[-1:] += parts.alpha * outcome
        return rewards_M

    def _counts(self, actions: Sequence[int]) -> bool:
        # Without the guard the shortest answer wins: a lone program has one step, and nothing to discount.
        return len(actions) > 0 and (not self.guard or is_complete(actions))

    def _shares(self, scores: Sequence[float], actions: Sequence[int]) -> np.ndarray:
        """gamma^j r_j / m ("paper"), equal shares ("min"), or all at the last step ("last")."""
        shares_M = np.zeros(len(scores))
        if not self._counts(actions):
            return shares_M
        if self.form == "paper":
            return discounted(scores, self.gamma) / len(scores)
        if self.form == "min":
            # Equal, not all at the lowest: credit there would say that the worst step earned the reward.
            return shares_M + smallest(scores) / len(scores)
        shares_M[-1] = last_step(scores)
        return shares_M


def mean_discounted(step_rewards: Sequence[float], gamma: float) -> float:
    """(1/m) sum_{j=1..m} gamma^j r_j: the paper's process term, the plain mean at gamma = 1.

    ValueError without steps, as smallest and last_step.
    """
    check_some(step_rewards)
    return float(discounted(step_rewards, gamma).mean())


def smallest(step_rewards: Sequence[float]) -> float:
    """min_j r_j: a chain is as good as its worst step (Lightman et al., arXiv 2305.20050, appendix)."""
    check_some(step_rewards)
    return float(min(step_rewards))


def last_step(step_rewards: Sequence[float]) -> float:
    """r_m: what the scorer says of the whole answer."""
    check_some(step_rewards)
    return float(step_rewards[-1])


def discounted(step_rewards: Sequence[float], gamma: float) -> np.ndarray:
    """gamma^j r_j for j = 1 to m, float64."""
    # From gamma^1, as the paper's equation has it; its published code begins with gamma^0.
    rewards_M = np.asarray(step_rewards, np.float64)
    return gamma ** np.arange(1, len(rewards_M) + 1) * rewards_M


def is_complete(actions: Sequence[int]) -> bool:
    """Whether the actions are 1 (once or more), 2 (once or more), then a single 3."""
    return list(actions) == sorted(actions) and set(actions) == set(ACTIONS) and actions[-2] != ACTIONS[-1]


def check_in_range(name: str, values: Sequence[float]) -> None:
    """ValueError for a value that is not a number in [0, 1]."""
    if not all(0.0 <= value <= 1.0 for value in values):
        raise ValueError(f"{name} {list(values)}: rewards are made of numbers in [0, 1]")


def check_some(step_rewards: Sequence[float]) -> None:
    """ValueError without steps."""
    if len(step_rewards) == 0:
        raise ValueError("no steps: a process term needs at least one")
