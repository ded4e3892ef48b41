"""What made one answer: the nodes of a tree, or a rollout; the policy; and the tests that judged it.

Reads what search, sample, policy_rl and write_tests stages left. Chooses no samples (lineage_samples.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from etils import epath

from o1jax.lineage.stages import Input, Stage
from o1jax.policy.found import trees_of
from o1jax.prompts import chat
from o1jax.prompts.chat import Tokenizer
from o1jax.records import InputError, Node, Problem, Rollout, TestCase, Tree, Verdict
from o1jax.rewards.outcome import search_tests
from o1jax.search.samples import Label, label_nodes
from o1jax.search.sampling import SampleSettings, steps_of_rollout
from o1jax.search.tree import path_to
from o1jax.stages.problems import read_problems
from o1jax.store import read_shards

Role = Literal["answer", "chosen", "rejected"]


@dataclasses.dataclass(frozen=True)
class PathStep:
    """A step's text and its numbers of tokens and of log-probs. Of a tree's node also its index and its
    parent's, UCT's visits and mean value, its terminal value if it was judged, the process reward model's
    score if one was asked, and its label (README.md, D8); else None. `error`: why it is malformed."""

    text: str
    tokens: int
    log_probs: int = 0
    action: int | None = None
    error: str = ""
    node: int | None = None
    parent: int | None = None
    visits: int | None = None
    mean_value: float | None = None
    value: float | None = None
    score: float | None = None
    label: Label | None = None


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a test came from: the problem's own, with the problems of `place`, or written by the generator of
    the stage `place`."""

    kind: Literal["own", "generated"]
    place: str


@dataclasses.dataclass(frozen=True)
class JudgedTest:
    """A test that judges a problem's programs, and its outcome ("" where there is no verdict)."""

    test: TestCase
    origin: Origin
    status: str


@dataclasses.dataclass(frozen=True)
class Path:
    """An answer; of a pair of siblings, the steps up to one of them.

    `place`: the stage that holds it, and `record`: as what. `policy`, in its `policy_version`, sampled it;
    None where no policy did. `verdict`: on its program, if it was judged. `tests`: in the judge's order;
    `tests_fault` says why they are not known, if they are not.
    """

    role: Role
    place: str
    record: str
    steps: tuple[PathStep, ...]
    policy: Input | None = None
    policy_version: int = 0
    verdict: Verdict | None = None
    tests: tuple[JudgedTest, ...] = ()
    tests_fault: str = ""


class Archive:
    """The stages behind one, by place, and what was read of their data so far."""

    def __init__(self, stages: Mapping[str, Stage]):
        self.stages = stages
        self._trees: dict[str, dict[str, Tree]] = {}
        self._rollouts: dict[str, dict[str, Rollout]] = {}
        self._problems: dict[str, dict[str, Problem]] = {}

    def tree(self, place: str, problem_id: str) -> Tree:
        """A problem's tree of a search stage."""
        if place not in self._trees:
            self._trees[place] = {tree.problem_id: tree for tree in trees_of(epath.Path(place))}
        return self._trees[place][problem_id]

    def rollout(self, place: str, id: str) -> Rollout:
        """A rollout of a sample stage."""
        if place not in self._rollouts:
            rollouts = read_shards(epath.Path(place) / "rollouts", Rollout)
            self._rollouts[place] = {rollout.id: rollout for rollout in rollouts}
        return self._rollouts[place][id]

    def problems(self, place: str) -> dict[str, Problem]:
        """Id -> problem, of a check_problems or write_tests stage."""
        if place not in self._problems:
            problems = read_problems(epath.Path(place))
            self._problems[place] = {problem.id: problem for problem in problems}
        return self._problems[place]

    def tests(self, place: str, problem_id: str) -> list[tuple[TestCase, Origin]]:
        """The tests of a problem in such a stage, each with where it came from.

        InputError where the problems or the generator behind it are not there any more.
        """
        stage, earlier = self.stages[place], {}
        if stage.given("problems") and stage.config.get("reward_tests") != "generated":
            earlier = dict(self.tests(str(stage.read("problems")), problem_id))
        new = Origin("own", place)
        if stage.stage == "write_tests":
            new = Origin("generated", str(stage.read("tcg")))
        if problem_id not in self.problems(place):
            raise InputError(f"{place}: no problem {problem_id} there")
        tests = search_tests(self.problems(place)[problem_id])
        return [(test, earlier.get(test, new)) for test in tests]


