"""What the page's scripts are given as JSON: problems with what passed of them, and searched trees.

The page must stay small enough to open, so both are cut: problems that nothing was tried on go first, and of
every search the same share of the bytes is kept, spread over difficulties and over solved and unsolved
problems. Reads texts, values and verdicts; never tokens.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from o1jax.report.learning import SELF_PLAY, Counts, arm_of, counts_of
from o1jax.report.run_files import RunFiles, Stage

# The rest that could harm is not ASCII.
UNSAFE = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})
MOST_TREE_BYTES = 5_000_000  # of all trees on a page
MOST_PROBLEM_BYTES = 2_500_000
MOST_READ = 2000  # trees of a search
LONGEST = 4000  # characters of a step or a question
LONGEST_TEST = 400  # of a test's input, its output and its fault
PASSED = ("AC", "PE")
SAMPLED = ("evaluate", "sample")
PLAYED = (*SAMPLED, "search", "policy_rl")  # stages whose problems are on the page
OF_PROBLEM = ("id", "question", "difficulty", "tests")
OF_TREE = ("problem_id", "seed", "rollouts", "generated_tokens")
OF_NODE = ("parent", "action", "text", "visits", "value_sum", "value", "score", "error")
OF_VERDICT = ("compiled", "cases.list.element.status", "cases.list.element.detail")
COLUMNS = (
    *OF_TREE,
    *(f"nodes.list.element.{name}" for name in OF_NODE),
    *(f"nodes.list.element.verdict.{name}" for name in OF_VERDICT),
)

Records = Mapping[str, Mapping[str, Any]]  # problem id -> its record


def page_data(files: RunFiles, arm: str) -> dict[str, Any]:
    """{problems, trees}, as `_problem_rows` and `_tree_rows` make them; `arm` is what the run is about."""
    searches, problems = _searches(files), _problems(files)
    return {
        "problems": _problem_rows(files, problems, _results(files, searches), arm),
        "trees": _tree_rows(files, searches, problems),
    }


def json_text(data: Any) -> str:
    """JSON in ASCII alone, without <, > and &, so that nothing in it can end a script element. A number that
    JSON has not (NaN, infinities) becomes null."""
    try:
        text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(data), separators=(",", ":"))
    return text.translate(UNSAFE)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


# Problems: the rows of the page's table. A stage of evaluation or sampling counts answers, a search counts
# judged programs; also of stages under way, whose counts are of single problems and so are not biased.


def _problems(files: RunFiles) -> dict[str, Records]:
    """Directory -> problems, of all that the run made and those from elsewhere that it played on."""
    inputs = [files.of_input(s.input("problems")) for s in files.stages.values() if s.name in PLAYED]
    stages = {str(stage.directory): stage for stage in (*files.stages.values(), *inputs) if stage is not None}
    return {directory: dict(_records(files, stage)) for directory, stage in stages.items()}


def _records(files: RunFiles, stage: Stage) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Of problems.parquet, which stages write, or of problems.jsonl, which may stand in its place."""
    tables = files.tables(stage.directory / "problems.parquet", OF_PROBLEM)
    rows = [row for table in tables for row in table.to_pylist()]
    for row in rows or files.json_lines(stage.directory / "problems.jsonl"):
        if "id" in row and "question" in row:
            yield str(row["id"]), row


def _results(files: RunFiles, searches: Mapping[str, Sequence[SearchedTree]]) -> dict[str, Counts]:
    """Path of a stage -> what passed of its problems, the arms that stand beside self-play last."""
    found: dict[str, Counts] = {}
    for path, stage in files.stages.items():
        if path in searches:
            found[path] = {tree.problem_id: (tree.passing, len(tree.verdicts)) for tree in searches[path]}
        elif stage.name in SAMPLED:
            found[path] = counts_of(files, path)
    return {path: counts for path, counts in found.items() if counts}


