"""Where an RL run stands, what makes it this run and not another, and its figures, an update's and the run's.

Plain numbers, that go into a checkpoint's meta, the log and the manifest as JSON. Pure numpy.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from o1jax.parallel.seeds import stable_hash
from o1jax.records import Problem
from o1jax.rewards.phi import RewardParts, is_complete
from o1jax.rl.examples import Group, on_path
from o1jax.rl.settings import NOT_IN_IDENTITY, Settings
from o1jax.writing import read_growing

FEWEST = 10  # rows of a trend: of fewer, nothing is said
COLLAPSED = 0.2  # entropy at the end, as a share of that at the beginning
MISMATCH = 0.01  # nats a token between engine and trainer: float32 gives less than 1e-4
NORMAL_95 = 1.96
WATCHED = ("entropy", "sampler_difference", "push_difference", "steps", "complete", "false_accept")

Rows = Sequence[Mapping[str, float]]  # of metrics.jsonl, one an update


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands; saved with every checkpoint."""

    updates: int = 0  # finished ones of this run
    generated_tokens: int = 0  # by all answers so far
    trained_tokens: int = 0  # prompts and replayed examples included, over all epochs
    history: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)  # draw.History
    averaged: int = 0  # updates whose weights are in the average
    longest_pass: int = 0  # tokens of the longest answer that has passed

    def is_done(self, settings: Settings) -> bool:
        """Whether the update that was the last has been."""
        return self.position(settings) >= settings.updates

    def position(self, settings: Settings) -> float:
        """The updates so far, or, where a limit of tokens is nearer, as large a share of all updates."""
        limits = (
            (self.generated_tokens, settings.generated_tokens),
            (self.trained_tokens, settings.trained_tokens),
        )
        shares = [tokens / limit for tokens, limit in limits if limit]
        return max([self.updates, *(share * settings.updates for share in shares)])

    def after(self, groups: Sequence[Group], trained_tokens: int) -> Progress:
        """The progress after an update of these answers that trains on so many tokens."""
        history, answers = dict(self.history), [answer for group in groups for answer in group]
        for answer in answers:
            samples, passes = history.get(answer.rollout.problem_id, (0, 0))
            history[answer.rollout.problem_id] = (samples + 1, passes + (answer.rollout.reward > 0))
        lengths = [(len(answer.rollout.token_ids), answer.rollout.reward > 0) for answer in answers]
        return Progress(
            self.updates + 1,
            self.generated_tokens + sum(length for length, _ in lengths),
            self.trained_tokens + trained_tokens,
            history,
            self.averaged,
            max([self.longest_pass, *(length for length, passed in lengths if passed)]),
        )


def identity_of(settings: Settings, problems: Sequence[Problem], seed: int) -> dict[str, Any]:
    """Everything that decides the curve, as JSON: a checkpoint is resumed only under the same."""
    decisive = {k: v for k, v in dataclasses.asdict(settings).items() if k not in NOT_IN_IDENTITY}
    problems_hash = f"{stable_hash(repr(list(problems))):016x}"
    # Through JSON, for it is compared with what comes out of a checkpoint: tuples are lists there.
    return json.loads(json.dumps({**decisive, "seed": seed, "problems": problems_hash}))


def reward_figures(
    groups: Sequence[Group], rewards_P_G: Sequence[Sequence[RewardParts]], kept: int, *, scored: bool
) -> dict[str, float]:
    """Figures of all answers. process: the mean score of the well-formed steps, if a process reward model
    `scored` them; pass_any: the share of problems with a pass; steps: of a well-formed answer; complete: the
    share with all three actions; overrun: the share that go on after their path's end; longest_answer: in
    tokens; finish_length: the share cut by length; false_accept: of programs audited. `kept`: how many groups
    are trained on."""
    answers = [answer for group in groups for answer in group]
    rewards = [parts for group in rewards_P_G for parts in group]
    passes_P = [[answer.rollout.reward > 0 for answer in group] for group in groups]
    formed = [answer for answer in answers if answer.rollout.verdict is not None]
    lengths = [len(answer.rollout.token_ids) for answer in answers]
    figures = {
        "alpha": rewards[0].alpha,
        "reward": mean([parts.total for parts in rewards]),
        "outcome": mean([parts.outcome for parts in rewards]),
        "pass_any": mean([any(passes) for passes in passes_P]),
        "all_pass": sum(all(passes) for passes in passes_P),
        "all_fail": sum(not any(passes) for passes in passes_P),
        "complete": mean([len(a.actions) > 0 and is_complete(a.actions) for a in answers]),
        "malformed": 1 - len(formed) / len(answers),
        "overrun": mean([on_path(a).rollout.token_ids != a.rollout.token_ids for a in answers]),
        "answer_tokens": mean(lengths),
        "longest_answer": max(lengths),
        "finish_length": mean([answer.rollout.finish_reason == "length" for answer in answers]),
        "samples": len(answers),
        "generated_tokens": sum(lengths),
        "groups_kept": kept,
        "groups_dropped": len(groups) - kept,
    }
    # A malformed step, action 0, has no score; and the mean of nothing would be a figure that was not seen.
    scores = [s for a in answers for s, action in zip(a.scores, a.actions, strict=True) if action]
    audited = [answer.false_accept for answer in answers if answer.false_accept is not None]
    sometimes = {"process": scores if scored else [], "false_accept": audited}
    sometimes["steps"] = [len(answer.actions) for answer in formed]
    return figures | {name: mean(values) for name, values in sometimes.items() if values}


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def read_rows(path: epath.Path) -> Rows:
    """The rows of a metrics.jsonl."""
    return [json.loads(line) for line in read_growing(path).splitlines()]


