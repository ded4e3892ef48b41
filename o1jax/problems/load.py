"""Problems from whatever a user names: a file of either format, or a published set.

The built-in problems are made in ladder.py, not loaded.
"""

from __future__ import annotations

from o1jax.problems import jsonl, taco
from o1jax.records import InputError, Problem


def load_problems(source: str, split: str = "train", limit: int = 0) -> list[Problem]:
    """The problems of a JSON or JSON-lines file (ours, or TACO's: told by its fields) or of "taco:train".

    `limit` > 0 keeps the first so many. Raises InputError in one line for anything malformed.
    """
    if limit < 0:
        raise InputError(f"problems: limit {limit}, wanted 0 (all) or more")
    problems = taco.load(source, split) if source.startswith("taco:") else _from_file(source, split)
    seen: set[str] = set()
    for i, problem in enumerate(problems):
        if problem.id in seen:
            raise InputError(f"{source} record {i} field 'id': {problem.id!r} seen before, wanted a new one")
        seen.add(problem.id)
    return problems[:limit] if limit else problems


def _from_file(source: str, split: str) -> list[Problem]:
    records = jsonl.read_records(source)
    if "input_output" in records[0]:
        return [taco.problem_of(r, i, f"{source} record {i}", split) for i, r in enumerate(records)]
    if "form" in records[0]:
        return [jsonl.problem_of(r, f"{source} record {i}") for i, r in enumerate(records)]
    raise InputError(
        f"{source} record 0: fields {sorted(records[0])[:6]}, wanted 'form' (ours) or 'input_output' (TACO)"
    )
