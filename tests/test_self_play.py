"""The whole recipe in small, in real child processes: it finishes, resumes after SIGKILL, refuses."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TINY = [
    "--config=configs/self_play.py:demo",
    "--config.rounds=1",
    "--config.arms=('search','sampling','more_warm_up')",
    "--config.references.counts.rung_1=8",
    "--config.references.counts.rung_2=8",
    "--config.references.counts.rung_3=0",
    "--config.references.counts.rung_4=0",
    *(
        f"--config.{page}.counts.rung_{rung}={n}"
        for page in ("validation", "pool")
        for rung, n in ((2, 3), (3, 3), (4, 0))
    ),
    *(f"--config.held_out.counts.rung_{rung}={n}" for rung, n in ((2, 4), (3, 4), (4, 0))),
    "--config.warm_up.max_steps=6",
    "--config.warm_up.evaluate_every=3",
    "--config.policy_sft.train_tokens=8000",
    "--config.search.search.rollouts=3",
    "--config.search_evaluate.search_problems=2",
    "--config.search_evaluate.search.rollouts=2",
]


def start(workdir, *more):
    command = [sys.executable, "launch/self_play.py", *TINY, f"--workdir={workdir}", *more]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process):
    output, _ = process.communicate(timeout=900)
    return process.returncode, output


def figures(workdir):
    return {
        str(path.parent.relative_to(workdir)): json.loads(path.read_text())["figures"]
        for path in sorted(workdir.glob("**/manifest.json"))
    }


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
    assert set(summary["compare"]) == {"more_warm_up", "sampling"}
    assert "pass@1" in output and "summary.json" in output


def test_sampling_spends_the_tokens_that_search_spent(finished):
    found = figures(finished[0])
    search, sample = found["round_00/search"], found["compare/sampling/round_00/sample"]
    half_an_answer = 176 / 2
    assert abs(sample["generated_tokens"] - search["generated_tokens"]) <= half_an_answer * search["problems"]


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


def test_a_run_killed_in_the_middle_ends_as_the_undisturbed_one(finished, tmp_path):
    undisturbed, _ = finished
    for place in ("warm_up/fit", "round_00/search/spec.json", "round_00/policy_sft/fit"):
        process = start(tmp_path)
        while process.poll() is None and not (tmp_path / place).exists():
            time.sleep(0.05)
        time.sleep(1.0)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    code, output = finish(start(tmp_path))
    assert code == 0, output
    assert figures(tmp_path) == figures(undisturbed)
