"""A lineage as text: the tree of stages, then each sample with its steps, verdict and tests.

What is not as it was stands behind a `!`. Reads no files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from o1jax.lineage.stages import Stage
from o1jax.lineage.trace import Lineage, Path, PathStep, Sample


def text(lineage: Lineage) -> str:
    """Directories below the current one are written relative to it; a stage above is not repeated."""
    stages, shown = {stage.directory: stage for stage in lineage.stages}, set()
    lines = list(_stage_lines(lineage.stages[0], stages, shown, ""))
    for sample in lineage.samples:
        lines += ["", *_sample_lines(sample)]
    return "\n".join(lines)


def _stage_lines(stage: Stage, stages: Mapping[str, Stage], shown: set[str], indent: str) -> Iterator[str]:
    shown.add(stage.directory)
    figures = (f"{name} {_number(v)}" for name, v in stage.figures.items() if isinstance(v, (int, float)))
    state = ", ".join(figures) if stage.is_complete else "not complete"
    source = f" from {stage.config['source']}" if stage.config.get("source") else ""
    yield f"{_short(stage.directory)}  ({stage.stage}{source}, seed {stage.seed}) {state}"
    indent += "    "
    for given in stage.inputs:
        name = f"{indent}{given.name}: "
        if given.fault:
            yield f"{name}! {_short(given.directory)} {given.fault}"
        elif given.directory not in stages:
            kind = "file" if given.name.startswith("source_") else "published weights"
            yield f"{name}{_short(given.directory)}  ({kind}, hash {given.hash})"
        elif given.directory in shown:
            yield f"{name}{_short(given.directory)}  (above)"
        else:
            first, *rest = _stage_lines(stages[given.directory], stages, shown, indent)
            yield f"{name}{first}"
            yield from rest


def _sample_lines(sample: Sample) -> Iterator[str]:
    state = f"! not trained on: {sample.left_out}" if sample.left_out else "trained on"
    yield f"sample {sample.id}: {sample.kind} of problem {sample.problem_id}, {state}"
    for name, fact in sample.facts.items():
        is_text = isinstance(fact, str)  # a program, say
        yield f"  {name.replace('_', ' ')}:" + ("" if is_text else f" {_number(fact)}")
        yield from _quoted(fact if is_text else "")
    for path in sample.paths:
        yield from _path_lines(path)


def _path_lines(path: Path) -> Iterator[str]:
    tokens = sum(step.tokens for step in path.steps)
    yield f"  {path.role}: {path.record} in {_short(path.directory)}; {tokens} tokens"
    if by := path.policy:
        log_probs = sum(step.log_probs for step in path.steps)
        directory = f"! {_short(by.directory)} {by.fault}" if by.fault else _short(by.directory)
        yield f"    sampled by {directory}, policy version {path.policy_version}; {log_probs} log-probs kept"
    for step in path.steps:
        yield from [] if step.action is None else [f"    {_step(step)}"]
        yield from _quoted(step.text)
    if path.verdict is not None:
        compiled = "compiled" if path.verdict.compiled else "did not compile"
        passed = sum(case.passed for case in path.verdict.cases)
        yield f"    verdict: {compiled}, passed {passed} of {len(path.verdict.cases)} tests"
    if path.tests_fault:
        yield f"    ! tests not known: {path.tests_fault}"
    for judged in path.tests:
        test, origin = judged.test, judged.origin
        kind = "own test of" if origin.kind == "own" else "generated test by"
        shown = f"{test.input!r} -> {test.output!r}" if test.output else test.input
        yield f"      {judged.status:4} {kind} {_short(origin.directory)}: {shown}"


def _step(step: PathStep) -> str:
    parts = [f"action {step.action}, {step.tokens} tokens"]
    if step.node is not None:
        parts = [f"node {step.node} below {step.parent}", *parts, f"{step.visits} visits"]
    for name, value in (("mean value", step.mean_value), ("value", step.value), ("score", step.score)):
        parts += [] if value is None else [f"{name} {value:.3f}"]
    if step.label is not None:
        label = step.label
        parts.append(
            f"label {label.soft:.3f} of {label.n_leaves} leaves of mean value {label.mean_value:.3f}"
        )
    return ", ".join([*parts, f"! {step.error}"] if step.error else parts)


def _quoted(text: str) -> Iterator[str]:
    return (f"      | {line}" for line in text.strip().splitlines())


def _number(value: float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _short(directory: str) -> str:
    return directory.removeprefix(os.getcwd() + "/")
