"""A process's log has what it said on stderr, what was logged, and how it ended."""

import logging
import sys

import pytest
from etils import epath

from o1jax.parallel.processes import Process
from o1jax.stages import logs
from o1jax.stages.logs import process_log
from o1jax.train import throughput


def test_a_log_holds_lines_warnings_and_the_failure(tmp_path, monkeypatch, capsys):
    process = Process(3, 8, "there")
    monkeypatch.setattr(logs, "this_process", lambda: process)
    monkeypatch.setattr(throughput, "this_process", lambda: process)
    before = sys.stderr
    with pytest.raises(ValueError, match="no"), process_log(epath.Path(tmp_path)):
        print("on standard error", file=sys.stderr)
        sys.stderr.write("\r1%\r2%")
        sys.stderr.write("\rdone\n")
        logging.warning("a %s", "warning")
        throughput.say("12 tokens/s")
        raise ValueError("no")
    assert sys.stderr is before and capsys.readouterr().err.startswith("on standard error\n\r1%\r2%\rdone\n")
    text = (tmp_path / "logs" / "process_00003.log").read_text(encoding="utf-8")
    said = [line.split(" ", 2)[2] for line in text.splitlines() if line[:2] == "20"]
    begins = "begins, as process 3 of 8"
    assert said[:5] == [begins, "on standard error", "done", "a warning", "12 tokens/s"]
    assert "ValueError: no" in text and "1%" not in text