def _problem_rows(
    files: RunFiles, problems: Mapping[str, Records], results: Mapping[str, Counts], arm: str
) -> dict[str, Any]:
    """{stages, own, rows, left_out}; a row is [id, split, difficulty, question, results], and a
    result [stage, passed, tried]. `own`: the numbers of the stages that are not of arms beside `arm`."""
    made = {str(s.directory) for s in files.stages.values() if s.input("problems")}
    known: dict[str, list[Any]] = {}
    # The source of a problem comes before what was made of it, and names its split.
    for directory in sorted(problems, key=lambda directory: directory in made):
        split = directory.rstrip("/").split("/")[-1]
        for id, record in problems[directory].items():
            question = str(record["question"])[:LONGEST]
            known.setdefault(id, [id, split, str(record.get("difficulty", "")), question, []])
    for number, counts in enumerate(results.values()):
        for id, (passed, tried) in counts.items():
            known.setdefault(id, [id, "", "", "", []])[-1].append([number, passed, tried])
    rows = sorted(known.values(), key=lambda row: not row[-1])
    sizes = itertools.accumulate(len(json_text(row)) for row in rows)
    kept = [row for row, size in zip(rows, sizes, strict=True) if size <= MOST_PROBLEM_BYTES]
    own = [number for number, path in enumerate(results) if arm_of(path) in (SELF_PLAY, arm)]
    return {"stages": list(results), "own": own, "rows": kept, "left_out": len(known) - len(kept)}


# Trees: their nodes as columns, which take less room than a record a node.


@dataclasses.dataclass(frozen=True)
class SearchedTree:
    problem_id: str
    facts: Mapping[str, Any]  # of OF_TREE
    nodes: pa.StructArray
    verdicts: Mapping[int, Sequence[Any]]  # index of a judged node -> what `_verdict` makes of it

    @property
    def passing(self) -> int:
        """Programs that pass every test."""
        return sum(failing is None for _, _, _, failing, _, _ in self.verdicts.values())


def _searches(files: RunFiles) -> dict[str, Sequence[SearchedTree]]:
    """Path -> at most MOST_READ trees by problem, of every search that left one, also of one under way."""
    found = {}
    for stage in files.stages.values():
        if stage.name == "search":
            tables = files.tables(stage.directory / "trees", COLUMNS)
            every = (tree for table in tables for tree in _of_table(table))
            found[stage.path] = sorted(itertools.islice(every, MOST_READ), key=lambda tree: tree.problem_id)
    return {path: trees for path, trees in found.items() if trees}


def _of_table(table: pa.Table) -> Iterator[SearchedTree]:
    for row, facts in enumerate(table.select(OF_TREE).to_pylist()):
        nodes = table["nodes"][row].values
        judged = enumerate(nodes.field("verdict").to_pylist())
        verdicts = {index: _verdict(verdict) for index, verdict in judged if verdict is not None}
        yield SearchedTree(facts["problem_id"], facts, nodes, verdicts)


