"""The settings of policy_rl, and what is refused before anything runs.

Holds no state and reads no files.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Mapping
from typing import Annotated, Literal

from etils import epath
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from o1jax.policy.found import BOTH, ReferencePrompts, found_directories
from o1jax.records import InputError
from o1jax.rewards.phi import Reward
from o1jax.rl.objective import PolicyGradient
from o1jax.search.sampling import SampleSettings, refuse_lenient
from o1jax.stages.training import TrainSettings
from o1jax.stages.workers import EngineSettings

Advantage = Literal[
    "group_mean",
    "group_normalized",
    "leave_one_out",
    "step_group_mean",
    "step_group_normalized",
    "progress",
    "gae",
]
KeepGroups = Literal["outcome", "fails", "reward"]
OF_STEPS = ("step_group_mean", "step_group_normalized", "progress", "gae")
NOT_IN_IDENTITY = ("checkpoint_every", "checkpoint_every_s")  # they decide no curve


@dataclasses.dataclass(frozen=True)
class Replay:
    """What an update trains on beside its own answers: some of the paths that passed in the inputs found_<k>,
    and of the references."""

    examples: NonNegativeInt = 0  # drawn for every update; 0: none, and no such input
    weight: NonNegativeFloat = 0.1  # of their negative log-likelihood (PolicyGradient.replay_weight)
    max_per_problem: NonNegativeInt = 2  # passing paths, so that easy problems do not drown the rest
    variants: NonNegativeInt = 1  # of each reference: its first reasoning chains, and as many direct programs
    prompts: ReferencePrompts = BOTH  # that references are replayed under


@dataclasses.dataclass(frozen=True)
class Average:
    """Which weights are saved as the policy: the last ones, or a mean over updates, which has less of the
    last updates' noise. Answers are always sampled by the last ones."""

    # "tail": the plain mean after each of the last updates; "ema": an exponential moving average
    kind: Literal["none", "tail", "ema"] = "none"
    tail: Annotated[float, Field(gt=0, le=1)] = 0.5  # the share of the run that the mean is over
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9  # ema: what an update leaves of the average

    def step(self, averaged: int, position: float) -> tuple[float, int]:
        """How far the average goes towards the newest weights (1 makes it them), and how many updates'
        weights it is then made of. `averaged`: of how many it was; `position`: the share of the run done."""
        if self.kind == "tail" and position <= 1 - self.tail:
            return 1.0, 0
        least = 1 - self.decay if self.kind == "ema" else 0.0
        # At first an ema is a plain mean too, or it would be mostly the weights of the beginning.
        return max(least, 1 / (averaged + 1)), averaged + 1


@dataclasses.dataclass(frozen=True)
class Settings:
    """The updates of policy_rl. A run ends after `updates`, or after the update that reaches
    `generated_tokens` or `trained_tokens`, whichever is first; the learning rate follows what is nearest to
    its end."""

    updates: PositiveInt
    # Their answers (of each sample.n) are shared out over all processes, and decide nothing else about the
    # update. So that each has work, and fills its engine: more with more processes.
    problems_per_update: PositiveInt = 16
    # in epochs, or those first about whose outcome least is known to be sure
    draw: Literal["uniform", "by_difficulty"] = "uniform"
    sample: SampleSettings = SampleSettings(temperature=1.0, top_p=1.0, top_k=0)  # sample.n answers a problem
    max_samples: NonNegativeInt = 0  # while none passed, sample.n more, up to so many (0: no more)
    # An answer is cut after so many times the tokens of the longest that has passed in an earlier update of
    # the run (0, or none has: at sample.max_tokens). All wait for the longest answer of an update, mostly one
    # that turns in circles. One that is cut has failed; their share is the figure finish_length.
    cut_after: Annotated[float, Field(ge=0)] = 0.0
    engine: EngineSettings = EngineSettings()
    scorer_slots: PositiveInt = 16  # paths in one forward pass of the process reward model
    reward: Reward = Reward()  # phi: of the outcome and the process reward model's scores
    # losses/advantages.py. Those of a reward compare phi, a scalar, or its parts at the steps. "progress" is
    # alpha (R - the group's mean R) on every token, and (1 - alpha) (V_j - V_{j-1}) on those of step j, of
    # the process reward model's scores V and, after the last step, R. gae takes its values from the policy's
    # own score head: it needs loss.value_weight.
    advantage: Advantage = "group_mean"
    gae_gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95
    whiten: bool = False  # gae: scales an update's advantages
    negative_weight: NonNegativeFloat = 1.0  # of advantages below 0; at 0 such answers are not trained on
    # Kept are the groups whose answers differ in outcome; with "fails" also those that all fail and differ in
    # their process term, with "reward" any that differ in reward. gae keeps all, for it compares an answer
    # with its value. By default only outcomes count: of groups in which nothing passes the reward model alone
    # says what is better, and a normalized advantage makes as much of its noise as of a pass. Where it ranks
    # well within a problem, "fails" is the only signal that hard problems give. Of groups that all pass it
    # can only tell taste.
    keep_groups: KeepGroups = "outcome"
    loss: PolicyGradient = PolicyGradient()  # temperature, score tokens and replay_weight are filled in
    replay: Replay = Replay()
    epochs: PositiveInt = 1  # times that an update's answers are trained on
    # Optimizer steps of an epoch, each on a part of the answers, and of the replayed examples, that no other
    # one has. Few answers make fewer.
    minibatches: PositiveInt = 1
    average: Average = Average()
    train: TrainSettings = TrainSettings(
        row_length=384,
        rows_per_batch=8,
        learning_rate=3e-4,
        schedule="constant",
        warmup_steps=0,
        weight_decay=0.0,
    )
    first_update: NonNegativeInt = 0  # the updates of earlier rounds, by which alpha and seeds go on
    # 1: an update's answers are sampled with the weights before the last update, while that one trains
    max_staleness: Literal[0, 1] = 0  # more would overlap nothing else, and only make answers older
    generated_tokens: NonNegativeInt = 0  # 0: no limit
    trained_tokens: NonNegativeInt = 0  # 0: no limit
    checkpoint_every: NonNegativeInt = 10  # updates (0: by the clock alone)
    checkpoint_every_s: NonNegativeFloat = 120.0  # seconds (0: by updates alone)

    @property
    def has_steps(self) -> bool:
        """Whether answers are read as steps: those to the pseudocode prompt."""
        return self.sample.prompt == "pseudocode"

    @property
    def needs_proximal(self) -> bool:
        """Whether the policy moves away from the one that is compared with: the column `old`."""
        return self.steps_per_update > 1 or self.max_staleness > 0

    def longest(self, passed: int) -> int:
        """The tokens that an answer may have, when the longest that has passed had `passed` (0: none has)."""
        most = self.sample.max_tokens
        return min(most, math.ceil(self.cut_after * passed)) if self.cut_after and passed else most

    @property
    def steps_per_update(self) -> int:
        """Optimizer steps, at most."""
        return self.epochs * self.minibatches


