"""One stage in several processes that share a file system, and know nothing else of one another.

run.STAGES says how a stage is divided among them:
  "train"  all processes train one model, as one JAX program over all their devices;
  "share"  each works on problems on its own devices (D1) until all are done, by whomever (leases.py), and
           then reads what all have made;
  "one"    process 0 works, and the others wait.
Process 0 alone writes spec.json and manifest.json. A process waits for a file, and ends when the process that
is to write it has failed or was killed (beats.py). With one process nothing is written and nothing waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Literal, TypeVar

from etils import epath

from o1jax.concurrency import run_in_order
from o1jax.parallel.processes import has_joined, tell, this_process, until_told
from o1jax.records import InputError, Problem
from o1jax.stages.beats import LOST_S, Beats, OtherFailed, PeerLost, read
from o1jax.stages.leases import by_problem, pause_after, work_through
from o1jax.store import ShardWriter, read_records, write_records

Division = Literal["train", "share", "one"]
T = TypeVar("T")
SAY_EVERY_S = 60.0
FORGET_S = 60.0  # a failure from before this process began counts once it has waited for so long


@contextlib.contextmanager
def reporting_failure(out: epath.Path) -> Iterator[Beats | None]:
    """Within it this process has its part in the stage of `out`, and gives signs of life. An exception that
    ends the part is kept for those that wait, as one line in out/failed.<index>, until this process begins
    anew.

    Raises PeerLost in place of what a collective raises when another process is gone.
    """
    index, count, _ = this_process()
    if count == 1:
        yield None
        return
    began, failed = out / f"began.{index}", out / f"failed.{index}"
    out.mkdir(parents=True, exist_ok=True)
    began.write_text("", encoding="utf-8")
    failed.unlink(missing_ok=True)
    beats = Beats(out)
    beats.start()
    try:
        yield beats
    except OtherFailed:
        raise
    except (RuntimeError, ValueError) as error:
        # What XLA raises when the other end of a connection is gone, is one of these and names no process.
        is_of_all = beats.ends_with_others.is_set() and not isinstance(error, InputError)
        if is_of_all and (loss := beats.loss_within(1.5 * LOST_S)):
            raise PeerLost(loss) from error
        _keep_failure(out, error)
        raise
    except BaseException as error:  # told, and raised again: Ctrl-C and SIGTERM too
        _keep_failure(out, error)
        raise
    finally:
        beats.stop()
        began.unlink(missing_ok=True)


def _keep_failure(out: epath.Path, error: BaseException) -> None:
    index = this_process().index
    part = out / f"part_of_failed.{index}"
    with contextlib.suppress(OSError):  # on a full disk, what ended this process is what to raise
        part.write_text(" ".join(f"{type(error).__name__}: {error}".split()), encoding="utf-8")
        part.replace(out / f"failed.{index}")


def my_share(problems: Sequence[Problem]) -> list[Problem]:
    """Those that this process begins with: a stride, so that shares differ by one at most."""
    index, count, _ = this_process()
    return list(problems[index::count])


async def shared(
    out: epath.Path,
    what: str,
    cls: type[T],
    problems: Sequence[Problem],
    work: Callable[[Problem], Awaitable[Sequence[T]]],
    concurrency: int,
) -> list[T]:
    """What `work` gives for each of the problems, records of `cls` with its problem_id, one at least, in the
    order of `problems`: in every process, whoever made them. They are kept in the stage's directory `out`,
    by the name `what`, unless this process is alone. Raises OtherFailed."""
    if this_process().count == 1:
        return [record for group in await run_in_order(work, problems, concurrency) for record in group]
    shards, whole = out / "processes" / what, out / "processes" / f"{what}.parquet"
    if not whole.exists():
        with ShardWriter(shards, cls) as kept:

            async def keep(problem: Problem) -> None:
                kept.extend(await work(problem))

            await work_through(out, what, problems, keep, kept, concurrency)
        await write_joined(out, whole, shards, cls, problems)
    return read_records(whole, cls)


async def write_joined(
    out: epath.Path, whole: epath.Path, shards: epath.Path, cls: type[T], problems: Sequence[Problem]
) -> None:
    """Process 0 makes one file of the shards of all, in the order of the problems; the others wait for it, as
    it is read once by each where the shards would be by all."""
    if this_process().index == 0:
        found = by_problem(shards, cls)
        write_records(whole, cls, [record for problem in problems for record in found[problem.id]])
        tell(key_of(whole))
        shards.rmtree(missing_ok=True)
    await wait_for(out, [whole], 0)


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
        write_records(path := parts / f"{index}_of_{count}.parquet", cls, records)
        tell(key_of(path))
        for other in (other for other in range(count) if other != index):
            path = parts / f"{other}_of_{count}.parquet"
            await wait_for(out, [path], other)
            records += read_records(path, cls)
    rank = {problem.id: at for at, problem in enumerate(problems)}
    return sorted(records, key=lambda record: rank[problem_of(record)])


def made_once(path: epath.Path, cls: type[T], make: Callable[[], Sequence[T]]) -> list[T]:
    """What `make` gives, records of `cls`, made by process 0 alone and kept at `path`, in the stage's
    directory: where it may differ between two processes, or between a stage that was killed and the one that
    goes on, each would train on data of its own. Raises OtherFailed."""
    if this_process().index == 0 and not path.exists():
        write_records(path, cls, make())
        tell(key_of(path))
    asyncio.run(wait_for(path.parent, [path], 0))
    return read_records(path, cls)


async def wait_for(out: epath.Path, paths: Sequence[epath.Path], writer: int) -> None:
    """Returns when one of the paths, which process `writer` writes, is there; says on stderr, now and then,
    what it waits for. Raises OtherFailed when another process of the stage in `out` has failed, and PeerLost
    when the writer was killed."""
    began = said_at = time.monotonic()
    while not any(path.exists() for path in paths):
        now = time.monotonic()
        _refuse_failed(out, now - began)
        _refuse_lost(out, writer)
        # JAX's coordinator says at once when a file is written; without one it is looked for less and less
        # often. It may also be there and not seen yet: NFS remembers for a while that there was none.
        pause_s = pause_after(now - began)
        if has_joined():
            await asyncio.to_thread(until_told, key_of(paths[-1]), min(pause_s, 2.0))
            pause_s = min(pause_s, 0.2)
        await asyncio.sleep(pause_s)
        if now - said_at >= SAY_EVERY_S:
            said_at = now
            print(
                f"process {this_process().index} waits for process {writer} to write {paths[-1]}",
                file=sys.stderr,
            )


def key_of(path: epath.Path) -> str:
    """A file's name among processes that may have mounted the run at different places."""
    return f"{path.parent.name}/{path.name}"


def _refuse_failed(out: epath.Path, waited_s: float) -> None:
    """OtherFailed for a process that failed since this one began. One that failed before may have done so in
    an earlier try, and begin anew: it has FORGET_S."""
    for path in out.glob("failed.*"):
        other = int(path.suffix[1:])
        with contextlib.suppress(FileNotFoundError):  # it has begun anew
            if other < this_process().count and (_is_new(out, path) or waited_s > FORGET_S):
                raise OtherFailed(f"process {other} failed: {path.read_text(encoding='utf-8')}")


def _refuse_lost(out: epath.Path, other: int) -> None:
    """PeerLost for a process that was killed since this one began."""
    path = out / "beats" / f"lost.{other}"
    with contextlib.suppress(FileNotFoundError):
        if path.exists() and _is_new(out, path) and (loss := read(path)):
            raise PeerLost(loss)


def _is_new(out: epath.Path, path: epath.Path) -> bool:
    """Whether a file was written since this process began, by the file system's clock."""
    began = out / f"began.{this_process().index}"
    return began.exists() and path.stat().mtime >= began.stat().mtime
