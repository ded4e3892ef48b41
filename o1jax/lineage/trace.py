"""Lineage: from a stage, or a sample that it trained on, to the stages, trees, tests and policies behind it.

Reads the provenance that training stages wrote, and the trees, rollouts and problems that it points at. Makes
no samples and writes nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

from etils import epath

from o1jax.lineage.stages import Stage, stages_behind
from o1jax.prompts import chat
from o1jax.records import InputError, Node, Rollout, TestCase, Tree, Verdict
from o1jax.rewards.outcome import search_tests
from o1jax.rl import provenance as rl_provenance
from o1jax.rl.rollouts import RewardedRollout
from o1jax.search.samples import Label, label_nodes
from o1jax.search.sampling import SampleSettings
from o1jax.search.steps import SampledStep, cut
from o1jax.search.tree import path_to
from o1jax.stages import provenance
from o1jax.stages.manifest import Input
from o1jax.stages.problems import read_problems
from o1jax.stages.provenance import OWN, Role, Source
from o1jax.stages.training import open_tokenizer
from o1jax.store import read_shards, read_trees

READ = {  # what a stage holds -> all of it, by id
    "node": lambda at: {
        f"{tree.problem_id}#{node.index}": (tree, node)
        for tree in read_trees(at / "trees")
        for node in tree.nodes
    },
    "rollout": lambda at: {rollout.id: rollout for rollout in read_shards(at / "rollouts", Rollout)},
    "reward": lambda at: {one.rollout_id: one for one in read_shards(at / "rewards", RewardedRollout)},
    "problem": lambda at: {problem.id: problem for problem in read_problems(at)},
}


@dataclasses.dataclass(frozen=True)
class PathStep:
    """One step of an answer; of an answer without steps, all of it."""

    text: str
    tokens: int
    log_probs: int = 0  # how many were kept: one a token, or none
    action: int | None = None  # None: the answer has no steps
    error: str = ""  # why a malformed step is dead
    node: int | None = None  # index in the tree; it and what follows are None of a step that is in none
    parent: int | None = None  # index of the step before
    visits: int | None = None  # UCT's
    mean_value: float | None = None  # UCT's, over the visits
    value: float | None = None  # terminal value, of a judged or dead leaf
    score: float | None = None  # the process reward model's, where one was asked (also of a rollout's step)
    label: Label | None = None  # what the leaves below say of it


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a test came from."""

    kind: Literal["own", "generated"]
    directory: str  # directory of the problems that had it, or of the generator that wrote it


@dataclasses.dataclass(frozen=True)
class JudgedTest:
    """A test that judges a problem's programs."""

    test: TestCase
    origin: Origin
    status: str  # of the answer's program; "" without a verdict


@dataclasses.dataclass(frozen=True)
class Path:
    """An answer; of a pair of siblings, the steps up to one of them."""

    role: Role
    directory: str  # directory of the stage that holds it
    record: str  # as what it is held there
    steps: tuple[PathStep, ...]
    policy: Input | None = None  # what sampled it; None: no policy did
    policy_version: int = 0
    verdict: Verdict | None = None  # on its program, if it was judged
    tests: tuple[JudgedTest, ...] = ()  # in the judge's order
    tests_fault: str = ""  # why they are not known, if they are not


@dataclasses.dataclass(frozen=True)
class Sample:
    """A sample of a training stage."""

    id: str
    problem_id: str
    kind: str
    left_out: str  # why the stage did not train on it; "": it did
    facts: Mapping[str, Any]  # what else there is to say of one of its kind
    paths: tuple[Path, ...]  # its answer, or the two of a pair


@dataclasses.dataclass(frozen=True)
class Lineage:
    """What is known of a stage and of the samples that were asked for."""

    stages: tuple[Stage, ...]  # the one that was asked about, then those behind it, each before its inputs
    samples: tuple[Sample, ...]


def trace(directory: epath.Path, *, sample: str = "", problem: str = "") -> Lineage:
    """The stages behind a stage, and the sample of an id, or all of a problem, that it trained on.

    A changed or missing input is a fault of it, and not followed. InputError for a directory that is no
    stage's, an unknown sample or problem, a stage without provenance, and a tree or rollout that is gone.
    """
    if sample and problem:
        raise InputError("saw both a sample and a problem; give one of them")
    archive = Archive(stages_behind(directory))
    stages, stage = tuple(archive.stages.values()), archive.asked.stage
    if not sample and not problem:
        return Lineage(stages, ())
    rows = rl_provenance.read(directory) if stage == "policy_rl" else provenance.read(directory, stage)
    samples = [archive.sample(row) for row in rows if row.id == sample or row.problem_id == problem]
    if not samples:
        what = f"no sample {sample!r}" if sample else f"no sample of a problem {problem!r}"
        raise InputError(f"{directory}: {what} among those that {stage} trained on")
    return Lineage(stages, tuple(samples))


