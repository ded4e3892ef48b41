"""Searched trees to click through: which of a run's go onto its page, and their nodes as columns.

Of every search the same share of the page, spread over difficulties and over solved and unsolved problems.
Reads text, values and verdicts; never tokens.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from etils import epath

from o1jax.report.learning import SELF_PLAY, Counts, arm_of, counts_of
from o1jax.report.markup import json_text
from o1jax.report.run_files import RunFiles, Stage

MOST_BYTES = 5_000_000  # of all trees on a page
MOST_READ = 2000  # trees of a search
LONGEST = 4000  # characters of a step
LONGEST_TEST = 400  # of a test's input, its output and its fault
PASSED = ("AC", "PE")
OF_TREE = ("problem_id", "seed", "rollouts", "generated_tokens")
OF_NODE = ("parent", "action", "text", "visits", "value_sum", "value", "score", "error")
OF_VERDICT = ("compiled", "cases.list.element.status", "cases.list.element.detail")
COLUMNS = (
    *OF_TREE,
    *(f"nodes.list.element.{name}" for name in OF_NODE),
    *(f"nodes.list.element.verdict.{name}" for name in OF_VERDICT),
)

Records = Mapping[str, Mapping[str, Any]]  # problem id -> its record


@dataclasses.dataclass(frozen=True)
class FoundTree:
    """`facts`: of OF_TREE. `verdicts`: the index of a judged node -> what `_verdict` makes of it."""

    problem_id: str
    facts: Mapping[str, Any]
    nodes: pa.StructArray
    verdicts: Mapping[int, Sequence[Any]]

    @property
    def passing(self) -> int:
        """Programs that pass every test."""
        return sum(failing is None for _, _, _, failing, _, _ in self.verdicts.values())


@dataclasses.dataclass(frozen=True)
class Search:
    """`trees`: at most MOST_READ, by problem. `count`: how many there are, as far as is known."""

    trees: Sequence[FoundTree]
    count: int


def read_searches(files: RunFiles) -> dict[str, Search]:
    """Place -> what a search left, also one that is not finished; of those that left a tree."""
    stages = [stage for stage in files.stages.values() if stage.name == "search"]
    found = {stage.place: _search(files, stage) for stage in stages}
    return {place: search for place, search in found.items() if search.trees}


def _search(files: RunFiles, stage: Stage) -> Search:
    tables = files.tables(stage.directory / "trees", COLUMNS)
    trees = list(itertools.islice((tree for table in tables for tree in _of_table(table)), MOST_READ))
    searched = stage.manifest["figures"].get("problems", 0) if stage.manifest is not None else 0
    return Search(sorted(trees, key=_problem), max(len(trees), searched))


def _of_table(table: pa.Table) -> Iterator[FoundTree]:
    facts, nodes = table.select(OF_TREE).to_pylist(), table["nodes"]
    for row, fact in enumerate(facts):
        of_tree = nodes[row].values
        judged = enumerate(of_tree.field("verdict").to_pylist())
        verdicts = {index: _verdict(verdict) for index, verdict in judged if verdict is not None}
        yield FoundTree(fact["problem_id"], fact, of_tree, verdicts)


def _problem(tree: FoundTree) -> str:
    return tree.problem_id


def search_rows(searches: Mapping[str, Search], problems: Mapping[str, Records]) -> dict[str, Any]:
    """{stages, trees, left_out}: `problems` by place give difficulty and tests; left_out is how many trees of
    a stage did not fit. A tree is as `_columns` makes it, with the number of its stage."""
    kept, left_out = [], []
    for number, (place, search) in enumerate(searches.items()):
        fitting = list(_fitting(search.trees, problems.get(place, {}), MOST_BYTES // len(searches)))
        kept += [{"stage": number, **tree} for tree in fitting]
        left_out.append(search.count - len(fitting))
    return {"stages": list(searches), "trees": kept, "left_out": left_out}


def _fitting(trees: Sequence[FoundTree], records: Records, room: int) -> Iterator[dict[str, Any]]:
    """The columns of trees until `room` bytes are taken."""
    for number, tree in enumerate(_spread(trees, records)):
        columns = _fitted(tree, records.get(tree.problem_id, {}), room, is_first=number == 0)
        room -= len(json_text(columns))
        if room < 0:
            return
        yield columns


def _spread(trees: Sequence[FoundTree], records: Records) -> Iterator[FoundTree]:
    """One of each kind in turn, a kind being a difficulty and whether it was solved."""
    kinds: dict[tuple[str, bool], list[FoundTree]] = {}
    for tree in trees:
        difficulty = str(records.get(tree.problem_id, {}).get("difficulty", ""))
        kinds.setdefault((difficulty, tree.passing > 0), []).append(tree)
    turns = itertools.zip_longest(*(kinds[kind] for kind in sorted(kinds)))
    return (tree for turn in turns for tree in turn if tree is not None)


def _fitted(tree: FoundTree, record: Mapping[str, Any], room: int, *, is_first: bool) -> dict[str, Any]:
    """The tree's columns; of the first of a search that is too large alone, those of the nodes that fit."""
    count = len(tree.nodes)
    columns = _columns(tree, record, count)
    while is_first and count > 1 and (size := len(json_text(columns))) > room:
        count = max(1, int(0.95 * count * room / size))
        columns = _columns(tree, record, count)
    return columns