def check(settings: Settings, inputs: Mapping[str, epath.Path], n_problems: int) -> None:
    """InputError, with the value seen and the one wanted, for settings that ask for what cannot be."""
    refused = functools.partial(_refusal, settings)
    if settings.problems_per_update > n_problems:
        raise refused("problems_per_update", f"at most all {n_problems}")
    if settings.max_staleness and not settings.loss.importance_cap:
        raise refused(
            "loss.importance_cap", "more than 0 with max_staleness: an older policy sampled the answers"
        )
    if settings.max_samples and settings.max_samples < settings.sample.n:
        raise refused("max_samples", f"0, or at least sample.n ({settings.sample.n})")
    if 0 < settings.cut_after < 1:
        raise refused("cut_after", "0, or at least 1: an answer as long as one that passed is not cut")
    # An answer fills up to engine.context tokens, its prompt included, and lies whole in one row.
    if settings.train.row_length < settings.engine.context:
        raise refused("train.row_length", f"at least engine.context ({settings.engine.context})")
    if settings.train.micro_batches != 1:
        wanted = "1: an update has as many micro-batches, of train.rows_per_batch rows, as its answers fill"
        raise refused("train.micro_batches", wanted)
    # Either without the other is a page that says something else than it does.
    replays = "references" in inputs or bool(found_directories(inputs))
    if replays != (settings.replay.examples > 0):
        wanted = "a number with references or found_<k>" if replays else "0 without references and found_<k>"
        raise refused("replay.examples", wanted)
    # The sampler's distribution must be the one that the trainer differentiates.
    for name, seen, neutral in (("top_p", settings.sample.top_p, 1), ("top_k", settings.sample.top_k, 0)):
        if seen != neutral:
            raise refused(f"sample.{name}", f"{neutral}: the trainer's log-probs know no {name}")
    if settings.sample.temperature <= 0:
        raise refused("sample.temperature", "more than 0: greedy answers are all alike")
    refuse_lenient(settings.sample, "policy_rl.sample")
    _check_rewards(settings, inputs)


def _check_rewards(settings: Settings, inputs: Mapping[str, epath.Path]) -> None:
    refused, advantage = functools.partial(_refusal, settings), settings.advantage
    if settings.reward.needs_scores and "prm" not in inputs:
        raise refused("reward.alpha", "an input prm, or constant 1.0 for the outcome alone")
    if advantage == "progress" and not settings.reward.needs_scores:
        raise refused("reward.alpha", "below 1 with advantage 'progress', or its steps' values never count")
    # A group baseline is made of the other answers; gae's is a value.
    if advantage != "gae" and settings.sample.n < 2:
        raise refused("sample.n", f"at least 2 answers to compare ({advantage})")
    if (advantage == "gae") != (settings.loss.value_weight > 0):
        wanted = f"more than 0 with advantage 'gae', else 0 (saw {advantage!r})"
        raise refused("loss.value_weight", wanted)
    if settings.whiten and advantage != "gae":
        raise refused("whiten", f"False: {advantage!r} compares within a problem already")
    # Answers to the other prompts are programs without steps: nothing to score or to give an advantage to.
    if not settings.has_steps and ("prm" in inputs or advantage in OF_STEPS):
        raise refused("sample.prompt", "'pseudocode' with a prm or an advantage of steps")


def _refusal(settings: Settings, name: str, wanted: str) -> InputError:
    seen = operator.attrgetter(name)(settings)
    return InputError(f"policy_rl.{name}: saw {seen!r}, wanted {wanted}")
