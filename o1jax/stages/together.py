"""One stage in several processes that share a file system and know of each other by place alone.

How it is split, a stage's `together` in run.STAGES says:
  "train"  all processes train one model, as one JAX program over all their devices;
  "share"  each plays its share of the problems on its own devices (D1), keeping what it made in the stage's
           directory; then all read what all have made;
  "one"    process 0 works, and the others wait.
Process 0 alone writes spec.json and manifest.json; whoever waits, waits for a file. Alone, all of this is the
identity.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from etils import epath

from o1jax.parallel.processes import place
from o1jax.parallel.seeds import in_share
from o1jax.records import Problem
from o1jax.search.store import read_records, write_records

Together = Literal["train", "share", "one"]
T = TypeVar("T")
LOOK_EVERY_S = 0.2
SAY_EVERY_S = 60.0


def my_share(problems: Sequence[Problem]) -> list[Problem]:
    """Those that this process plays."""
    index, count, _ = place()
    return [problem for problem in problems if in_share(problem.id, index, count)]


def all_have_played(out: epath.Path, what: str) -> None:
    """Marks this process's share of `what` as kept in the stage's directory, and returns when every process's
    is. A share is kept whole before its mark is made, so that marks of an earlier, killed try stay true."""
    index, count, _ = place()
    if count > 1:
        (out / "processes").mkdir(parents=True, exist_ok=True)
        (out / "processes" / f"{what}.{index}_of_{count}").touch()
        for other in range(count):
            wait_for([out / "processes" / f"{what}.{other}_of_{count}"], f"process {other}")


def joined(
    parts: epath.Path,
    cls: type[T],
    mine: Sequence[T],
    problems: Sequence[Problem],
    problem_of: Callable[[T], str],
) -> list[T]:
    """What all processes made, records of `cls`, in the order of `problems`; each process keeps its own as a
    file of the directory `parts`."""
    index, count, _ = place()
    records = list(mine)
    if count > 1:
        write_records(parts / f"{index}_of_{count}.parquet", cls, records)
        for other in (other for other in range(count) if other != index):
            path = parts / f"{other}_of_{count}.parquet"
            wait_for([path], f"process {other}")
            records += read_records(path, cls)
    rank = {problem.id: at for at, problem in enumerate(problems)}
    return sorted(records, key=lambda record: rank[problem_of(record)])


def made_once(path: epath.Path, cls: type[T], make: Callable[[], Sequence[T]]) -> list[T]:
    """What `make` gives, records of `cls`, made by process 0 alone and kept at `path`: where it may differ
    between two processes, each would train on data of its own."""
    index, count, _ = place()
    if count == 1:
        return list(make())
    if index == 0 and not path.exists():
        write_records(path, cls, make())
    wait_for([path], "process 0")
    return read_records(path, cls)


def wait_for(paths: Sequence[epath.Path], whom: str) -> None:
    """Returns when one of the paths is there; says on stderr, now and then, what it waits for."""
    said_at = time.monotonic()
    while not any(path.exists() for path in paths):
        time.sleep(LOOK_EVERY_S)
        if time.monotonic() - said_at >= SAY_EVERY_S:
            said_at = time.monotonic()
            print(f"process {place().index} waits for {whom} to write {paths[-1]}", file=sys.stderr)
