"""Lines survive a kill, a resumed run cuts those past its step, and progress suits its stream."""

import io
import json
import pathlib

from o1jax.train.metrics import MetricsLog, ProgressLine


def steps(directory) -> list[int]:
    return [
        json.loads(line)["step"]
        for line in (pathlib.Path(directory) / "metrics.jsonl").read_text().splitlines()
    ]


def test_a_line_is_on_disk_when_write_returns(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        log.write(1, {"loss": 0.5})
        assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": 0.5}
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_resumed_run_cuts_lines_past_its_step_and_a_torn_one(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        for step in range(1, 6):
            log.write(step, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    with MetricsLog(tmp_path, 3) as log:
        log.write(4, {"loss": 2.0})
    assert steps(tmp_path) == [1, 2, 3, 4]


def test_other_processes_write_nothing(tmp_path):
    with MetricsLog(tmp_path, 0, writes=False) as log:
        log.write(1, {"loss": 0.5})
    assert not list(tmp_path.iterdir())
    stream = io.StringIO()
    ProgressLine("sft", 4, stream, writes=False).show(4, "done", now=True)
    assert not stream.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_a_file_plain_lines():
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        line = ProgressLine("sft", 4, stream)
        line.show(2, "loss 1.0")
        line.show(3, "too soon")
        line.show(4, "done", now=True)
    assert "\rsft: 100%" in terminal.getvalue() and "4/4" in terminal.getvalue()
    assert "\rsft 4/4 done\n" in terminal.getvalue() and "2/4 loss" not in terminal.getvalue()
    assert file.getvalue() == "sft 2/4 loss 1.0\nsft 4/4 done\n"