def _columns(tree: FoundTree, record: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Of the first `count` nodes, a parent before its children: lists by node of parent, action, text, visits
    and mean (value); by the index of a node that has one: value, score, error, verdict. `tests`: those that
    failed first, by their index."""
    column = {name: _column(tree.nodes, name, count) for name in OF_NODE}
    visits = [value or 0 for value in column["visits"]]
    verdicts = {index: verdict for index, verdict in tree.verdicts.items() if index < count}
    failing, tests = {verdict[3] for verdict in verdicts.values()}, record.get("tests", [])
    return {
        "problem": tree.problem_id,
        **{name: tree.facts[name] for name in OF_TREE[1:]},
        "nodes": len(tree.nodes),
        "parent": column["parent"],
        "action": column["action"],
        "text": [_clipped(text or "", LONGEST) for text in column["text"]],
        "visits": visits,
        "mean": [
            round((s or 0.0) / n, 3) if n else None for s, n in zip(column["value_sum"], visits, strict=True)
        ],
        "value": _present(column["value"]),
        "score": _present(column["score"]),
        "error": {k: error for k, error in enumerate(column["error"]) if error},
        "verdict": verdicts,
        "tests": {
            k: [_clipped(str(tests[k].get(side, "")), LONGEST_TEST) for side in ("input", "output")]
            for k in range(len(tests))
            if k in failing
        },
    }


def _column(nodes: pa.StructArray, name: str, count: int) -> list[Any]:
    """A field of the first nodes; None each where a file from before the field has none."""
    if nodes.type.get_field_index(name) < 0:
        return [None] * count
    return nodes.field(name).slice(0, count).to_pylist()


def _verdict(verdict: Mapping[str, Any]) -> list[Any]:
    """[compiled, passed, tests, first failing test or None, its status, its detail]."""
    cases, failing = verdict["cases"], _first_failing(verdict)
    passed = sum(case["status"] in PASSED for case in cases)
    first = cases[failing] if failing is not None and cases else {"status": "", "detail": ""}
    detail = _clipped(first["detail"], LONGEST_TEST)
    return [verdict["compiled"], passed, len(cases), failing, first["status"], detail]


def _first_failing(verdict: Mapping[str, Any]) -> int | None:
    """The index of the first test that does not pass, 0 without any; None if all pass."""
    if not verdict["cases"]:
        return 0
    return next((k for k, case in enumerate(verdict["cases"]) if case["status"] not in PASSED), None)


def _present(values: Sequence[float | None]) -> dict[int, float]:
    return {k: round(value, 4) for k, value in enumerate(values) if value is not None}


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most} more characters)"


# The problems of a run, each with what passed of it stage by stage: the rows of the page's table.
#
# A stage of evaluation or sampling counts answers, a search counts judged programs. Problems that nothing was
# tried on come last, and are the first to be left out where the page would grow too large.

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
