"""The settings of policy_rl, and what is refused before anything runs.

Holds no state and reads no files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from etils import epath

from o1jax.model.lora import LoraSettings
from o1jax.policy.found import places_of
from o1jax.records import InputError
from o1jax.rewards.phi import Reward
from o1jax.rl.objective import PolicyGradient
from o1jax.search.sampling import SampleSettings
from o1jax.stages.workers import EngineSettings
from o1jax.train.optimizer import AdamW

Advantage = Literal[
    "group_mean", "group_normalized", "leave_one_out", "step_group_mean", "step_group_normalized", "gae"
]
KeepGroups = Literal["reward", "outcome"]
OF_STEPS = ("step_group_mean", "step_group_normalized", "gae")
NOT_IN_IDENTITY = ("checkpoint_every", "checkpoint_every_s")  # they decide no curve


@dataclasses.dataclass(frozen=True)
class Replay:
    """What an update trains on beside its own answers: some of the paths that passed in the inputs found_<k>,
    and of the references."""

    examples: int = 0  # drawn for every update; 0: none, and no such input
    weight: float = 0.1  # of their negative log-likelihood (PolicyGradient.replay_weight)
    max_per_problem: int = (
        2  # of the passing paths of one problem, so that easy problems do not drown the rest
    )
    variants: int = 1  # of each reference: its first reasoning chains, and as many direct programs


@dataclasses.dataclass(frozen=True)
class Settings:
    """An update: `problems_per_update` problems, drawn in epochs ("uniform") or by how uncertain their
    outcome was so far ("by_difficulty"); `sample.n` answers of each, and, while none passed, as many again
    up to `max_samples` (0: no more); one optimizer step an epoch on all of them, in micro-batches.

    `reward`: phi of the outcome and the process reward model's scores. `advantage`: the functions of
    losses/advantages.py; `gae` takes its values from the policy's own score head, needs loss.value_weight,
    and with `whiten` scales an update's advantages; it keeps all groups, the others drop those whose answers
    have one reward, or by `keep_groups` one outcome, whatever the process. `negative_weight` is what
    advantages below 0 count; at 0 the answers that have them are not trained on. `loss`: its temperature,
    score tokens and replay_weight are filled in.

    The run ends after `updates`, or after the update that reaches `generated_tokens` or `trained_tokens`
    (0: no limit), whichever is first; the learning rate follows what is nearest to its end. `first_update`:
    the number of updates of earlier rounds, by which alpha and seeds go on.
    `max_staleness` 1: an update's answers are sampled with the weights before the last update, while that
    one trains. `model`: the preset that the policy must have the shape of, where it is given.
    `replay` needs an input references or found_<k>.
    `lora`: trains adapters of this rank, not all parameters; the frozen ones are the reference of a KL term.
    """

    updates: int
    problems_per_update: int = 16
    draw: Literal["uniform", "by_difficulty"] = "uniform"
    sample: SampleSettings = SampleSettings(temperature=1.0, top_p=1.0, top_k=0)
    max_samples: int = 0
    engine: EngineSettings = EngineSettings()
    scorer_slots: int = 16
    reward: Reward = Reward()
    advantage: Advantage = "group_mean"
    gae_gamma: float = 1.0
    gae_lambda: float = 0.95
    whiten: bool = False
    negative_weight: float = 1.0
    keep_groups: KeepGroups = "reward"
    loss: PolicyGradient = PolicyGradient()
    replay: Replay = Replay()
    epochs: int = 1
    row_length: int = 384
    rows_per_micro_batch: int = 8
    learning_rate: float = 3e-4
    schedule: str = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    adamw: AdamW = AdamW()
    first_update: int = 0
    max_staleness: int = 0
    generated_tokens: int = 0
    trained_tokens: int = 0
    checkpoint_every: int = 10
    checkpoint_every_s: float = 120.0
    model: str = ""
    lora: LoraSettings = LoraSettings()

    @property
    def has_steps(self) -> bool:
        """Whether answers are read as steps: those to the pseudocode prompt."""
        return self.sample.prompt == "pseudocode"

    @property
    def needs_proximal(self) -> bool:
        """Whether the policy moves away from the one that is compared with: the column `old`."""
        return self.epochs > 1 or self.max_staleness > 0


def check(settings: Settings, inputs: Mapping[str, epath.Path], n_problems: int) -> None:
    """InputError, with the value seen and the one wanted, for settings that ask for what cannot be."""
    for name, seen, least in (
        ("updates", settings.updates, 1),
        ("problems_per_update", settings.problems_per_update, 1),
        ("sample.n", settings.sample.n, 1),
        ("epochs", settings.epochs, 1),
        ("first_update", settings.first_update, 0),
    ):
        if seen < least:
            raise _refusal(name, seen, f"at least {least}")
    if settings.problems_per_update > n_problems:
        raise _refusal("problems_per_update", settings.problems_per_update, f"at most all {n_problems}")
    # 1 is what overlaps sampling and training whole; more would only make answers older.
    if settings.max_staleness not in (0, 1):
        raise _refusal("max_staleness", settings.max_staleness, "0 or 1")
    if settings.max_staleness and not settings.loss.importance_cap:
        wanted = "more than 0 with max_staleness: an older policy sampled the answers"
        raise _refusal("loss.importance_cap", 0.0, wanted)
    if settings.max_samples and settings.max_samples < settings.sample.n:
        raise _refusal("max_samples", settings.max_samples, f"0, or at least sample.n ({settings.sample.n})")
    # An answer fills up to engine.context tokens, its prompt included, and lies whole in one row.
    if settings.row_length < settings.engine.context:
        raise _refusal(
            "row_length", settings.row_length, f"at least engine.context ({settings.engine.context})"
        )
    # Either without the other is a page that says something else than it does.
    replays = "references" in inputs or bool(places_of(inputs))
    if replays != (settings.replay.examples > 0):
        wanted = "a number with references or found_<k>" if replays else "0 without references and found_<k>"
        raise _refusal("replay.examples", settings.replay.examples, wanted)
    _check_sampling(settings.sample)
    _check_rewards(settings, inputs)


def _check_sampling(sample: SampleSettings) -> None:
    """The sampler's distribution must be the one that the trainer differentiates."""
    if sample.top_p != 1.0:
        raise _refusal("sample.top_p", sample.top_p, "1: the trainer's log-probs know no top_p")
    if sample.top_k != 0:
        raise _refusal("sample.top_k", sample.top_k, "0: the trainer's log-probs know no top_k")
    if sample.temperature <= 0:
        raise _refusal("sample.temperature", sample.temperature, "more than 0: greedy answers are all alike")