def _tree_rows(
    files: RunFiles, searches: Mapping[str, Sequence[SearchedTree]], problems: Mapping[str, Records]
) -> dict[str, Any]:
    """{stages, trees, left_out}: left_out is how many trees of a stage did not fit. A tree is as `_columns`
    makes it, with the number of its stage."""
    kept, left_out = [], []
    for number, (path, trees) in enumerate(searches.items()):
        source = files.of_input(files.stages[path].input("problems"))
        records = problems.get(str(source.directory), {}) if source is not None else {}
        fitting = list(_fitting(trees, records, MOST_TREE_BYTES // len(searches)))
        kept += [{"stage": number, **tree} for tree in fitting]
        searched = files.figures("search").get(path, {}).get("problems", 0)
        left_out.append(max(len(trees), searched) - len(fitting))
    return {"stages": list(searches), "trees": kept, "left_out": left_out}


def _fitting(trees: Sequence[SearchedTree], records: Records, room: int) -> Iterator[dict[str, Any]]:
    """The columns of trees until `room` bytes are taken."""
    for number, tree in enumerate(_spread(trees, records)):
        columns = _fitted(tree, records.get(tree.problem_id, {}), room, is_first=number == 0)
        room -= len(json_text(columns))
        if room < 0:
            return
        yield columns


def _spread(trees: Sequence[SearchedTree], records: Records) -> Iterator[SearchedTree]:
    """One of each kind in turn, a kind being a difficulty and whether it was solved."""
    kinds: dict[tuple[str, bool], list[SearchedTree]] = {}
    for tree in trees:
        difficulty = str(records.get(tree.problem_id, {}).get("difficulty", ""))
        kinds.setdefault((difficulty, tree.passing > 0), []).append(tree)
    turns = itertools.zip_longest(*(kinds[kind] for kind in sorted(kinds)))
    return (tree for turn in turns for tree in turn if tree is not None)


def _fitted(tree: SearchedTree, record: Mapping[str, Any], room: int, *, is_first: bool) -> dict[str, Any]:
    """The tree's columns; of the first of a search that is too large alone, those of the nodes that fit."""
    count = len(tree.nodes)
    columns = _columns(tree, record, count)
    while is_first and count > 1 and (size := len(json_text(columns))) > room:
        count = max(1, int(0.95 * count * room / size))
        columns = _columns(tree, record, count)
    return columns


def _columns(tree: SearchedTree, record: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Of the first `count` nodes, a parent before its children: lists by node of parent, action, text, visits
    and mean (value); by the index of a node that has one: value, score, error, verdict. `tests`: those that
    failed first, by their index."""
    column = {name: _column(tree.nodes, name, count) for name in OF_NODE}
    visits = [value or 0 for value in column["visits"]]
    sums = zip(column["value_sum"], visits, strict=True)
    verdicts = {index: verdict for index, verdict in tree.verdicts.items() if index < count}
    failing, tests = {verdict[3] for verdict in verdicts.values()}, enumerate(record.get("tests", []))
    return {
        "problem": tree.problem_id,
        **{name: tree.facts[name] for name in OF_TREE[1:]},
        "nodes": len(tree.nodes),
        "parent": column["parent"],
        "action": column["action"],
        "text": [_clipped(text or "", LONGEST) for text in column["text"]],
        "visits": visits,
        "mean": [round((of_node or 0.0) / n, 3) if n else None for of_node, n in sums],
        "value": _present(column["value"]),
        "score": _present(column["score"]),
        "error": {k: error for k, error in enumerate(column["error"]) if error},
        "verdict": verdicts,
        "tests": {
            k: [_clipped(str(test.get(side, "")), LONGEST_TEST) for side in ("input", "output")]
            for k, test in tests
            if k in failing
        },
    }


def _column(nodes: pa.StructArray, name: str, count: int) -> list[Any]:
    """A field of the first nodes; None each where a file from before the field has none."""
    if nodes.type.get_field_index(name) < 0:
        return [None] * count
    return nodes.field(name).slice(0, count).to_pylist()


def _verdict(verdict: Mapping[str, Any]) -> list[Any]:
    """[compiled, passed, tests, first failing test or None, its status, its detail]; of a program that was
    judged by no test, the first fails."""
    cases = verdict["cases"]
    passes = [case["status"] in PASSED for case in cases]
    failing = None if passes and all(passes) else passes.index(False) if passes else 0
    first = cases[failing] if passes and failing is not None else {"status": "", "detail": ""}
    detail = _clipped(first["detail"], LONGEST_TEST)
    return [verdict["compiled"], sum(passes), len(cases), failing, first["status"], detail]


def _present(values: Sequence[float | None]) -> dict[int, float]:
    return {k: round(value, 4) for k, value in enumerate(values) if value is not None}


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most} more characters)"
