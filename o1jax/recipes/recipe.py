"""A recipe: a run's directory, its config page and its seed; every step of it is a stage.

A stage reads directories and writes one, in a process of its own. Running a recipe again goes on where
it stopped. Does not read flags (launch/ does).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from o1jax.parallel.processes import place
from o1jax.parallel.seeds import fold_seed
from o1jax.records import InputError
from o1jax.report import page, summary
from o1jax.report.run_files import RunFiles
from o1jax.stages.manifest import StageSpec, input_hash, read_manifest
from o1jax.stages.run import run_in_child
from o1jax.stages.settings import merged

GIVEN = {  # setting, of one place or more with commas between them -> what refuses another
    "policy": input_hash,
    "tcg_from": input_hash,
    "references_from": read_manifest,
    "prm_from": read_manifest,
    "pool_trees": read_manifest,
    "held_out_trees": read_manifest,
    "more_trees": read_manifest,
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A run: its directory, the resolved config page (stage settings by name), and the seed."""

    workdir: epath.Path
    config: Mapping[str, Any]
    seed: int

    def check_given(self) -> None:
        """InputError for a place that the config names and where there is not what is wanted: before anything
        runs, which may be hours before it is read."""
        for setting, wanted in GIVEN.items():
            for given in filter(None, self.config.get(setting, "").split(",")):
                try:
                    wanted(epath.Path(given))
                except InputError as error:
                    raise InputError(f"--config.{setting}: {error}") from error

    def stage(self, name: str, place: str, page: str = "", **inputs: str) -> str:
        """Runs stage `name` with the settings on `page` into workdir/place, and returns that directory.

        `inputs` are directories of finished stages; empty ones are left out. The seed folds in the
        place: no two stages share one.
        """
        out = self.workdir / place
        spec = StageSpec(
            stage=name,
            config=self.config[page or name],
            seed=fold_seed(self.seed, place),
            inputs={key: path for key, path in inputs.items() if path},
        )
        is_new = not (out / "manifest.json").exists()
        run_in_child(out, spec)
        if is_new:
            self.report()
        return str(out)

    def report(self) -> dict[str, Any]:
        """Writes summary.json and report.html of what is finished so far, in process 0 alone; returns the
        summary."""
        files = RunFiles(self.workdir)
        if place().index:
            return summary.of(files)
        figures = summary.write(files)
        page.write(self.workdir / "report.html", files, figures)
        for fault in files.faults:
            logging.warning("damaged or missing: %s", fault)
        return figures

    def problems(self, name: str, page: str = "", directory: str = "problems") -> str:
        """The problems that `page` (`name`, if empty) describes, checked, in workdir/<directory>/<name>."""
        return self.stage("check_problems", f"{directory}/{name}", page or name)

    def with_page(self, name: str, **changes: Any) -> Recipe:
        """The recipe with changes on one page."""
        page = merged(self.config.get(name, {}), changes)
        return dataclasses.replace(self, config={**self.config, name: page})


def warmed_up(recipe: Recipe) -> str:
    """A nano policy, warmed up on the ladder, for the recipes that may be given one."""
    references = recipe.problems("references", directory="warm_up_problems")
    validation = recipe.problems("validation", directory="warm_up_problems")
    return recipe.stage("warm_up", "warm_up", references=references, validation=validation)


def found(places: Sequence[str]) -> dict[str, str]:
    """Stages that found something, as the inputs found_0, found_1, ..."""
    return {f"found_{k}": place for k, place in enumerate(places)}


def figures(place: str) -> dict[str, Any]:
    """Of a finished stage."""
    return read_manifest(epath.Path(place))["figures"]
