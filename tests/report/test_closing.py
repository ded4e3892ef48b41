"""The end of a launch script: what was done, the headline, what to look at, what to run next."""

import json
import pathlib
import subprocess
import sys

import made_run

ROOT = pathlib.Path(__file__).parents[2]


def launch(script, *flags):
    command = [sys.executable, f"launch/{script}.py", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout.strip().splitlines(), done.stderr.strip().splitlines()


def test_the_report_script_writes_the_page_and_says_so(tmp_path):
    run = made_run.whole(tmp_path / "run")
    code, lines, _ = launch("report", str(run))
    assert code == 0 and lines[-1] == f"look at: {run}/report.html" and (run / "report.html").exists()
    assert lines[-3].startswith("It learned: self-play: pass@1 on 8 held-out problems: 12.5 % → 81.2 %")


def test_it_names_what_is_damaged_and_writes_the_rest_elsewhere(tmp_path):
    run = made_run.whole(tmp_path / "run")
    (run / "prm/hard/manifest.json").write_text("{")
    code, lines, errors = launch("report", str(run), f"--out={tmp_path / 'page.html'}")
    assert code == 0 and (tmp_path / "page.html").exists() and not (run / "report.html").exists()
    assert any(
        line.startswith("damaged or missing: ") and "prm/hard/manifest.json" in line for line in errors
    )


def test_it_refuses_what_is_no_directory_in_one_line(tmp_path):
    for arguments in ([str(tmp_path / "none")], []):
        code, _, errors = launch("report", *arguments)
        assert code == 2 and errors[-1].startswith("error: ") and "directory of a run" in errors[-1]


def test_a_stage_ends_with_what_to_run_next(tmp_path):
    counts = [f"--config.check_problems.counts.rung_{rung}={int(rung == 2)}" for rung in (2, 3, 4)]
    code, lines, errors = launch("prepare", *counts, f"--workdir={tmp_path}")
    assert code == 0, errors
    figures = json.loads((tmp_path / "manifest.json").read_text())["figures"]
    assert figures["kept"] == 1 and lines[-2] == f"look at: {tmp_path}/report.html"
    assert lines[-1].startswith("next: python launch/search.py") and lines[-1].endswith(f"={tmp_path}")
