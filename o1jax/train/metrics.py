"""Where figures of a run go: JSON lines, TensorBoard, and what a person sees on stderr meanwhile.

Every line of metrics.jsonl has a `step`, the number of finished updates. A resumed run first cuts the
lines past its step. Does not compute figures, and never touches a device.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import TextIO

import tensorboardX
from etils import epath
from tqdm import tqdm

from o1jax.buckets import copy_files, is_bucket
from o1jax.writing import GrowingFile, read_growing, rewrite_growing

PLAIN_LINE_EVERY_S = 15.0  # what a log file takes without drowning; a terminal's bar redraws itself


class MetricsLog:
    """metrics.jsonl and tensorboard/ of one directory; a context manager."""

    def __init__(self, directory: epath.PathLike, resume_step: int, *, writes: bool = True):
        """Keeps what is there up to `resume_step`. `writes` False makes every call do nothing."""
        self._file: GrowingFile | None = None
        if writes:
            self._directory = epath.Path(directory)
            path = self._directory / "metrics.jsonl"
            truncate_after(path, resume_step)
            self._file = GrowingFile(path)
            # TensorBoard's own writer appends: in a bucket its file is put whole at the end.
            board = tempfile.mkdtemp(prefix="o1jax_") if is_bucket(path) else self._directory / "tensorboard"
            self._board = tensorboardX.SummaryWriter(
                os.fspath(board), purge_step=resume_step + 1 if resume_step else None
            )

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is None:
            return
        self._file.close()
        self._board.close()
        if is_bucket(self._directory):
            copy_files(epath.Path(self._board.logdir), self._directory / "tensorboard")
            shutil.rmtree(self._board.logdir)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """One line, in the operating system's hands when this returns: a killed process loses none. In a
        bucket it loses those since the last `flush`, or a minute's."""
        if self._file is not None:
            self._file.write(json.dumps({"step": step, **figures}) + "\n")
            for name, value in figures.items():
                self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        """To be called before a checkpoint counts, which the lines must not lag behind."""
        if self._file is not None:
            self._file.flush()


def truncate_after(path: epath.Path, step: int) -> None:
    """Rewrites a JSON-lines file without the lines past `step` and without a torn last line."""
    # A kill while parts were being joined leaves lines twice.
    whole = dict.fromkeys(read_growing(path).split("\n")[:-1])
    kept = [line for line in whole if json.loads(line)["step"] <= step]
    if whole:
        rewrite_growing(path, "".join(line + "\n" for line in kept))


class ProgressLine:
    """Says how far a loop is: tqdm's bar on a terminal, elsewhere a plain line now and then."""

    def __init__(self, title: str, total: int, stream: TextIO | None = None, *, writes: bool = True):
        """On stderr, if no `stream` is given. `writes` False makes every call do nothing."""
        self.title, self.total, self.writes = title, total, writes
        self.stream = sys.stderr if stream is None else stream
        self._bar: tqdm | None = None
        if writes and self.stream.isatty():
            self._bar = tqdm(desc=title, total=total, file=self.stream, miniters=1, dynamic_ncols=True)
        self._line_at = -float("inf")

    def show(self, done: int, text: str, *, now: bool = False) -> None:
        """Shows `done` of the total with `text`, unless something was shown a moment ago; with `now` as a
        line that stays."""
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(done - self._bar.n)
        is_due = self._bar is None and time.monotonic() - self._line_at >= PLAIN_LINE_EVERY_S
        if self.writes and (now or is_due):
            self._line_at = time.monotonic()
            tqdm.write(f"{self.title} {done}/{self.total} {text}", file=self.stream)
        if self._bar is not None and done >= self.total:
            self._bar.close()

    def count(self, done: int) -> None:
        """Shows `done` alone; the last as a line that stays."""
        self.show(done, "", now=done == self.total)
