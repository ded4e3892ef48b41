"""The whole recipe in small, in real child processes: it finishes, resumes after SIGKILL, refuses."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
KILLS = 20
STAGE_START_S = 4.0  # of a process, before its stage's clock runs
TINY = [
    "--config=configs/self_play.py:demo",
    "--config.rounds=1",
    "--config.arms=('self_play','sampling')",
    "--config.steps=('policy_sft','prm','policy_rl','policy_dpo')",
    "--config.references.counts.rung_1=8",
    "--config.references.counts.rung_2=8",
    "--config.references.counts.rung_3=0",
    "--config.references.counts.rung_4=0",
    *(f"--config.validation.counts.rung_{rung}={n}" for rung, n in ((2, 3), (3, 3), (4, 0))),
    *(f"--config.held_out.counts.rung_{rung}={n}" for rung, n in ((2, 4), (3, 4), (4, 0))),
    "--config.tcg_problems.counts.rung_1=10",
    "--config.tcg_problems.counts.rung_2=0",
    "--config.warm_up.train.rows_per_batch=4",
    "--config.warm_up.train.warmup_steps=5",
    "--config.warm_up.max_steps=120",
    "--config.warm_up.evaluate_every=60",
    "--config.policy_sft.train_tokens=8000",
    *(f"--config.{page}.train_tokens=4000" for page in ("tcg_sft", "tcg_dpo", "prm", "policy_dpo")),
    "--config.policy_rl.updates=3",
    "--config.policy_rl.problems_per_update=2",
    "--config.policy_rl.sample.n=4",
    *(f"--config.calibration.counts.rung_{rung}={n}" for rung, n in ((2, 30), (3, 30), (4, 0))),
    "--config.search.search.rollouts=3",
    "--config.search.draw.problems=10",
    "--config.search_evaluate.search_problems=2",
    "--config.search_evaluate.search.rollouts=2",
]


def start(workdir, *more):
    pool = f"--config.pool.source={workdir}/problems/references"  # which it can solve
    command = [sys.executable, "launch/self_play.py", *TINY, pool, f"--workdir={workdir}", *more]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process):
    try:
        output, _ = process.communicate(timeout=1800)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # or it works on beside all tests after this one
        raise
    return process.returncode, output


def figures(workdir):
    return {
        str(path.parent.relative_to(workdir)): json.loads(path.read_text())["figures"]
        for path in sorted(workdir.glob("**/manifest.json"))
    }


def in_order(workdir):
    """path -> the seconds that its stage took, in the order in which they finished."""
    paths = sorted(workdir.glob("**/manifest.json"), key=lambda path: path.stat().st_mtime)
    timings = [json.loads(path.read_text())["timings"]["seconds"] for path in paths]
    return {str(path.parent.relative_to(workdir)): s for path, s in zip(paths, timings, strict=True)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    code, output = finish(start(workdir))
    assert code == 0, output
    return workdir, output


def test_a_run_writes_the_summary_and_prints_the_table(finished):
    workdir, output = finished
    summary = json.loads((workdir / "summary.json").read_text())
    assert list(summary["held_out_pass_at_1"]) == ["warm_up", "round_0", "final"]
    assert set(summary["held_out_pass_at_1"]["final"]) == {"mean", "low", "high", "n"}
    assert summary["totals"]["generated_tokens"] > 0 and summary["totals"]["trained_tokens"] > 0
    assert set(summary["compare"]) == {"sampling"}
    assert set(summary["tcg"]) == {"dpo"}
    assert "pass@1" in output and "summary.json" in output
    assert f"look at: {workdir}/report.html" in output and (workdir / "report.html").exists()
    assert "damaged" not in output


def test_sampling_spends_the_tokens_that_scout_and_search_spent(finished):
    found = figures(finished[0])
    scout, search = found["round_00/scout"], found["round_00/search"]
    spent = scout["generated_tokens"] + search["generated_tokens"]
    sample = found["compare/sampling/round_00/sample"]
    half_an_answer = 176 / 2
    assert sample["tokens_to_match"] == spent
    assert abs(sample["generated_tokens"] - spent) <= half_an_answer * sample["problems"]


def test_a_finished_run_is_not_run_again(finished):
    workdir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("**/manifest.json")}
    began = time.monotonic()
    code, output = finish(start(workdir))
    assert code == 0, output
    assert {path: path.stat().st_mtime_ns for path in workdir.glob("**/manifest.json")} == before
    assert time.monotonic() - began < 120


def test_another_config_is_refused_in_one_line(finished):
    workdir, _ = finished
    code, output = finish(start(workdir, "--config.search.search.rollouts=4"))
    assert code == 2
    assert "search.rollouts was 3, now 4" in output.strip().splitlines()[-1]


def test_an_unknown_key_is_refused_in_one_line(tmp_path):
    code, output = finish(start(tmp_path, "--config.search.rolouts=4"))
    assert code == 2
    assert output.strip().splitlines()[-1].startswith("error:") and "rolouts" in output


@pytest.mark.hostile
def test_a_run_killed_at_twenty_moments_ends_as_the_undisturbed_one(finished, tmp_path):
    """Every stage is killed at least once, at a random moment of the time that it took undisturbed."""
    undisturbed, rng, kills = finished[0], random.Random(0), 0
    seconds = in_order(undisturbed)
    paths = list(seconds)
    for path in paths + rng.choices(paths, k=max(0, KILLS - len(paths))):
        process = start(tmp_path)
        while process.poll() is None and not (tmp_path / path / "spec.json").exists():
            time.sleep(0.02)
        time.sleep(rng.random() * (STAGE_START_S + seconds[path]))
        if process.poll() is None:  # not reaped yet, so its group is still there
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills >= KILLS
    code, output = finish(start(tmp_path))
    assert code == 0, output
    assert figures(tmp_path) == figures(undisturbed)
