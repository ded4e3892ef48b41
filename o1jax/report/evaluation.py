"""An evaluation's figures as one Markdown table, for a terminal and for table.md. Computes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

PROMPTS = ("direct", "pseudocode", "completion")
Figures = Mapping[str, Any]


def table(figures: Figures) -> str:
    """A row for each figure that is there: what it is, its mean, its 95 % interval, over how many problems,
    at how many generated tokens."""
    head = "| what | mean | 95 % interval | problems | generated tokens |\n| --- | --- | --- | --- | --- |"
    rows = [*_prompts(figures), *_search(figures), *_aspr(figures)]
    return "\n".join([head, *(_row(*row) for row in rows if row[1] is not None)]) + "\n"


Row = tuple[str, Figures | None, int | None]


def _prompts(figures: Figures) -> Iterator[Row]:
    for prompt in PROMPTS:
        for key, figure in figures.get(prompt, {}).items():
            if key.startswith("pass_at_"):
                yield f"{prompt}, pass@{key.removeprefix('pass_at_')}", figure, None
    for pair, figure in figures.get("prompt_differences", {}).items():
        yield f"pass@1, {pair}", figure, None


def _search(figures: Figures) -> Iterator[Row]:
    for arm, found in figures.get("search", {}).items():
        yield _words(arm), found["pass_rate"], found["generated_tokens"]
    for pair, figure in figures.get("search_differences", {}).items():
        yield _words(pair), figure, None


def _aspr(figures: Figures) -> Iterator[Row]:
    found = figures.get("aspr", {"pseudocode": None, "common": {}})
    yield "ASPR, problems that search solved", found["pseudocode"], None
    for prompt, figure in found["common"].items():
        yield f"ASPR, commonly solved problems, {prompt}", figure, None


def _words(name: str) -> str:
    return name.replace("best_of_n", "best-of-n").replace("_", " ")


def _row(what: str, figure: Figures, tokens: int | None) -> str:
    interval = f"[{figure['low']:.3f}, {figure['high']:.3f}]"
    spent = "" if tokens is None else f"{tokens:,}"
    return f"| {what} | {figure['mean']:.3f} | {interval} | {figure['n']} | {spent} |"
