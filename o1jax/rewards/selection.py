"""Picking one of N programs without a reference program.

Pure functions of what passed and what was printed; they run nothing. Ties go to the first program.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def by_agreement(passes_N_C: Sequence[Sequence[bool]]) -> int:
    """The index of a program by dual execution agreement (CodeT, Chen et al., arXiv 2207.10397, sec. 2).

    Programs that pass the same cases form a group, whose score is programs x cases passed: the first
    program of the best group. One that passes nothing scores 0. Raises ValueError for N = 0.
    """
    groups = _groups([tuple(map(bool, row)) for row in passes_N_C])
    return max(groups.items(), key=lambda group: len(group[1]) * sum(group[0]))[1][0]


def by_majority(outputs_N_C: Sequence[Sequence[str | None]]) -> int:
    """The first program of the largest group whose outputs are equal on all inputs.

    Blanks at the end of lines and of the text do not count. Inputs on which every program gave None
    (malformed ones, it seems) are left out; a program with a None on another is in no group. Raises
    ValueError for N = 0 and rows of different lengths.
    """
    columns = [column for column in zip(*outputs_N_C, strict=True) if any(o is not None for o in column)]
    rows = [tuple(_stripped(column[n]) for column in columns) for n in range(len(outputs_N_C))]
    return max(_groups(rows).items(), key=lambda group: 0 if None in group[0] else len(group[1]))[1][0]


def by_score(scores_N: Sequence[float]) -> int:
    """The index of the highest score. Raises ValueError for N = 0."""
    if not scores_N:
        raise ValueError("no programs to pick from; pass at least one")
    return max(range(len(scores_N)), key=lambda n: scores_N[n])


def _groups(rows_N: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    """The indices of equal rows, groups in order of their first."""
    if not rows_N:
        raise ValueError("no programs to pick from; pass at least one")
    groups: dict[Hashable, list[int]] = {}
    for index, row in enumerate(rows_N):
        groups.setdefault(row, []).append(index)
    return groups


def _stripped(output: str | None) -> str | None:
    if output is None:
        return None
    return "\n".join(line.rstrip() for line in output.splitlines()).rstrip()
