"""vLLM servers as child processes: started, watched, restarted, ended.

Each has a process group of its own, since a server is several processes. Asks them nothing: whether one
that runs also answers is fleet.py's business.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
    """What all servers of a model have in common."""

    arguments: Mapping[str, str | int | bool]  # of settings.arguments
    cpu: bool  # whether this vLLM computes on the CPU
    port: int = 8000  # of server 0; server i listens on port + i
    host: str = "127.0.0.1"  # the address that they listen on
    gpus: int = 0  # a server; server i is given i * gpus and so on, and splits the model; 0: as vLLM chooses
    more: Sequence[str] = ()  # the user's own command-line words, last so that they win


class Server:
    """Server `index` of a model directory; its output goes to `log`, appended."""

    def __init__(self, model: str, index: int, settings: ServerSettings, log: pathlib.Path):
        self.url = f"http://{settings.host}:{settings.port + index}"
        self._command = command(model, index, settings)
        self._environment = {**os.environ, **environment_of(index, settings)}
        self._log, self._pause_s, self._process = log, FIRST_PAUSE_S, None
        self.start()

    @property
    def pid(self) -> int:
        """Of its first process, and of the group."""
        return self._process.pid

    def start(self) -> None:
        """Starts it; returns before it answers."""
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a process group: a server is several processes, and all must end
            )
        self._started = time.monotonic()

    def restart_if_ended(self) -> str:
        """What happened, in words, if it had ended and was started again; else nothing. One that ends
        soon after its start is started again later and later."""
        code, ran_s = self._process.poll(), time.monotonic() - self._started
        # Not at once: with a wrong flag or a port in use it would be started as fast as it fails.
        if code is None or ran_s < self._pause_s:
            return ""
        self._pause_s = FIRST_PAUSE_S if ran_s > LONGEST_PAUSE_S else min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._signal(signal.SIGKILL)  # what it may have left behind
        self.start()
        return f"{self.url} ended with {code}, started again; its log is {self._log}"

    def end(self) -> None:
        """Asks it to end, and kills what has not after ENDING_S."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING_S)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        """To all of its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def command(model: str, index: int, settings: ServerSettings) -> list[str]:
    """The command line of server `index`."""
    # The module and not `vllm serve`, for whose entry point the CPU build lacks the metadata.
    words = [sys.executable, "-m", MODULE, "--model", model, "--host", settings.host]
    words += ["--port", str(settings.port + index), "--enable-scale-out"]
    words += ["--enable-prompt-tokens-details", "--disable-log-stats"]
    if settings.gpus:
        words += ["--tensor-parallel-size", str(settings.gpus)]
    for name, value in settings.arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(value)]
    return [*words, *settings.more]


def environment_of(index: int, settings: ServerSettings) -> dict[str, str]:
    """Variables of server `index`: what the environment already sets stays, but for dev mode and GPUs."""
    chosen = {name: os.environ.get(name, value) for name, value in environment(settings.cpu).items()}
    chosen["VLLM_SERVER_DEV_MODE"] = "1"  # pausing, reloading and labelling of weights
    if settings.gpus:
        first = index * settings.gpus
        chosen["CUDA_VISIBLE_DEVICES"] = ",".join(str(first + i) for i in range(settings.gpus))
    return chosen
