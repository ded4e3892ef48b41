"""Runs one stage by name, here or as a child process.

The table STAGES is the list of what there is; the stages themselves live in their files.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
from etils import epath

from o1jax.parallel.processes import (
    compute_environment,
    start_processes,
    stay_alone,
    tell,
    this_process,
)
from o1jax.problems.load import file_of
from o1jax.records import InputError
from o1jax.stages import manifest, settings
from o1jax.stages.beats import TRY_AGAIN, Beats, PeerLost
from o1jax.stages.leases import remove_leases
from o1jax.stages.logs import process_log
from o1jax.stages.together import Division, key_of, reporting_failure, wait_for
from o1jax.train.throughput import start_profiler_server
from o1jax.writing import naming

STAGES: dict[str, tuple[str, Division]] = {  # name -> (its module, how several processes go about it)
    "check_problems": ("o1jax.prepare.check_problems", "one"),
    "warm_up": ("o1jax.policy.warm_up", "one"),
    "search": ("o1jax.search.search_stage", "share"),
    "sample": ("o1jax.search.sample_stage", "share"),
    "policy_sft": ("o1jax.policy.sft", "train"),
    "policy_dpo": ("o1jax.policy.dpo", "train"),
    "policy_rl": ("o1jax.rl.policy_rl", "train"),
    "prm": ("o1jax.prm.prm", "train"),
    "evaluate": ("o1jax.evaluation.evaluate", "share"),
    "tcg_sft": ("o1jax.tcg.sft", "train"),
    "tcg_dpo": ("o1jax.tcg.dpo", "train"),
    "tcg_adversarial": ("o1jax.tcg.adversarial", "one"),
    "evaluate_tcg": ("o1jax.tcg.evaluate", "one"),
    "evaluate_selection": ("o1jax.evaluation.selection", "one"),
    "write_tests": ("o1jax.tcg.write_tests", "one"),
}

REFUSED = 2  # exit code after one line on stderr


def run(out: epath.Path, spec: manifest.StageSpec) -> dict[str, Any]:
    """The stage's manifest; a finished stage is not run again.

    Raises InputError for an unknown stage or key, a directory made from another spec, a disk that takes no
    more, and when another process of the same stage failed.
    """
    if spec.stage not in STAGES:
        raise InputError(f"stage {spec.stage!r}: no such stage; there are {', '.join(STAGES)}")
    with reporting_failure(out) as beats, naming(out):
        return _run(out, spec, beats)


def _run(out: epath.Path, spec: manifest.StageSpec, beats: Beats | None) -> dict[str, Any]:
    module = module_of(spec.stage)
    parsed = settings.parse(module.Settings, spec.config, spec.stage)
    leads = this_process().index == 0
    if not leads:
        asyncio.run(wait_for(out, [out / "manifest.json", out / "spec.json"], 0))
    spec = with_files(spec)
    finished = manifest.begin(out, spec)
    if finished is not None:
        return finished
    _, together = STAGES[spec.stage]
    if not leads and together == "one":
        return finished_by_another(out)
    if together == "train":
        if beats is not None:
            beats.ends_with_others.set()
        start_processes()
    else:
        stay_alone()
    keep_compiled_programs()
    start_profiler_server()
    started = time.monotonic()
    inputs = {name: epath.Path(path) for name, path in spec.inputs.items()}
    with process_log(out):
        result = module.run(out, parsed, inputs, spec.seed)
    if not leads:
        return finished_by_another(out)
    timings = {"seconds": round(time.monotonic() - started, 2), **result.timings}
    finished = manifest.finish(out, spec, manifest.StageResult(result.figures, timings))
    tell(key_of(out / "manifest.json"))
    remove_leases(out)
    return finished


def with_files(spec: manifest.StageSpec) -> manifest.StageSpec:
    """The spec with the local files that its settings name: with other contents it is another stage."""
    if spec.stage != "check_problems":
        return spec
    sources = filter(None, [spec.config.get("source"), *spec.config.get("keep_apart", ())])
    files = {f"source_{k}": str(path) for k, source in enumerate(sources) if (path := file_of(source))}
    return dataclasses.replace(spec, files=files)


def module_of(stage: str) -> ModuleType:
    """Where a stage of STAGES lives: it has a dataclass Settings and run(out, settings, inputs, seed)."""
    module, _ = STAGES[stage]
    return importlib.import_module(module)


def finished_by_another(out: epath.Path) -> dict[str, Any]:
    """The manifest, when process 0 has written it."""
    asyncio.run(wait_for(out, [out / "manifest.json"], 0))
    return manifest.read_manifest(out)


def keep_compiled_programs() -> None:
    """XLA's programs are kept on disk between stages and runs; JAX_COMPILATION_CACHE_DIR says where,
    else a directory in the user's cache."""
    if jax.config.jax_compilation_cache_dir is None:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "o1jax", "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def run_in_child(out: epath.Path, spec: manifest.StageSpec) -> dict[str, Any]:
    """As `run`, in a process of its own (D5): clean memory, and a crash is one stage's.

    Raises SystemExit when the child refused its input or lost another process, which its own line on stderr
    says, and InputError when it was killed or crashed.
    """
    if (out / "manifest.json").exists():
        return manifest.begin(out, with_files(spec)) or {}
    request = json.dumps(
        {"stage": spec.stage, "config": dict(spec.config), "seed": spec.seed, "inputs": dict(spec.inputs)}
    )
    environment = compute_environment(dict(os.environ))
    child = subprocess.Popen([sys.executable, "-m", "o1jax.stages", str(out), request], env=environment)
    try:
        code = child.wait()
    except BaseException:  # Ctrl-C, SIGTERM as SystemExit: the child saves and ends first
        child.send_signal(signal.SIGTERM)
        child.wait()
        raise
    if code in (REFUSED, TRY_AGAIN):
        raise SystemExit(code)
    if code == -signal.SIGABRT and this_process().count > 1 and STAGES[spec.stage][1] == "train":
        # So JAX ends a process when process 0 is gone, with its coordinator: no code of this one runs then.
        raise PeerLost(f"{out}: process 0 was lost, or this one crashed; the same command goes on")
    if code:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
        raise InputError(f"{out}: stage {spec.stage} {how}; run the same command again to go on from there")
    return manifest.read_manifest(out)


def spec_of(request: Mapping[str, Any]) -> manifest.StageSpec:
    """The spec in a child's request."""
    return manifest.StageSpec(request["stage"], request["config"], request["seed"], request["inputs"])
