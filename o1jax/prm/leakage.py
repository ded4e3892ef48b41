"""Problems that must not meet: of labels, of the calibration, of held-out figures, and of earlier training.

A policy that has imitated the passing paths of a problem remembers what is right there. A scorer that starts
from it learns from labels of the same problem to ask that memory, which is of no use for another problem.
Reads manifests and provenance; trains nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
from collections.abc import Mapping, Sequence

from etils import epath

from o1jax.records import InputError, Tree
from o1jax.stages import provenance
from o1jax.stages.manifest import Input, find_inputs, read_manifest, run_hashes
from o1jax.stages.problems import read_problems

IMITATES = ("warm_up", "policy_sft", "policy_dpo", "policy_rl")  # stages that train on answers as a policy


@dataclasses.dataclass(frozen=True)
class Learned:
    """What the weights in a directory were trained on, as far as the manifests behind them say."""

    # Problem id -> the directory of the stage that trained on it: on its answers, or on labels of its steps.
    imitated: Mapping[str, str]
    scored: Mapping[str, str]


def learned_by(start: epath.Path) -> Learned:
    """Of a stage that trained, and of the stages whose policies it went on from. Of published weights nothing
    is known; a stage that is gone, or has changed, is warned of."""
    imitated: dict[str, str] = {}
    scored: dict[str, str] = {}
    hashes_in, at = functools.cache(run_hashes), start
    while (at / "manifest.json").exists():
        manifest = read_manifest(at)
        inputs = {given.name: given for given in find_inputs(at, manifest, hashes_in)}
        stage = manifest["stage"]
        if stage in IMITATES or stage == "prm":
            into = scored if stage == "prm" else imitated
            into.update(dict.fromkeys(_problems(at, stage, inputs), str(at)))
        before = inputs.get("prm") if stage == "prm" and "prm" in inputs else inputs.get("policy")
        if before is None:
            break
        if before.fault:
            logging.warning("%s: what its policy learned is not known: %s", at, before.fault)
            break
        at = epath.Path(before.directory)
    return Learned(imitated, scored)


def _problems(directory: epath.Path, stage: str, inputs: Mapping[str, Input]) -> set[str]:
    """The problems that a stage trained on."""
    found = set()
    if (directory / provenance.FILE).exists():  # not of stages that an earlier version ran
        found = {row.problem_id for row in provenance.read(directory, stage) if not row.left_out}
    # What RL plays, it samples itself; its provenance here has what it replays.
    played = inputs.get("problems") if stage == "policy_rl" else None
    if played is not None and not played.fault:
        found |= {problem.id for problem in read_problems(epath.Path(played.directory))}
    return found


def refuse_leakage(used: Mapping[str, Sequence[Tree]], learned: Learned) -> None:
    """InputError that names a problem, or a prompt, of two of the uses: what its problems are -> its trees,
    the first being "trained on"; or a problem of the others that the weights were trained on before."""
    # By prompt too: two data sets may have the same problem under different ids.
    for (first, trees), (second, others) in itertools.combinations(used.items(), 2):
        known = {tree.problem_id for tree in trees} | {tree.prompt_ids for tree in trees}
        for tree in others:
            if tree.problem_id in known or tree.prompt_ids in known:
                raise InputError(
                    f"prm: problem {tree.problem_id} is both {first} and {second}, so its figures would mean "
                    f"nothing; give searches of other problems"
                )
    for use, trees in list(used.items())[1:]:
        for tree in trees:
            for before in (learned.imitated, learned.scored):
                if tree.problem_id in before:
                    raise InputError(
                        f"prm: problem {tree.problem_id} is {use}, and {before[tree.problem_id]}, which this "
                        "model starts from, was trained on it; give searches of other problems"
                    )


def warn_of_memory(trees: Sequence[Tree], learned: Learned) -> int:
    """How many of the labelled problems the model has imitated answers of before; warns if there are any."""
    ids = {tree.problem_id for tree in trees}
    seen = sorted(ids & learned.imitated.keys())
    if seen:
        logging.warning(
            "prm: %s was trained on answers to %d of the %d labelled problems (as %s), and this model, which "
            "starts from it, may tell right from wrong there by memory; start from the policy that searched",
            learned.imitated[seen[0]],
            len(seen),
            len(ids),
            seen[0],
        )
    return len(seen)
