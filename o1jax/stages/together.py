"""One stage in several processes that share a file system, and know nothing else of one another.

run.STAGES says how a stage is divided among them:
  "train"  all processes train one model, as one JAX program over all their devices;
  "share"  each works on its share of the problems on its own devices (D1) and writes what it made into the
           stage's directory; then each reads what all have made;
  "one"    process 0 works, and the others wait.
Process 0 alone writes spec.json and manifest.json. A process waits for a file, and ends when another process
has written that it failed. A killed process writes nothing: those that wait for it name it every minute, and
end by Ctrl-C or with their job. With one process nothing is written and nothing waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

from etils import epath

from o1jax.parallel.processes import this_process
from o1jax.parallel.seeds import in_share
from o1jax.records import InputError, Problem
from o1jax.store import read_records, write_records

Division = Literal["train", "share", "one"]
T = TypeVar("T")
LOOK_EVERY_S = 0.2
SAY_EVERY_S = 60.0
FORGET_S = 60.0  # a failure from before this process began counts once it has waited for so long


class OtherFailed(InputError):
    """Another process failed; the line says which one, and why."""


@contextlib.contextmanager
def reporting_failure(out: epath.Path) -> Iterator[None]:
    """Within it this process has its part in the stage of `out`. An exception that ends the part is kept for
    those that wait, as one line in out/failed.<index>, until this process begins anew."""
    index, count, _ = this_process()
    if count == 1:
        yield
        return
    began, failed = out / f"began.{index}", out / f"failed.{index}"
    out.mkdir(parents=True, exist_ok=True)
    began.write_text("", encoding="utf-8")
    failed.unlink(missing_ok=True)
    try:
        yield
    except OtherFailed:
        raise
    except BaseException as error:  # told, and raised again: Ctrl-C and SIGTERM too
        part = out / f"part_of_failed.{index}"
        with contextlib.suppress(OSError):  # on a full disk, what ended this process is what to raise
            part.write_text(" ".join(f"{type(error).__name__}: {error}".split()), encoding="utf-8")
            part.replace(failed)
        raise
    finally:
        began.unlink(missing_ok=True)


def my_share(problems: Sequence[Problem]) -> list[Problem]:
    """Those that this process plays."""
    index, count, _ = this_process()
    return [problem for problem in problems if in_share(problem.id, index, count)]


async def all_have_finished(out: epath.Path, what: str) -> None:
    """Marks this process's share of `what` as kept in the stage's directory, and returns when every process's
    is. A share is kept whole before its mark is made, so that marks of an earlier, killed try stay true.
    Raises OtherFailed."""
    index, count, _ = this_process()
    if count > 1:
        (out / "processes").mkdir(parents=True, exist_ok=True)
        (out / "processes" / f"{what}.{index}_of_{count}").touch()
        for other in range(count):
            await wait_for(out, [out / "processes" / f"{what}.{other}_of_{count}"], f"process {other}")


async def joined(
    out: epath.Path,
    parts: epath.Path,
    cls: type[T],
    mine: Sequence[T],
    problems: Sequence[Problem],
    problem_of: Callable[[T], str],
) -> list[T]:
    """What all processes made, records of `cls`, in the order of `problems`; each process keeps its own as a
    file of the directory `parts`, in the stage's directory `out`. Raises OtherFailed."""
    index, count, _ = this_process()
    records = list(mine)
    if count > 1:
        write_records(parts / f"{index}_of_{count}.parquet", cls, records)
        for other in (other for other in range(count) if other != index):
            path = parts / f"{other}_of_{count}.parquet"
            await wait_for(out, [path], f"process {other}")
            records += read_records(path, cls)
    rank = {problem.id: at for at, problem in enumerate(problems)}
    return sorted(records, key=lambda record: rank[problem_of(record)])


def made_once(path: epath.Path, cls: type[T], make: Callable[[], Sequence[T]]) -> list[T]:
    """What `make` gives, records of `cls`, made by process 0 alone and kept at `path`, in the stage's
    directory: where it may differ between two processes, or between a stage that was killed and the one that
    goes on, each would train on data of its own. Raises OtherFailed."""
    if this_process().index == 0 and not path.exists():
        write_records(path, cls, make())
    asyncio.run(wait_for(path.parent, [path], "process 0"))
    return read_records(path, cls)


async def wait_for(out: epath.Path, paths: Sequence[epath.Path], whom: str) -> None:
    """Returns when one of the paths is there; says on stderr, now and then, what it waits for. Raises
    OtherFailed when another process of the stage in `out` has failed."""
    began = said_at = time.monotonic()
    while not any(path.exists() for path in paths):
        _refuse_failed(out, time.monotonic() - began)
        await asyncio.sleep(LOOK_EVERY_S)
        if time.monotonic() - said_at >= SAY_EVERY_S:
            said_at = time.monotonic()
            print(f"process {this_process().index} waits for {whom} to write {paths[-1]}", file=sys.stderr)


def _refuse_failed(out: epath.Path, waited_s: float) -> None:
    """OtherFailed for a process that failed since this one began, by the file system's clock. One that failed
    before may have done so in an earlier try, and begin anew: it has FORGET_S."""
    index, count, _ = this_process()
    began = out / f"began.{index}"
    for path in out.glob("failed.*"):
        other = int(path.suffix[1:])
        with contextlib.suppress(FileNotFoundError):  # it has begun anew
            is_new = began.exists() and path.stat().mtime >= began.stat().mtime
            if other < count and (is_new or waited_s > FORGET_S):
                raise OtherFailed(f"process {other} failed: {path.read_text(encoding='utf-8')}")
