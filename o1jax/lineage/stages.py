"""The stages behind a stage, found by what its manifest says of its inputs: their hashes and places.

An input is where it was when the stage read it, or wherever in the same run a stage of its hash is (a run
may have been moved, and older manifests hold no places). Reads no data (lineage_samples.py does).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from o1jax.records import InputError
from o1jax.report.run_files import DEEPEST
from o1jax.stages.manifest import file_hash, input_hash, read_manifest, read_spec


@dataclasses.dataclass(frozen=True)
class Input:
    """What a stage read under `name`: a directory of this `hash`. `place`: where it is, or was ("" if that
    is not known). `fault`: why what is there now is not what was read; empty if it is."""

    name: str
    hash: str
    place: str
    fault: str = ""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage as its manifest has it, or, while it is not complete, its spec: then without figures."""

    place: str
    stage: str
    seed: int
    config: Mapping[str, Any]
    figures: Mapping[str, Any]
    is_complete: bool
    inputs: tuple[Input, ...]

    def given(self, name: str) -> Input | None:
        """The input of that name, if there is one."""
        return next((given for given in self.inputs if given.name == name), None)

    def read(self, name: str) -> epath.Path:
        """The directory that was read under `name`; InputError if it is not there any more."""
        given = self.given(name)
        if given is None or given.fault:
            why = given.fault if given else "none was given"
            raise InputError(f"{self.place}: input {name} {given.place if given else ''}: {why}")
        return epath.Path(given.place)


def stages_behind(place: epath.Path) -> dict[str, Stage]:
    """Place -> stage: this one, then its inputs', each once and before its own inputs'. Inputs with a fault
    are not followed; published weights are no stage.

    InputError if `place` is not the directory of a stage.
    """
    stages, waiting = {}, [str(place.resolve())]
    runs: dict[str, dict[str, str]] = {}
    while waiting:
        at = waiting.pop()
        if at not in stages:
            stages[at] = _read(epath.Path(at), runs)
            whole = [given.place for given in stages[at].inputs if not given.fault]
            waiting += [other for other in reversed(whole) if (epath.Path(other) / "manifest.json").exists()]
    return stages


def _read(at: epath.Path, runs: dict[str, dict[str, str]]) -> Stage:
    is_complete = (at / "manifest.json").exists()
    written = read_manifest(at) if is_complete else read_spec(at)
    root = _root(at)
    if root and root not in runs:
        runs[root] = dict(_hashes(epath.Path(root)))
    places = written.get("places", {})
    return Stage(
        place=str(at),
        stage=written["stage"],
        seed=written["seed"],
        config=written["config"],
        figures=written.get("figures", {}),
        is_complete=is_complete,
        inputs=tuple(
            _located(name, wanted, places.get(name, ""), runs.get(root, {}))
            for name, wanted in sorted(written["inputs"].items())
        ),
    )


def _located(name: str, wanted: str, recorded: str, run: Mapping[str, str]) -> Input:
    seen, fault = (
        _hash(epath.Path(recorded))
        if recorded
        else ("", f"MISSING: no stage of this run has its hash, {wanted}")
    )
    if seen == wanted:
        return Input(name, wanted, recorded)
    if wanted in run:
        return Input(name, wanted, run[wanted])
    return Input(name, wanted, recorded, fault or f"CHANGED: its hash was {wanted}, and is {seen} now")


def _hash(place: epath.Path) -> tuple[str, str]:
    """(hash, "") of an input, or ("", why it has none)."""
    try:
        return file_hash(place) if place.is_file() else input_hash(place), ""
    except InputError as error:
        return "", f"MISSING: {str(error).removeprefix(f'{place}: ')}"


def _root(at: epath.Path) -> str:
    """The directory of the run that a stage is of, "" if it stands alone: where the summary is."""
    above = list(at.parents)[:DEEPEST]
    return next((str(parent) for parent in above if (parent / "summary.json").exists()), "")


def _hashes(root: epath.Path) -> Iterator[tuple[str, str]]:
    """(hash, place) of the complete stages of a run."""
    for depth in range(1, DEEPEST + 1):
        for path in root.glob("*/" * depth + "manifest.json"):
            if found := _hash(path.parent)[0]:
                yield found, str(path.parent)
