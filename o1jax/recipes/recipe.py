"""A recipe: a run's directory, its config page and its seed; every step of it is a stage.

A stage reads directories and writes one, in a process of its own. Running a recipe again goes on where
it stopped. Reads no flags (launch/ does).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from o1jax.parallel.processes import this_process
from o1jax.parallel.seeds import fold_seed
from o1jax.records import InputError
from o1jax.report import page, summary
from o1jax.report.run_files import RunFiles
from o1jax.stages.manifest import StageSpec, input_hash, read_manifest
from o1jax.stages.run import run_in_child
from o1jax.stages.settings import merged

# Setting, of a directory or more with commas between them -> what raises for one of another kind.
STAGES = ("references_from", "prm_from", "pool_trees", "held_out_trees", "more_trees")
GIVEN = {"policy": input_hash, "tcg_from": input_hash, **dict.fromkeys(STAGES, read_manifest)}


@dataclasses.dataclass(frozen=True)
class Recipe:
    workdir: epath.Path  # of the run
    config: Mapping[str, Any]  # the resolved config page: stage settings by name, and the recipe's own
    seed: int  # of the run

    def check_given(self) -> None:
        """InputError for a directory that the config names and that does not hold what is wanted. Called
        before anything runs: it may be hours until a stage reads it."""
        for setting, check in GIVEN.items():
            for given in filter(None, self.config.get(setting, "").split(",")):
                try:
                    check(epath.Path(given))
                except InputError as error:
                    raise InputError(f"--config.{setting}: {error}") from error

    def stage(self, name: str, path: str, page: str = "", **inputs: str) -> str:
        """Runs stage `name` with the settings on `page` (`name`, if empty) into workdir/<path>, unless it is
        finished there, and returns that directory. `inputs` are directories; empty ones are left out."""
        out = self.workdir / path
        spec = StageSpec(
            stage=name,
            config=self.config[page or name],
            seed=fold_seed(self.seed, path),  # no two stages of a run share one
            inputs={key: directory for key, directory in inputs.items() if directory},
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
        if this_process().index:
            return summary.of(files)
        figures = summary.write(files)
        page.write(self.workdir / "report.html", files, figures)
        for fault in files.faults:
            logging.warning("damaged or missing: %s", fault)
        return figures

    def problems(self, name: str, page: str = "", parent: str = "problems") -> str:
        """The problems that `page` (`name`, if empty) describes, checked, in workdir/<parent>/<name>."""
        return self.stage("check_problems", f"{parent}/{name}", page or name)

    def with_page(self, name: str, **changes: Any) -> Recipe:
        """The recipe with changes on one page."""
        page = merged(self.config.get(name, {}), changes)
        return dataclasses.replace(self, config={**self.config, name: page})


def warmed_up(recipe: Recipe) -> str:
    """A nano policy, warmed up on the ladder, for the recipes that may be given one."""
    references = recipe.problems("references", parent="warm_up_problems")
    validation = recipe.problems("validation", parent="warm_up_problems")
    return recipe.stage("warm_up", "warm_up", references=references, validation=validation)


def found_inputs(directories: Sequence[str]) -> dict[str, str]:
    """Stages of search or sampling, as the inputs found_0, found_1, ..."""
    return {f"found_{k}": directory for k, directory in enumerate(directories)}


def figures(directory: str) -> dict[str, Any]:
    """Of a finished stage."""
    return read_manifest(epath.Path(directory))["figures"]
