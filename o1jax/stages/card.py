"""The card of a set of problems: what was kept, what was left out and why, as JSON and as a page to read.

Counts nothing itself: the check_problems stage does.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from o1jax.records import Problem
from o1jax.stages.manifest import write_json

LISTED = 50  # lines of each list on the page; the JSON has all


def write_card(
    out: epath.Path,
    config: Mapping[str, Any],
    figures: Mapping[str, Any],
    kept: Sequence[Problem],
    left_out: Mapping[str, Sequence[str]],
) -> None:
    """Writes card.json and card.md. `left_out`: a title -> a line for each record."""
    contents = {
        "forms": dict(Counter(problem.form for problem in kept)),
        "difficulties": dict(Counter(problem.difficulty or "none" for problem in kept)),
        "tests": sum(len(problem.tests) for problem in kept),
        "hidden_tests": sum(len(problem.hidden_tests) for problem in kept),
    }
    card = {"config": config, "figures": figures, "kept": contents, "left_out": left_out}
    write_json(out / "card.json", card)
    (out / "card.md").write_text(_page(config, figures, contents, left_out))


def _page(
    config: Mapping[str, Any],
    figures: Mapping[str, Any],
    contents: Mapping[str, Any],
    left_out: Mapping[str, Sequence[str]],
) -> str:
    counts = {
        "records read": figures["read"],
        "malformed": figures["malformed"],
        **{f"not wanted ({reason})": n for reason, n in figures["unwanted"].items()},
        "near-duplicates of evaluation problems": figures["near_duplicates"],
        "past max_problems": figures["over"],
        "references disagree with the tests": len(figures["inconsistent"]),
        "kept": figures["kept"],
    }
    sections = [
        f"# Problems of `{config['source'] or 'another stage'}`",
        _table("", "problems", counts),
        f"{contents['tests']} tests and {contents['hidden_tests']} hidden ones. Of {figures['references']} "
        f"references run, {figures['references_passed']} pass every test.",
        _table("form", "kept", contents["forms"]),
        _table("difficulty", "kept", contents["difficulties"]),
        *(_listed(title, lines) for title, lines in left_out.items() if lines),
        f"## Settings\n\n```json\n{json.dumps(config, indent=1)}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _table(left: str, right: str, rows: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([f"| {left} | {right} |", "| --- | --- |", *lines])


def _listed(title: str, lines: Sequence[str]) -> str:
    more = [f"- and {len(lines) - LISTED} more, in card.json"] if len(lines) > LISTED else []
    return "\n".join([f"## {title}", "", *(f"- {line}" for line in lines[:LISTED]), *more])
