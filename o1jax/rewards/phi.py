"""The reward of RL: the outcome and the steps' scores in one number, phi, and the schedule of their weight.

O1-CODER (arXiv 2412.00154) rewards an answer of m steps by phi = alpha R + (1 - alpha) (1/m) sum_{j=1..m}
gamma^j r_j, and lets alpha fall during training. At gamma < 1 that process term prefers short chains:
perfect steps are worth .90 at m = 1 and .59 at m = 10 (gamma = .9). So it counts only where all three
actions are there, in order, and other forms stand beside it. Runs no program (outcome.py), scores no step
(process.py), and knows no other samples of the problem (losses/advantages.py).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from o1jax.records import ACTIONS, InputError
from o1jax.rewards.outcome import Outcome

Kind = Literal["constant", "linear", "logarithmic"]
Form = Literal["paper", "min", "last"]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """alpha as a function of t, the global update counted over all rounds from 0.

    constant: start. linear: start - rate t. logarithmic: start - rate ln(1 + t). The last two never
    fall below the floor. The paper's: linear from 1.0 down by .01 to .1; here the outcome keeps half.
    """

    kind: Kind = "linear"
    start: float = 1.0
    floor: float = 0.5
    rate: float = 0.01

    def __post_init__(self):
        check_known("alpha.kind", self.kind, get_args(Kind))
        check_shares({"alpha.start": self.start, "alpha.floor": self.floor, "alpha.rate": self.rate})
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
    """total = alpha * outcome + (1 - alpha) * process; all in [0, 1]."""

    total: float
    outcome: float
    process: float
    alpha: float


@dataclasses.dataclass(frozen=True)
class Reward:
    """How an answer is rewarded.

    `form` of the process term: the paper's discounted mean of the steps' scores ("paper"; the plain mean at
    gamma = 1), the lowest score ("min") or the last step's ("last"). `outcome`: 1 if "all" tests pass, else
    0, or the "fraction" that passes. `guard`: no process term for an answer that is not is_complete.
    """

    form: Form = "paper"
    gamma: float = 0.9
    alpha: Schedule = dataclasses.field(default_factory=Schedule)
    outcome: Outcome = "all"
    guard: bool = True

    def __post_init__(self):
        check_known("reward.form", self.form, get_args(Form))
        check_known("reward.outcome", self.outcome, get_args(Outcome))
        check_shares({"reward.gamma": self.gamma})

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
        return RewardParts(weigh(outcome, process, alpha), outcome, process, alpha)

    def process_term(self, scores: Sequence[float], actions: Sequence[int]) -> float:
        """The process term in [0, 1], not yet weighted. Raises as `of`."""
        check_steps(scores, actions)
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

        The shares: gamma^j r_j / m ("paper"), equal ones ("min"), all at the last step ("last"). Raises as
        `of`, and ValueError for an outcome above 0 without a step that it could stand at.
        """
        parts = self.of(outcome, scores, actions, t)
        if len(scores) == 0 and outcome > 0:
            raise ValueError(f"outcome {outcome} of an answer without steps; wanted at least its last one")
        rewards_M = (1.0 - parts.alpha) * self._shares(scores, actions)
        rewards_M[-1:] += parts.alpha * outcome
        return rewards_M

    def _counts(self, actions: Sequence[int]) -> bool:
        return len(actions) > 0 and (not self.guard or is_complete(actions))

    def _shares(self, scores: Sequence[float], actions: Sequence[int]) -> np.ndarray:
        shares_M = np.zeros(len(scores))
        if not self._counts(actions):
            return shares_M
        if self.form == "paper":
            return discounted(scores, self.gamma) / len(scores)
        if self.form == "min":
            return shares_M + smallest(scores) / len(scores)
        shares_M[-1] = last_step(scores)
        return shares_M


def phi(outcome: float, step_rewards: Sequence[float], alpha: float, gamma: float) -> float:
    """alpha R + (1 - alpha) (1/m) sum_{j=1..m} gamma^j r_j, the paper's equation; no guard."""
    return weigh(outcome, mean_discounted(step_rewards, gamma), alpha)


def weigh(outcome: float, process: float, alpha: float) -> float:
    """alpha * outcome + (1 - alpha) * process."""
    return alpha * outcome + (1.0 - alpha) * process


def mean_discounted(step_rewards: Sequence[float], gamma: float) -> float:
    """(1/m) sum_{j=1..m} gamma^j r_j: the paper's process term, the plain mean at gamma = 1.

    Their code has gamma^0 to gamma^(m-1). ValueError without steps, as smallest and last_step.
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
    rewards_M = np.asarray(step_rewards, np.float64)
    return gamma ** np.arange(1, len(rewards_M) + 1) * rewards_M


def is_complete(actions: Sequence[int]) -> bool:
    """Whether the actions are 1 (once or more), 2 (once or more), then a single 3."""
    return list(actions) == sorted(actions) and set(actions) == set(ACTIONS) and actions[-2] != ACTIONS[-1]


def check_known(name: str, seen: str, wanted: Sequence[str]) -> None:
    """InputError unless a setting is one of the words there are."""
    if seen not in wanted:
        raise InputError(f"{name}: saw {seen!r}, wanted one of {', '.join(wanted)}")


def check_shares(settings: Mapping[str, float]) -> None:
    """InputError for a setting outside [0, 1]."""
    for name, seen in settings.items():
        if not 0.0 <= seen <= 1.0:
            raise InputError(f"{name}: saw {seen}, wanted 0 to 1")


def check_steps(scores: Sequence[float], actions: Sequence[int]) -> None:
    """ValueError unless there is one score in [0, 1] an action."""
    if len(scores) != len(actions):
        raise ValueError(f"{len(scores)} scores for {len(actions)} actions; there must be one a step")
    check_in_range("scores", scores)


def check_in_range(name: str, values: Sequence[float]) -> None:
    """ValueError for a value that is not a number in [0, 1]."""
    if not all(0.0 <= value <= 1.0 for value in values):
        raise ValueError(f"{name} {list(values)}: rewards are made of numbers in [0, 1]")


def check_some(step_rewards: Sequence[float]) -> None:
    """ValueError without steps."""
    if len(step_rewards) == 0:
        raise ValueError("no steps: a process term needs at least one")
