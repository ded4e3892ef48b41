"""Stages whose run is in a bucket give the figures of a run on a disk, and go on where they were stopped."""

import os
import signal

import bucket
import pytest
from etils import epath
from several_stages import BUDGET, SAMPLE, build

from o1jax import buckets
from o1jax.report import page, summary
from o1jax.report.run_files import RunFiles
from o1jax.stages.manifest import StageSpec
from o1jax.stages.run import run
from o1jax.train import loop
from o1jax.train.resumable import Preempted
from o1jax.writing import read_growing

PLAY = {"sample": SAMPLE, "engine": {"slots": 8, "context": 256}, "concurrency": 8}
STAGES = [  # (stage, settings, inputs)
    ("check_problems", {"source": "ladder:pool", "counts": {"rung_1": 4}}, {}),
    ("sample", {**PLAY, "stop": {"answers": 2}}, {"policy": "policy", "problems": "check_problems"}),
    ("policy_sft", BUDGET, {"policy": "policy", "found_0": "trees_0", "references": "check_problems"}),
    ("evaluate", {**PLAY, "ks": (1, 2)}, {"policy": "policy_sft", "problems": "check_problems"}),
]


def run_stage(root, stage, settings, inputs):
    spec = StageSpec(stage, settings, 0, {name: str(root / at) for name, at in inputs.items()})
    return run(root / stage, spec)


def stopped(root, monkeypatch):
    """policy_sft in `root`, which SIGTERM ends after two steps."""
    advance = loop.Run._advance

    def advance_and_stop(self, own):
        advance(self, own)
        if self.progress.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Run, "_advance", advance_and_stop)
    with pytest.raises(Preempted):
        run_stage(root, *STAGES[2])
    monkeypatch.setattr(loop.Run, "_advance", advance)


def test_a_run_in_a_bucket_gives_the_figures_of_one_on_a_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(buckets, "FIRST_WAIT_S", 0.001)
    roots = {"disk": epath.Path(tmp_path), "bucket": epath.Path(bucket.opened()) / "run"}
    figures = {}
    for name, root in roots.items():
        build(root)
        for stage in STAGES:
            if name == "bucket" and stage[0] == "policy_sft":
                stopped(root, monkeypatch)
            manifest = run_stage(root, *stage)
            figures.setdefault(stage[0], []).append((manifest["figures"], manifest["inputs"]))
    for stage, (on_disk, in_bucket) in figures.items():
        assert on_disk == in_bucket, stage
    reports = {}
    for name, root in roots.items():
        files = RunFiles(root)
        page.write(root / "report.html", files, summary.of(files))
        reports[name] = sorted(files.stages), [fault.replace(str(root), "") for fault in files.faults]
        assert "policy_sft" in (root / "report.html").read_text(encoding="utf-8")
    assert reports["disk"] == reports["bucket"] and bucket.REFUSED
    log = read_growing(roots["bucket"] / "policy_sft/logs/process_00000.log")
    assert log.count("begins, as process 0 of 1") == 2 and "Preempted" in log and "tokens/s" in log
