"""The problems of a run, each with what passed of it stage by stage: the rows of the page's table.

A stage of evaluation or sampling counts answers, a search counts judged programs. Problems that nothing was
tried on come last, and are the first to be left out where the page would grow too large.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from o1jax.report.learning import SELF_PLAY, Counts, arm_of, counts_of
from o1jax.report.markup import json_text
from o1jax.report.run_files import RunFiles, Stage
from o1jax.report.tree_rows import Search

MOST_PROBLEM_BYTES = 2_500_000
PROBLEM_COLUMNS = ("id", "question", "difficulty", "tests")
LONGEST_QUESTION = 4000  # characters of a question
SAMPLED = ("evaluate", "sample")
PLAYED = (*SAMPLED, "search", "policy_rl")


@dataclasses.dataclass(frozen=True)
class Problems:
    """`by_directory`: of every directory that problems were read from, id -> its record."""

    by_directory: Mapping[str, Mapping[str, Mapping[str, Any]]]

    def of(self, stage: Stage | None) -> Mapping[str, Mapping[str, Any]]:
        """Of a check_problems or write_tests stage."""
        return self.by_directory.get(str(stage.directory), {}) if stage is not None else {}


def read_problems(files: RunFiles) -> Problems:
    """All that the run made, and those from elsewhere that it played on."""
    inputs = [files.of_input(s.input("problems")) for s in files.stages.values() if s.name in PLAYED]
    stages = [stage for stage in (*files.stages.values(), *inputs) if stage is not None]
    directories = {str(stage.directory): stage.directory for stage in stages}
    records = {name: _records(files, place) for name, place in directories.items()}
    return Problems(
        {
            name: {str(record["id"]): record for record in found if "id" in record and "question" in record}
            for name, found in records.items()
        }
    )


def _records(files: RunFiles, place: epath.Path) -> list[dict[str, Any]]:
    """Of problems.parquet, which stages write, or of problems.jsonl, which may stand in its place."""
    tables = files.tables(place / "problems.parquet", PROBLEM_COLUMNS)
    return [row for table in tables for row in table.to_pylist()] or files.json_lines(
        place / "problems.jsonl"
    )


def results(files: RunFiles, searches: Mapping[str, Search]) -> dict[str, Counts]:
    """Place -> problem id -> (passed, tried), the arms that stand beside self-play last."""
    found: dict[str, Counts] = {}
    for place in files.stages:
        if place in searches:
            found[place] = {t.problem_id: (t.passing, len(t.verdicts)) for t in searches[place].trees}
        elif files.stages[place].name in SAMPLED:
            found[place] = counts_of(files, place)
    return {place: counts for place, counts in found.items() if counts}


def problem_rows(
    files: RunFiles, problems: Problems, counted: Mapping[str, Counts], arm: str
) -> dict[str, Any]:
    """{stages, own, rows, left_out}; a row is [id, split, difficulty, question, results], and a
    result [stage, passed, tried]. `own`: the numbers of the stages that are not of arms beside `arm`."""
    known: dict[str, list[Any]] = {}
    for directory, split in _splits(files, problems):
        for id, record in problems.by_directory[directory].items():
            question = str(record["question"])[:LONGEST_QUESTION]
            known.setdefault(id, [id, split, str(record.get("difficulty", "")), question, []])
    for number, counts in enumerate(counted.values()):
        for id, (passed, tried) in counts.items():
            row = known.setdefault(id, [id, "", "", "", []])
            row[-1].append([number, passed, tried])
    kept, size = [], 0
    for row in sorted(known.values(), key=lambda row: not row[-1]):
        size += len(json_text(row))
        if size > MOST_PROBLEM_BYTES:
            break
        kept.append(row)
    own = [number for number, place in enumerate(counted) if arm_of(place) in (SELF_PLAY, arm)]
    return {"stages": list(counted), "own": own, "rows": kept, "left_out": len(known) - len(kept)}


def _splits(files: RunFiles, problems: Problems) -> Iterable[tuple[str, str]]:
    """(directory, name), the sources of problems before what was made of them."""
    made = {str(s.directory): s.place for s in files.stages.values() if s.input("problems")}
    directories = sorted(problems.by_directory, key=lambda directory: directory in made)
    return [(directory, directory.rstrip("/").split("/")[-1]) for directory in directories]