def _check_rewards(settings: Settings, inputs: Mapping[str, epath.Path]) -> None:
    if settings.reward.needs_scores and "prm" not in inputs:
        raise _refusal(
            "reward.alpha", settings.reward.alpha, "an input prm, or constant 1.0 for the outcome alone"
        )
    # A group baseline is made of the other answers; gae's is a value.
    if settings.advantage != "gae" and settings.sample.n < 2:
        raise _refusal("sample.n", settings.sample.n, f"at least 2 answers to compare ({settings.advantage})")
    if (settings.advantage == "gae") != (settings.loss.value_weight > 0):
        raise _refusal(
            "loss.value_weight",
            settings.loss.value_weight,
            f"more than 0 with advantage 'gae', else 0 (saw {settings.advantage!r})",
        )
    if settings.negative_weight < 0:
        raise _refusal("negative_weight", settings.negative_weight, "0 or more")
    if settings.whiten and settings.advantage != "gae":
        raise _refusal("whiten", True, f"False: {settings.advantage!r} compares within a problem already")
    # Answers to the other prompts are programs without steps: nothing to score or to give an advantage to.
    if not settings.has_steps and ("prm" in inputs or settings.advantage in OF_STEPS):
        raise _refusal(
            "sample.prompt", settings.sample.prompt, "'pseudocode' with a prm or an advantage of steps"
        )


def _refusal(name: str, seen: Any, wanted: str) -> InputError:
    return InputError(f"policy_rl.{name}: saw {seen!r}, wanted {wanted}")