class Archive:
    """The stages behind the one that was asked about, by directory, and what was read of their data."""

    def __init__(self, stages: Mapping[str, Stage]):
        self.stages, self.asked = stages, next(iter(stages.values()))
        self._read: dict[tuple[str, str], dict[str, Any]] = {}

    def sample(self, row: provenance.Provenance) -> Sample:
        """A row with what it points at. InputError where that is gone."""
        paths = tuple(self._path(row.problem_id, source) for source in row.sources)
        return Sample(row.id, row.problem_id, row.kind, row.left_out, json.loads(row.facts), paths)

    def _path(self, problem_id: str, source: Source) -> Path:
        asked = self.asked
        # A text is in the row itself, so its input may be gone.
        if source.node is None and not source.rollout:
            directory = asked.directory if source.input == OWN else asked.given(source.input).directory
            steps = (PathStep(source.text, source.tokens),)
            return Path(source.role, directory, source.record, steps, asked.given(source.policy))
        stage = asked if source.input == OWN else self.stages[str(asked.read(source.input))]
        policy = stage.given("policy")
        if source.node is None:
            held = self._held("rollout", stage, source.rollout)
            record, steps = f"rollout {held.id}, ended by {held.finish_reason},", self._cut(stage, held)
            # Of policy_rl: its input sampled for the first update, and its own weights for those after it.
            if stage is asked and held.policy_version > stage.config.get("first_update", 0):
                policy = Input("this stage's", "", stage.directory)
        else:
            tree, held = self._held("node", stage, f"{problem_id}#{source.node}")
            searched = f"seed {tree.seed}, {len(tree.nodes)} nodes, {tree.rollouts} rollouts"
            record, steps = f"node {source.node} of the tree ({searched})", _node_steps(tree, source.node)
        tests = self._judged(stage, held.verdict, problem_id)
        return Path(
            source.role, stage.directory, record, steps, policy, held.policy_version, held.verdict, *tests
        )

    def _held(self, kind: str, stage: Stage, id: str) -> Any:
        key = (kind, stage.directory)
        if key not in self._read:
            self._read[key] = READ[kind](epath.Path(stage.directory))
        if id not in self._read[key]:
            raise InputError(
                f"{stage.directory}: no {kind} {id} there any more; files in it have changed since"
            )
        return self._read[key][id]

    def _cut(self, stage: Stage, rollout: Rollout) -> tuple[PathStep, ...]:
        asked, sampled = self.asked, stage.config.get("sample", {})
        # The stage's own tokenizer once it has one: the policy before it may be gone.
        tokenizer = open_tokenizer(epath.Path(asked.directory) if asked.is_complete else asked.read("policy"))
        if rollout.prompt == "direct":
            text = chat.decode(tokenizer, rollout.token_ids)
            return (PathStep(text, len(rollout.token_ids), len(rollout.log_probs)),)
        steps = cut(tokenizer, rollout, 1, sampled.get("max_tokens", SampleSettings.max_tokens))
        scores = self._held("reward", stage, rollout.id).step_scores if stage is asked else ()
        scored = zip(steps, scores or [None] * len(steps), strict=True)
        return tuple(dataclasses.replace(_path_step(step), score=score) for step, score in scored)

    def _judged(self, stage: Stage, verdict: Verdict | None, id: str) -> tuple[tuple[JudgedTest, ...], str]:
        """(tests of a problem that judged in a stage, ""), or ((), why they are not known)."""
        try:
            tests = self._tests(str(stage.read("problems")), id)
        except InputError as error:
            return (), str(error)
        statuses = [str(case.status) for case in verdict.cases] if verdict else [""] * len(tests)
        if len(statuses) != len(tests):
            return (), f"{len(statuses)} tests judged, and the problem has {len(tests)} now"
        return tuple(JudgedTest(*test, status) for test, status in zip(tests, statuses, strict=True)), ""

    def _tests(self, directory: str, problem_id: str) -> list[tuple[TestCase, Origin]]:
        """A problem's tests in a check_problems or write_tests stage, each with where it came from."""
        stage, earlier, new = self.stages[directory], {}, Origin("own", directory)
        # With "generated", a written test that equals one of the problem's own is kept as written.
        if stage.given("problems") and stage.config.get("reward_tests") != "generated":
            earlier = dict(self._tests(str(stage.read("problems")), problem_id))
        if stage.stage == "write_tests":
            new = Origin("generated", str(stage.read("tcg")))
        return [(t, earlier.get(t, new)) for t in search_tests(self._held("problem", stage, problem_id))]


def _node_steps(tree: Tree, index: int) -> tuple[PathStep, ...]:
    labels = label_nodes(tree)
    return tuple(
        dataclasses.replace(
            _path_step(node),
            node=node.index,
            parent=node.parent,
            visits=node.visits,
            mean_value=node.value_sum / node.visits if node.visits else None,
            value=node.value,
            score=node.score,
            label=labels[node.index],
        )
        for node in path_to(tree.nodes, index)
    )


def _path_step(step: Node | SampledStep) -> PathStep:
    return PathStep(step.text, len(step.token_ids), len(step.log_probs), step.action, step.error)
