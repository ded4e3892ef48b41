"""Commands rehearsed: what is wrong with their flags, pages and settings, without running any stage.

    python tests/rehearsal.py < commands.json > errors.json

Reads a list of lists (script, flags), prints a list of texts, "" where nothing is wrong. Scripts run as they
are, but for: a stage only parses its settings; a script without --config ends when its flags are parsed, and
so does a benchmark. Every command has a process of its own, forked when all is imported.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import multiprocessing
import os
import pathlib
import runpy
import sys
import tempfile
import types
import warnings

from absl import app, flags
from etils import epath

from o1jax.recipes import recipe
from o1jax.report import summary
from o1jax.report.run_files import RunFiles
from o1jax.stages import run, settings

ROOT = pathlib.Path(__file__).parents[1]
FIGURES = {
    "generated_tokens": 1000,
    "trained_tokens": 500,
    "next_update": 1,
    "passing_paths": 1,
    "samples": 10,
}
TORCH = types.SimpleNamespace(nn=types.SimpleNamespace(Module=object))  # where it is not installed
TAKE_WORDS = ("export", "report", "lineage", "serve")  # scripts that take more than flags


def parsed(out, spec):
    """A stage's manifest, once its settings are parsed."""
    settings.parse(run.module_of(spec.stage).Settings, spec.config, spec.stage)
    out.mkdir(parents=True, exist_ok=True)
    manifest = {"figures": FIGURES, "timings": {"seconds": 0.0}, "places": dict(spec.inputs)}
    (out / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return manifest


def until_main(main, flags_parser):
    """In place of absl's app.run."""
    words = flags_parser(sys.argv)
    if "config" in flags.FLAGS:
        with tempfile.TemporaryDirectory() as place:
            os.chdir(place)
            main(words)
    elif len(words) > 1 and pathlib.Path(sys.argv[0]).stem not in TAKE_WORDS:
        sys.exit(f"saw {words[1:]}, wanted flags alone")


def until_parsed(parser, *given):
    """In place of argparse's parse_args."""
    _, unknown = parser.parse_known_args(*given)
    sys.exit(f"unknown {unknown}" if unknown else 0)


def rehearse(command):
    """ "" or what is wrong, in a line."""
    script, *sys.argv[1:] = command
    sys.argv[0], said, printed = script, *(io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    if importlib.util.find_spec("torch") is None:
        sys.modules["torch"] = TORCH
    if script.startswith("tests/") and "argparse" not in pathlib.Path(script).read_text(encoding="utf-8"):
        return "" if not any(word.startswith("-") for word in command) else f"{script} takes no flags"
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed):
            runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as ended:
        if ended.code not in (0, None):
            said.seek(0)
            return ((said.read().strip() or str(ended.code)).splitlines())[-1]
    return ""


def main():
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT / "launch"))
    for stage in run.STAGES:
        run.module_of(stage)
    app.run, argparse.ArgumentParser.parse_args = until_main, until_parsed
    run.run = run.run_in_child = recipe.run_in_child = parsed
    closing = importlib.import_module("closing")
    closing.of_run = closing.of_stage = lambda *words, **more: None
    recipe.Recipe.check_given = lambda self: None
    recipe.Recipe.report = lambda self: summary.of(RunFiles(epath.Path(self.workdir)))
    warnings.simplefilter("ignore")  # JAX's, of forks: no device is in use here
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        json.dump(pool.map(rehearse, json.load(sys.stdin), chunksize=1), sys.stdout)


if __name__ == "__main__":
    main()
