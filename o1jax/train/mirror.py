"""Checkpoints in a bucket that Orbax does not write by itself: made on the disk, copied when they are whole.

Orbax writes to disks and to gs://, no other bucket. One process's checkpoints only: of several, none has all
files on its disk.
"""

from __future__ import annotations

import shutil
import tempfile

import jax
from etils import epath

from o1jax.buckets import copy_files
from o1jax.records import InputError
from o1jax.writing import write_whole

WHOLE = "whole"  # the object that is written last into a checkpoint


class Mirror:
    """A bucket's directory of numbered checkpoints, and the directory on disk where they are made."""

    def __init__(self, bucket: epath.Path):
        """InputError with several processes."""
        if jax.process_count() > 1:
            raise InputError(
                f"{bucket}: several processes write checkpoints to a disk that they share or to gs://, to no "
                "other bucket; mount it, or train with one process"
            )
        self.bucket = bucket
        self.here = epath.Path(tempfile.mkdtemp(prefix="o1jax_checkpoints_"))
        inside = self.bucket.iterdir() if self.bucket.exists() else ()
        self._steps = {int(p.name) for p in inside if p.name.isdigit() and (p / WHOLE).exists()}

    def steps(self) -> list[int]:
        """Those that are whole in the bucket, in order."""
        return sorted(self._steps)

    def fetch(self, step: int) -> None:
        """Brings one to the disk if it is not there."""
        if not (self.here / str(step)).exists():
            copy_files(self.bucket / str(step), self.here / str(step))

    def send(self, step: int) -> None:
        """Copies one to the bucket, in place of a half-copied one."""
        self.delete(step)
        copy_files(self.here / str(step), self.bucket / str(step))
        write_whole(self.bucket / str(step) / WHOLE, "")  # by which, and by its directory, it is found
        self._steps.add(step)

    def delete(self, step: int) -> None:
        """Removes one from the bucket."""
        self._steps.discard(step)
        at = self.bucket / str(step)
        (at / WHOLE).unlink(missing_ok=True)
        if at.exists():
            at.rmtree(missing_ok=True)

    def close(self) -> None:
        """Removes what is on the disk."""
        shutil.rmtree(self.here, ignore_errors=True)
