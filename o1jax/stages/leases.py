"""Problems shared out among processes, so that none waits for another and a lost one's are done by the rest.

Each process begins with a stride of the problems, in their order, and takes a lease on each that it begins: a
small file that only one process can create. When its stride is used up it takes what others have not begun.
Problems whose owner is lost, or that are held for long beyond all others, are free again, under a lease of
the next generation. Who does a problem does not matter: its seeds fold in its id, so that the result is the
same, and where two did it one of the equal results counts.

What is done, the shards of results say, and nothing else: a lease only keeps two processes from the same
work. One process, the first that is alive, reads them and keeps the board: how many are left, and which are
free. The others read that one file, the less often the longer they wait.

Moves no results and knows no stage.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from etils import epath

from o1jax.buckets import create_if_absent
from o1jax.concurrency import run_in_order
from o1jax.parallel.processes import this_process
from o1jax.records import InputError, Problem
from o1jax.stages import beats
from o1jax.store import ShardWriter, read_records, shard_paths, written_ids
from o1jax.writing import write_whole

T = TypeVar("T")
MOST_FREE = 1024  # problems that the board names: more than are taken until it is read again
# A problem is held for too long when it takes twice as long as any that is done, and so many seconds at
# least.
SLOW_S = 60.0
KEEP_EVERY_S = 60.0  # what a killed process loses at most


@dataclasses.dataclass(frozen=True)
class Board:
    """What is not done yet: `free` has the generation of the next lease of problems that may be begun, by
    their number."""

    left: int
    free: dict[int, int]


def pause_after(waited_s: float) -> float:
    """Seconds until the next look of one that has waited for so long: waiting costs a twentieth more at
    most, and many processes that wait for hours ask little of the file system."""
    return min(10.0, max(0.05, waited_s / 20))


async def work_through(
    out: epath.Path,
    what: str,
    problems: Sequence[Problem],
    work: Callable[[Problem], Awaitable[None]],
    kept: ShardWriter,
    concurrency: int,
) -> None:
    """work(problem) for those of `problems` that this process gets, at most `concurrency` at once; returns
    when all are done, by whomever. `work` puts a problem's records into `kept` together, one at least, and
    they have its problem_id: those of an earlier try stand. `what` names this round of work in the stage of
    `out`.

    The first failure cancels the rest and is raised.
    """
    done = written_ids(kept.directory)
    if this_process().count == 1:
        await run_in_order(work, [problem for problem in problems if problem.id not in done], concurrency)
        kept.flush()
        return
    share = _Share(out, what, [problem.id for problem in problems], kept, done)

    async def worker() -> None:
        while True:
            number = await share.next()
            await work(problems[number])
            share.ended()

    tasks = [asyncio.create_task(worker()) for _ in range(min(concurrency, len(problems)))]
    tasks.append(asyncio.create_task(share.until_done()))
    try:
        # The last one alone ends without a failure, and then the others do nothing that is still wanted.
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        kept.flush()


class _Share:
    """One process's part in one round of work."""

    def __init__(self, out: epath.Path, what: str, ids: Sequence[str], kept: ShardWriter, done: set[str]):
        self.index, count, _ = this_process()
        self.out, self.ids, self.kept = out, ids, kept
        self.directory = out / "leases" / what
        self.owner = beats.owner_now(out, self.index) or f"{self.index}@"
        numbers = range(self.index, len(ids), count)
        self.own = collections.deque(number for number in numbers if ids[number] not in done)
        self.working = 0  # problems in work here
        self.rest, self.rests_since = asyncio.Event(), time.monotonic()  # when nothing is
        self.begun: set[int] = set()  # by this process: never taken twice
        self.board, self.news = Board(len(ids), {}), asyncio.Event()
        self.taking = asyncio.Lock()
        self.state = _Progress(done)

    async def next(self) -> int:
        """A problem for this process, which it has the lease of; waits where there is none."""
        async with self.taking:
            while True:
                news = self.news
                while self.own:
                    if await self._take(number := self.own.popleft(), 0):
                        return number
                # Each process begins elsewhere in what is free, so that they seldom try for the same one.
                free = [item for item in self.board.free.items() if item[0] not in self.begun]
                start = self.index * len(free) // max(1, this_process().count)
                for number, generation in free[start:] + free[:start]:
                    if await self._take(number, generation):
                        return number
                await news.wait()

    async def _take(self, number: int, generation: int) -> bool:
        lease = self.directory / f"{number}.{generation}"
        taken = await asyncio.to_thread(create_if_absent, lease, self.owner.encode())
        if taken:
            self.begun.add(number)
            self.working += 1
            self.rest.clear()
        return taken

    def ended(self) -> None:
        """One problem less is in work."""
        self.working -= 1
        if not self.working:
            self.rests_since = time.monotonic()
            self.rest.set()

    async def until_done(self) -> None:
        """Returns when all problems are done; keeps what is due meanwhile, and the board."""
        began = kept_at = time.monotonic()
        while True:
            now = time.monotonic()
            # With nothing in work the others wait for what is pending here.
            if not self.working or now - kept_at >= KEEP_EVERY_S:
                self.kept.flush()
                kept_at = now
            self.board = await asyncio.to_thread(self._look)
            if not self.board.left:
                return
            news, self.news = self.news, asyncio.Event()
            news.set()
            # Often while nothing is in work here: the end of what others do is all that is waited for then.
            if self.working:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.rest.wait(), pause_after(now - began))
            else:
                await asyncio.sleep(pause_after(now - self.rests_since))

    def _look(self) -> Board:
        path, board = self.directory / "board.json", Board(len(self.ids), {})
        with contextlib.suppress(ValueError):  # none yet
            found = json.loads(beats.read(path))
            board = Board(found["left"], {int(number): next for number, next in found["free"].items()})
        # With nothing left the shards may be one file already; in a finished stage the board is gone too.
        if not board.left or (self.out / "manifest.json").exists():
            return Board(0, {})
        if beats.leads(self.out):
            before, board = board, self._made()
            if board != before or not path.exists():
                write_whole(path, json.dumps({"left": board.left, "free": board.free}))
        return board

    def _made(self) -> Board:
        """The board, by the shards and the leases."""
        state, now = self.state, time.monotonic()
        state.read_shards(self.kept.directory)
        latest: dict[int, int] = {}
        if self.directory.exists():
            for path in self.directory.iterdir():
                number, _, generation = path.name.partition(".")
                if number.isdigit() and generation.isdigit():
                    latest[int(number)] = max(latest.get(int(number), 0), int(generation))
        for key in latest.items():
            state.since.setdefault(key, now)
        left = [number for number, id in enumerate(self.ids) if id not in state.done]
        for number in latest.keys() - set(left):
            state.longest_s = max(state.longest_s, now - state.since.pop((number, latest[number]), now))
        free: dict[int, int] = {}
        gone: dict[str, bool] = {}
        # In order, as each process goes through its own: who knows which take longest puts those first.
        for number in left:
            generation = latest.get(number, -1)
            if generation < 0 or self._is_free(number, generation, now, gone):
                free[number] = generation + 1
            if len(free) == MOST_FREE:
                break
        return Board(len(left), free)

    def _is_free(self, number: int, generation: int, now: float, gone: dict[str, bool]) -> bool:
        """Whether nobody works on a leased problem any more, or for too long."""
        state, key = self.state, (number, generation)
        since = state.since[key]
        if now - since > max(SLOW_S, 2 * state.longest_s):
            return True
        if not state.owners.get(key):
            state.owners[key] = beats.read(self.directory / f"{number}.{generation}")
        owner = state.owners[key]
        if not owner:  # created and not written yet, or its owner was killed in between
            return now - since > beats.LOST_S
        if owner not in gone:
            index = owner.partition("@")[0]
            gone[owner] = beats.owner_now(self.out, int(index)) != owner
        return gone[owner]


