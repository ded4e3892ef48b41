"""Lineage: from a stage, or a sample that it trained on, to the stages, trees, tests and policies behind it.

Follows what the stages themselves wrote and derives samples by their own functions; writes nothing.
"""

from __future__ import annotations

import dataclasses

from etils import epath

from o1jax.lineage.paths import Archive
from o1jax.lineage.rl import of_policy_rl
from o1jax.lineage.samples import Sample, Wanted, of_policy_dpo, of_policy_sft, of_prm, of_warm_up
from o1jax.lineage.stages import Stage, stages_behind
from o1jax.lineage.tcg import of_tcg_adversarial, of_tcg_dpo, of_tcg_sft
from o1jax.records import InputError

SAMPLES = {  # stage -> the samples that it trained on
    "warm_up": of_warm_up,
    "policy_sft": of_policy_sft,
    "policy_dpo": of_policy_dpo,
    "policy_rl": of_policy_rl,
    "prm": of_prm,
    "tcg_sft": of_tcg_sft,
    "tcg_dpo": of_tcg_dpo,
    "tcg_adversarial": of_tcg_adversarial,
}


@dataclasses.dataclass(frozen=True)
class Lineage:
    """`stages`: the one that was asked about, then those behind it, each before its inputs. `samples`: those
    asked for."""

    stages: tuple[Stage, ...]
    samples: tuple[Sample, ...]


def trace(place: epath.Path, *, sample: str = "", problem: str = "") -> Lineage:
    """The stages behind a stage, and the sample of an id, or all of a problem, that it trained on.

    A changed or missing input is a fault of it, and not followed. InputError for a place that is no stage's,
    an unknown sample or problem, and samples that cannot be derived because of a fault.
    """
    if sample and problem:
        raise InputError("saw both a sample and a problem; give one of them")
    stages = stages_behind(place)
    asked = next(iter(stages.values()))
    if not sample and not problem:
        return Lineage(tuple(stages.values()), ())
    if asked.stage not in SAMPLES:
        raise InputError(f"{place}: {asked.stage} trains on no samples; wanted one of {', '.join(SAMPLES)}")
    samples = SAMPLES[asked.stage](Archive(stages), asked, Wanted(sample, problem))
    if not samples:
        what = f"no sample {sample!r}" if sample else f"no sample of a problem {problem!r}"
        raise InputError(f"{place}: {what} among those that {asked.stage} trained on")
    return Lineage(tuple(stages.values()), tuple(samples))
