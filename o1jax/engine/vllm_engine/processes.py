"""vLLM servers as child processes: started, watched, restarted, ended.

Each has a process group of its own, since a server is several processes. Asks them nothing: whether one
that runs also answers is fleet.py's business.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from o1jax.engine.vllm_engine.settings import environment

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0  # before a server that ended is started again
ENDING_S = 10.0  # that a server has to end when asked
MODULE = "vllm.entrypoints.openai.api_server"


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """`arguments` are vllm_settings.arguments'; `more` command-line words that come after them. With
    `gpus` > 0 server i is given GPUs i * gpus and so on, and spreads the model over them. `transfer`: how
    weights come to it, "files", "nccl" or "ipc"."""

    arguments: Mapping[str, str | int | bool]
    cpu: bool
    port: int = 8000
    host: str = "127.0.0.1"
    gpus: int = 0
    transfer: str = "files"
    more: Sequence[str] = ()


class Server:
    """Server `index` of a model directory; its output goes to `log`, appended."""

    def __init__(self, model: str, index: int, settings: ServerSettings, log: pathlib.Path):
        self.url = f"http://{settings.host}:{settings.port + index}"
        self.restarts = 0
        self._command = command(model, index, settings)
        self._environment = {**os.environ, **environment_of(index, settings)}
        self._log, self._pause_s, self._process = log, FIRST_PAUSE_S, None
        self.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> None:
        """Starts it; returns before it answers."""
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started = time.monotonic()

    def restart_if_ended(self) -> str:
        """What happened, in words, if it had ended and was started again; else nothing. One that ends
        soon after its start is started again later and later."""
        code, ran_s = self._process.poll(), time.monotonic() - self._started
        if code is None:
            return ""
        if ran_s < self._pause_s:
            return ""
        self._pause_s = FIRST_PAUSE_S if ran_s > LONGEST_PAUSE_S else min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._signal(signal.SIGKILL)  # what it may have left behind
        self.restarts += 1
        self.start()
        return f"{self.url} ended with {code}, started again; its log is {self._log}"

    def end(self) -> None:
        """Asks it to end, and kills what has not after ENDING_S."""
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            pass
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        """To all of its processes."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass


def command(model: str, index: int, settings: ServerSettings) -> list[str]:
    """The command line of server `index`."""
    words = [sys.executable, "-m", MODULE, "--model", model, "--host", settings.host]
    words += ["--port", str(settings.port + index), "--enable-scale-out"]
    words += ["--enable-prompt-tokens-details", "--disable-log-stats"]
    if settings.gpus:
        words += ["--tensor-parallel-size", str(settings.gpus)]
    if settings.transfer != "files":
        words += ["--weight-transfer-config", json.dumps({"backend": settings.transfer})]
    for name, value in settings.arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(value)]
    return [*words, *settings.more]


def environment_of(index: int, settings: ServerSettings) -> dict[str, str]:
    """Variables of server `index`: what the environment already sets stays, but for these."""
    chosen = {name: os.environ.get(name, value) for name, value in environment(settings.cpu).items()}
    chosen["VLLM_SERVER_DEV_MODE"] = "1"  # pausing, reloading and labelling of weights
    if settings.transfer == "ipc":
        chosen["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # handles of the trainer's memory come pickled
    if settings.gpus:
        first = index * settings.gpus
        chosen["CUDA_VISIBLE_DEVICES"] = ",".join(str(first + i) for i in range(settings.gpus))
    return chosen
