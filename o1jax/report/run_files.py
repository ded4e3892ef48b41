"""What is read of a run's directory: its stages, and the lines and columns of their files.

What is damaged or missing is named in `faults` and left out; the rest is read. Never raises for what a run
holds, and makes no figure of it.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from o1jax.writing import parts_of

DEEPEST = 4  # compare/<arm>/round_<k>/<stage>
BEFORE_ROUNDS, AMONG_ROUNDS = 2, 3
ORDER = {  # by the first part of a stage's path; the others are before the rounds
    **dict.fromkeys(("problems", "warm_up_problems"), 0),
    **dict.fromkeys(("warm_up", "warm_up_evaluate", "start_evaluate"), 1),
    "search_evaluate": 4,
    "compare": 5,
}
MARKS = {"manifest.json", "spec.json"}
DATA = {"trees", "rollouts", "fit", "problems.parquet", "problems.jsonl"}  # what only a stage leaves


@dataclasses.dataclass(frozen=True)
class Stage:
    path: str  # relative to the run; "." for a run that is one stage
    directory: epath.Path
    manifest: Mapping[str, Any] | None  # None where the stage is not complete, or it is damaged
    spec: Mapping[str, Any]  # what it was begun with; the manifest holds it too

    @property
    def name(self) -> str:
        """Which stage it is, "" where that is not known."""
        return str(self.spec.get("stage", ""))

    def input(self, name: str) -> str:
        """The directory that an input was read from, "" without one."""
        return str(_mapping(self.spec, "places").get(name, ""))


class RunFiles:
    """A run as it is on disk."""

    def __init__(self, workdir: epath.Path):
        self.workdir = workdir
        self.faults: list[str] = []  # a line each, with the file
        found = [stage for path in self._directories(workdir, 0) if (stage := self._stage(path)) is not None]
        # by path, about in the order in which a recipe runs them
        self.stages = {stage.path: stage for stage in sorted(found, key=_order)}

    def fault(self, text: str) -> None:
        """Names one, once."""
        if text not in self.faults:
            self.faults.append(text)

    @property
    def manifests(self) -> dict[str, Mapping[str, Any]]:
        """Path -> manifest of every complete stage."""
        return {path: stage.manifest for path, stage in self.stages.items() if stage.manifest is not None}

    def figures(self, *names: str) -> dict[str, Mapping[str, Any]]:
        """Path -> figures of every complete stage of these names."""
        return {path: m["figures"] for path, m in self.manifests.items() if m["stage"] in names}

    @property
    def unfinished(self) -> list[str]:
        """Paths of stages that were begun and have no manifest yet."""
        return [path for path, stage in self.stages.items() if stage.manifest is None]

    def of_input(self, directory: str) -> Stage | None:
        """The stage that an input's directory is; where that is gone, this run's of the same path."""
        if directory and epath.Path(directory).exists():
            return self._stage(epath.Path(directory))
        ends = [path for path in self.stages if f"/{directory}".endswith(f"/{path}")]
        return self.stages[max(ends, key=len)] if ends else None

    def json_lines(self, path: epath.Path) -> list[dict[str, Any]]:
        """The objects of a JSON-lines file, none without one; a line that is not one is a fault."""
        inside = [path, *parts_of(path)]
        lines = enumerate(b"".join(map(self._bytes, inside)).split(b"\n"), 1)
        return [row for number, line in lines if line.strip() for row in self._line(path, number, line)]

    def tables(self, path: epath.Path, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of a Parquet file, or of each of a directory in order of name; none without either."""
        inside = path.iterdir() if path.is_dir() else [path] if path.exists() else []
        for file in sorted(file for file in inside if file.suffix == ".parquet"):
            yield from self._table(file, columns)

    def _table(self, path: epath.Path, columns: Sequence[str]) -> Iterator[pa.Table]:
        try:
            table = pq.ParquetFile(io.BytesIO(self._bytes(path))).read(columns=list(columns))
        except (pa.ArrowException, OSError) as error:
            self.fault(f"{path}: not a whole Parquet file ({_first_line(error)})")
            return
        missing = {name.split(".")[0] for name in columns} - set(table.column_names)
        if missing:
            self.fault(f"{path}: no column {sorted(missing)[0]!r}")
        else:
            yield table

    def _directories(self, directory: epath.Path, depth: int) -> Iterator[epath.Path]:
        """The directories of stages; a stage holds no other."""
        inside = {path.name: path for path in directory.iterdir()}
        if inside.keys() & MARKS:
            yield directory
        elif depth and inside.keys() & DATA:
            self.fault(f"{directory}: no manifest.json and no spec.json, so what made it is not known")
        elif depth < DEEPEST:
            for path in inside.values():
                if path.is_dir():
                    yield from self._directories(path, depth + 1)

    def _stage(self, directory: epath.Path) -> Stage | None:
        manifest = self._record(directory / "manifest.json")
        if manifest is not None and not _is_manifest(manifest):
            self.fault(f"{directory / 'manifest.json'}: without a stage, figures and seconds")
            manifest = None
        spec = manifest or self._record(directory / "spec.json")
        if spec is None:
            return None
        is_within = directory.is_relative_to(self.workdir)
        path = directory.relative_to(self.workdir) if is_within else directory
        return Stage(str(path), directory, manifest, spec)

    def _record(self, path: epath.Path) -> dict[str, Any] | None:
        """A JSON file's object; None without one."""
        return next(self._line(path, 0, self._bytes(path)), None) if path.exists() else None

    def _line(self, path: epath.Path, number: int, line: bytes) -> Iterator[dict[str, Any]]:
        where = f"{path} line {number}" if number else str(path)
        try:
            row = json.loads(line)
        except ValueError as error:  # not JSON, or not UTF-8
            self.fault(f"{where}: damaged ({_first_line(error)})")
            return
        if isinstance(row, dict):
            yield row
        else:
            self.fault(f"{where}: saw {type(row).__name__}, wanted an object")

    def _bytes(self, path: epath.Path) -> bytes:
        try:
            return path.read_bytes() if path.exists() else b""
        except OSError as error:
            self.fault(f"{path}: cannot be read ({_first_line(error)})")
            return b""


def _order(stage: Stage) -> tuple[int, str]:
    first = stage.path.split("/")[0]
    return ORDER.get(first, AMONG_ROUNDS if first.startswith("round_") else BEFORE_ROUNDS), stage.path


def _is_manifest(manifest: Mapping[str, Any]) -> bool:
    named, figures = isinstance(manifest.get("stage"), str), isinstance(manifest.get("figures"), dict)
    return named and figures and isinstance(_mapping(manifest, "timings").get("seconds"), int | float)


def _mapping(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A field that is an object, empty where it is missing or another thing."""
    value = record.get(name)
    return value if isinstance(value, Mapping) else {}


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