def of_node(archive: Archive, place: str, problem_id: str, index: int, role: Role = "answer") -> Path:
    """The path to a node of a search stage's tree."""
    stage, tree = archive.stages[place], archive.tree(place, problem_id)
    labels, last = label_nodes(tree), tree.nodes[index]
    tests, fault = _tests(archive, stage, problem_id, last.verdict)
    return Path(
        role=role,
        place=place,
        record=f"node {index} of the tree (seed {tree.seed}, {len(tree.nodes)} nodes, "
        f"{tree.rollouts} rollouts)",
        steps=tuple(_of_node(node, labels[node.index]) for node in path_to(tree.nodes, index)),
        policy=stage.given("policy"),
        policy_version=last.policy_version,
        verdict=last.verdict,
        tests=tests,
        tests_fault=fault,
    )


def of_rollout(
    archive: Archive,
    place: str,
    rollout: Rollout,
    tokenizer: Tokenizer,
    sampled: SampleSettings,
    scores: Sequence[float] = (),
) -> Path:
    """A whole answer of a sample or policy_rl stage; `scores`: of its steps, where they were scored."""
    stage = archive.stages[place]
    tests, fault = _tests(archive, stage, rollout.problem_id, rollout.verdict)
    return Path(
        role="answer",
        place=place,
        record=f"rollout {rollout.id}, ended by {rollout.finish_reason},",
        steps=_of_rollout(rollout, tokenizer, sampled, scores),
        policy=stage.given("policy"),
        policy_version=rollout.policy_version,
        verdict=rollout.verdict,
        tests=tests,
        tests_fault=fault,
    )


def _of_node(node: Node, label: Label) -> PathStep:
    return PathStep(
        text=node.text,
        tokens=len(node.token_ids),
        log_probs=len(node.log_probs),
        action=node.action,
        error=node.error,
        node=node.index,
        parent=node.parent,
        visits=node.visits,
        mean_value=node.value_sum / node.visits if node.visits else None,
        value=node.value,
        score=node.score,
        label=label,
    )


def _of_rollout(
    rollout: Rollout, tokenizer: Tokenizer, sampled: SampleSettings, scores: Sequence[float]
) -> tuple[PathStep, ...]:
    if rollout.prompt == "direct":
        text = chat.decode(tokenizer, rollout.token_ids)
        return (PathStep(text, len(rollout.token_ids), len(rollout.log_probs)),)
    steps = steps_of_rollout(tokenizer, rollout, sampled.max_tokens)
    return tuple(
        PathStep(
            text=step.text,
            tokens=len(step.token_ids),
            log_probs=len(step.log_probs),
            action=step.action,
            error=step.error,
            score=scores[i] if scores else None,
        )
        for i, step in enumerate(steps)
    )


def _tests(
    archive: Archive, stage: Stage, problem_id: str, verdict: Verdict | None
) -> tuple[tuple[JudgedTest, ...], str]:
    """(tests, "") of the stage's problems, or ((), why they are not known)."""
    try:
        tests = archive.tests(str(stage.read("problems")), problem_id)
    except InputError as error:
        return (), str(error)
    statuses = [str(case.status) for case in verdict.cases] if verdict else [""] * len(tests)
    if len(statuses) != len(tests):
        return (), f"{len(statuses)} tests judged, and the problem has {len(tests)} now"
    return tuple(JudgedTest(*test, status) for test, status in zip(tests, statuses, strict=True)), ""
