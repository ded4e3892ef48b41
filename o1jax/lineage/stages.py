"""The stages behind a stage, by what its manifest says of its inputs.

Reads manifests and specs, and none of the data (samples.py does).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from etils import epath

from o1jax.buckets import absolute
from o1jax.records import InputError
from o1jax.stages.manifest import Input, find_inputs, read_manifest, read_spec, run_hashes


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage by its manifest or, while it is not complete, by its spec."""

    directory: str  # its directory
    stage: str  # its name in stages.run.STAGES
    seed: int
    config: Mapping[str, Any]
    figures: Mapping[str, Any]  # none of a spec
    is_complete: bool
    inputs: tuple[Input, ...]

    def given(self, name: str) -> Input | None:
        """The input of that name, if there is one."""
        return next((given for given in self.inputs if given.name == name), None)

    def read(self, name: str) -> epath.Path:
        """The directory that was read under `name`; InputError if it is not there any more."""
        given = self.given(name) or Input(name, "", "", fault="none was given")
        if given.fault:
            raise InputError(f"{self.directory}: input {name} {given.directory}: {given.fault}")
        return epath.Path(given.directory)


def stages_behind(directory: epath.Path) -> dict[str, Stage]:
    """Directory -> stage: this one, then its inputs', each once and before its own inputs'. Inputs with a
    fault are not followed; published weights are no stage.

    InputError if `directory` is not the directory of a stage.
    """
    stages, waiting = {}, [str(absolute(directory))]
    hashes_in = functools.cache(run_hashes)  # for this call alone: the run may change before the next
    while waiting:
        at = waiting.pop()
        if at not in stages:
            directory = epath.Path(at)
            is_complete = (directory / "manifest.json").exists()
            written = read_manifest(directory) if is_complete else read_spec(directory)
            inputs, figures = find_inputs(directory, written, hashes_in), written.get("figures", {})
            name, seed, config = written["stage"], written["seed"], written["config"]
            stages[at] = Stage(at, name, seed, config, figures, is_complete, inputs)
            whole = [given.directory for given in inputs if not given.fault]
            waiting += [other for other in reversed(whole) if (epath.Path(other) / "manifest.json").exists()]
    return stages
