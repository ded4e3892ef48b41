"""HumanEval (Chen et al., arXiv 2107.03374), and EvalPlus's files in the same five fields (OriginFmt).

The starter code is the published prompt, which a completion goes on from; the one test is the published
check function and its call. All of it is for evaluation only. Both sets have the same ids, so that samples
for one can be judged by the other's tests.
"""

from __future__ import annotations

from typing import Any

from o1jax.problems import files
from o1jax.records import Problem, TestCase

QUESTION = "Complete the function `{name}` so that it does what its docstring says."
PLUS_SECONDS, PLUS_MEGABYTES = 60.0, 4096  # EvalPlus asks for lists of millions


def problem_of(record: dict[str, Any], index: int, where: str, split: str = "test") -> Problem:
    """The problem of one record; InputError for a malformed one. EvalPlus's are told by their test, which
    holds inputs and results, and get the time and the memory that these need."""
    task_id, entry_point = (files.text(record, name, where) for name in ("task_id", "entry_point"))
    prompt, test = files.text(record, "prompt", where), files.text(record, "test", where)
    is_plus = "inputs = [" in test
    return Problem(
        id=f"humaneval/{task_id.rpartition('/')[2]}",
        question=QUESTION.format(name=entry_point),
        form="assertion",
        hidden_tests=(TestCase(f"{test}\ncheck({entry_point})"),),
        entry_point=entry_point,
        starter_code=prompt,
        solutions=(prompt + files.text(record, "canonical_solution", where),),
        source="humaneval_plus" if is_plus else "humaneval",
        time_limit_s=PLUS_SECONDS if is_plus else 0.0,
        memory_limit_mb=PLUS_MEGABYTES if is_plus else 0,
        json_values=False,
    )