def figures_of(rows: Rows, settings: Settings) -> dict[str, Any]:
    """The stage's figures: sums over the updates, means of their first and last tenth, watchers and flags.
    A pure function of the run: nothing that a clock measured."""
    rewards = {name: ends(column(rows, name)) for name in ("outcome", "process")}
    totals = ("generated_tokens", "trained_tokens", "groups_kept", "groups_dropped")
    return {
        "updates": len(rows),
        "first_update": settings.first_update,
        "next_update": settings.first_update + len(rows),
        **{name: int(column(rows, name).sum()) for name in totals},
        "updates_without_signal": sum("loss" not in row for row in rows),
        **{f"{end}_{name}": rewards[name][k] for name in rewards for k, end in enumerate(("first", "last"))},
        "watch": watch(rows),
        "flags": flags(rows),
    }


def timings_of(rows: Rows) -> dict[str, float]:
    """Seconds over all of the run's processes, and trained tokens a second of training."""
    sampling, training = (float(column(rows, f"{name}_seconds").sum()) for name in ("sampling", "training"))
    return {
        "sampling_seconds": round(sampling, 2),
        "training_seconds": round(training, 2),
        "tokens_per_second": round(column(rows, "trained_tokens").sum() / max(training, 1e-9)),
    }


def watch(rows: Rows) -> dict[str, dict[str, float]]:
    """Name -> {first, last}, the means of the first and of the last tenth, of each of WATCHED that was seen:
    without an audit there is no false_accept, and without an update that trained no entropy. (The outcome
    and the process score are figures of their own.)"""
    columns = {name: column(rows, name) for name in WATCHED}
    seen = {name: ends(values_N) for name, values_N in columns.items() if len(values_N)}
    return {name: {"first": first, "last": last} for name, (first, last) in seen.items()}


def flags(rows: Rows) -> dict[str, bool]:
    """reward_hacking: the steps' scores, which the reward counts (alpha below 1), rise over the updates and
    the outcome does not. entropy_collapse: in the last tenth of the updates it is below COLLAPSED of what it
    was in the first. sampler_mismatch: where the sampler's weights were the trainer's, their log-probs
    differ by more than MISMATCH on the mean."""
    counted = [row for row in rows if "process" in row and row["alpha"] < 1]
    first, last = ends(column(rows, "entropy"))
    # By stale weights the two differ because the policy has moved on, which is no fault of the engine.
    differences = column([row for row in rows if row["staleness"] == 0], "sampler_difference")
    return {
        "reward_hacking": rises(column(counted, "process")) and not rises(column(counted, "outcome")),
        "entropy_collapse": first is not None and last < COLLAPSED * first,
        "sampler_mismatch": len(differences) > 0 and float(differences.mean()) > MISMATCH,
    }


def column(rows: Rows, name: str) -> np.ndarray:
    """The values of the rows that have one."""
    return np.array([row[name] for row in rows if name in row], np.float64)


def ends(values_N: np.ndarray) -> tuple[float | None, float | None]:
    """The means of the first and of the last tenth; None of nothing."""
    if not len(values_N):
        return None, None
    tenth = max(1, len(values_N) // 10)
    return float(values_N[:tenth].mean()), float(values_N[-tenth:].mean())


def rises(values_N: np.ndarray) -> bool:
    """Whether the least-squares slope over the index lies above 0 with its 95 % interval."""
    if len(values_N) < FEWEST:
        return False
    x_N = np.arange(len(values_N)) - (len(values_N) - 1) / 2
    slope = (x_N * values_N).sum() / (x_N**2).sum()
    residuals_N = values_N - values_N.mean() - slope * x_N
    error = np.sqrt((residuals_N**2).sum() / (len(values_N) - 2) / (x_N**2).sum())
    return bool(slope > NORMAL_95 * error)