@dataclasses.dataclass
class _Progress:
    """What the process that keeps the board has seen."""

    done: set[str]  # ids
    shards: set[str] = dataclasses.field(default_factory=set)  # names of those read
    since: dict[tuple[int, int], float] = dataclasses.field(default_factory=dict)  # first seen, by own clock
    owners: dict[tuple[int, int], str] = dataclasses.field(default_factory=dict)
    longest_s: float = 0.0  # that a problem that is done took

    def read_shards(self, directory: epath.Path) -> None:
        """Adds what new shards hold."""
        for path in shard_paths(directory):
            if path.name not in self.shards:
                self.done |= written_ids(path)
                self.shards.add(path.name)


def by_problem(directory: epath.Path, cls: type[T]) -> dict[str, list[T]]:
    """Problem id -> its records, of a directory that work_through filled. Where two processes did a problem,
    those of one of them."""
    found: dict[str, list[T]] = {}
    for path in shard_paths(directory):
        of_shard: dict[str, list[T]] = {}
        for record in read_records(path, cls):
            of_shard.setdefault(record.problem_id, []).append(record)
        found = of_shard | found
    return found


def remove_leases(out: epath.Path) -> None:
    """Removes what processes told one another in a stage that is finished."""
    if this_process().count > 1:
        for name in ("leases", "beats"):
            with contextlib.suppress(OSError, InputError):  # another may write its last sign into it
                (out / name).rmtree(missing_ok=True)
