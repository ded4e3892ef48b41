"""Where figures of a run go: JSON lines, TensorBoard, and a bar on a terminal or plain lines elsewhere.

Every line of metrics.jsonl has a `step`, the number of finished updates. A resumed run first cuts the
lines past its step. Does not compute figures, and never touches a device.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import TextIO

import tensorboardX
from etils import epath

PLAIN_LINE_EVERY_S = 15.0
BAR_EVERY_S = 0.2
BAR_WIDTH = 24


class MetricsLog:
    """metrics.jsonl and tensorboard/ of one directory; a context manager."""

    def __init__(self, directory: epath.PathLike, resume_step: int, *, writes: bool = True):
        """Keeps what is there up to `resume_step`. `writes` False makes every call do nothing."""
        self._file: TextIO | None = None
        if writes:
            directory = epath.Path(directory)
            directory.mkdir(parents=True, exist_ok=True)
            truncate_after(directory / "metrics.jsonl", resume_step)
            self._file = (directory / "metrics.jsonl").open("a")
            self._board = tensorboardX.SummaryWriter(
                str(directory / "tensorboard"), purge_step=resume_step + 1 if resume_step else None
            )

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()
            self._board.close()

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """One line, in the operating system's hands when this returns: a killed process loses none."""
        if self._file is not None:
            self._file.write(json.dumps({"step": step, **figures}) + "\n")
            self._file.flush()
            for name, value in figures.items():
                self._board.add_scalar(name, value, step)


def truncate_after(path: epath.Path, step: int) -> None:
    """Rewrites a JSON-lines file without the lines past `step` and without a torn last line."""
    if path.exists():
        whole = path.read_text().split("\n")[:-1]
        kept = [line for line in whole if json.loads(line)["step"] <= step]
        partial = path.parent / f"{path.name}.partial"
        partial.write_text("".join(line + "\n" for line in kept))
        partial.replace(path)


class ProgressLine:
    """Says how far a loop is: a bar that redraws itself on a terminal, else a line now and then."""

    def __init__(self, title: str, total: int, stream: TextIO = sys.stderr, *, writes: bool = True):
        """`writes` False makes every call do nothing."""
        self.title, self.total, self.stream, self.writes = title, total, stream, writes
        self._on_terminal = stream.isatty()
        self._last = -float("inf")

    def show(self, done: int, text: str, *, now: bool = False) -> None:
        """Shows `done` of the total with `text`, unless something was shown a moment ago."""
        every = BAR_EVERY_S if self._on_terminal else PLAIN_LINE_EVERY_S
        if self.writes and (now or time.monotonic() - self._last >= every):
            self._last = time.monotonic()
            filled = BAR_WIDTH * done // max(1, self.total)
            bar = f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] " if self._on_terminal else ""
            line = f"{self.title} {bar}{done}/{self.total} {text}"
            print(f"\r\x1b[K{line}" if self._on_terminal else line, file=self.stream, end="", flush=True)
            if now or not self._on_terminal:
                print(file=self.stream, flush=True)
