"""Server processes are started again when they end, later and later, and none outlives its owner's end."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import served
import tiny_engine as tiny

from o1jax.engine.vllm_engine import processes
from o1jax.engine.vllm_engine.processes import Server, ServerSettings
from o1jax.train.checkpoint import export_policy

ROOT = pathlib.Path(__file__).parents[3]
SETTINGS = ServerSettings(
    {"dtype": "float32", "enforce_eager": True, "enable_chunked_prefill": False}, cpu=True
)


@pytest.fixture
def program(monkeypatch, tmp_path):
    """Makes a server of a few lines of Python."""

    def make(lines):
        monkeypatch.setattr(processes, "command", lambda *_: [sys.executable, "-c", lines])
        return Server("model", 0, SETTINGS, tmp_path / "log")

    return make


def runs(pid):
    """Whether a process lives (a zombie does not)."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_server_that_ends_is_started_again_after_a_pause(program):
    server = program("import time; time.sleep(600)")
    assert server.restart_if_ended() == ""
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: server.restart_if_ended())
    assert server.restart_if_ended() == ""
    server.end()


def test_one_that_ends_at_once_is_not_started_in_a_busy_loop(program, monkeypatch):
    monkeypatch.setattr(processes, "FIRST_PAUSE_S", 0.2)
    server = program("raise SystemExit(3)")
    begin = time.monotonic()
    for _ in range(3):
        until(lambda: server.restart_if_ended())
    assert time.monotonic() - begin >= 0.2 + 0.4 + 0.8
    server.end()


def test_ending_a_server_ends_its_children_too(program, tmp_path):
    note = tmp_path / "pid"
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    lines = [
        "import pathlib, subprocess, sys, time",
        f"child = subprocess.Popen([sys.executable, '-c', {stubborn!r}])",
        f"pathlib.Path({str(note)!r}).write_text(str(child.pid))",
        "time.sleep(600)",
    ]
    server = program("\n".join(lines))
    until(lambda: note.exists() and note.read_text())
    server.end()
    until(lambda: not runs(int(note.read_text())))


def test_the_command_line_says_each_argument_and_what_the_user_adds():
    settings = ServerSettings(SETTINGS.arguments, cpu=False, port=9000, gpus=2, more=("--seed", "3"))
    words = processes.command("model", 1, settings)
    said = " ".join(words)
    assert "--port 9001" in said and "--dtype float32 --enforce-eager --no-enable-chunked-prefill" in said
    assert "--tensor-parallel-size 2" in said and words[-2:] == ["--seed", "3"]
    environment = processes.environment_of(1, settings)
    assert environment["CUDA_VISIBLE_DEVICES"] == "2,3" and environment["VLLM_SERVER_DEV_MODE"] == "1"


@pytest.mark.vllm
def test_serve_prints_endpoints_starts_a_killed_server_again_and_ends_all(tmp_path):
    export_policy(tmp_path / "policy", tiny.config(), tiny.graphdef_and_params()[1], tiny.tokenizer())
    flags = [f"--policy={tmp_path / 'policy'}", f"--workdir={tmp_path}", "--slots=2", "--context=64"]
    flags += [f"--port={served.free_ports(1)}"]
    command = [sys.executable, str(ROOT / "launch" / "serve.py"), *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    serve = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    lines = iter(serve.stdout.readline, "")
    url = next(line for line in lines if line.startswith("endpoints: ")).split()[1]
    served.answers(url)
    (pid,) = children(serve.pid)
    os.killpg(pid, signal.SIGKILL)
    assert "started again" in next(lines)
    served.answers(url)
    (again,) = children(serve.pid)
    serve.terminate()
    assert serve.wait(60) == 128 + signal.SIGTERM
    assert not runs(again)


def children(pid):
    return list(map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
