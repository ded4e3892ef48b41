"""Several servers of one model: which one is asked, which are left out, and all of them on the last weights.

A key's requests go to one server by rendezvous hashing, so that one which dies moves only its own. Every
server is watched: one that does not answer is dismissed, and what it was asked ends with a fault; one with
other weights than those installed, a restarted one too, gets them before it is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

from etils import epath

from o1jax.engine.vllm_engine.replica import Push, Replica, ReplicaFault
from o1jax.parallel.seeds import stable_hash
from o1jax.records import InputError

SHORTEST_REST_S, LONGEST_REST_S = 0.1, 10.0  # of a server after a fault, doubled with every further one
LAGGARD_S = 30.0  # how long an installation waits for the other servers once one has the weights


class ServersDown(ConnectionError):
    """No server answers: the message is one line. What was finished before is not lost."""


class Fleet:
    """`check(url, model directory, context)` is asked once of every server, and raises InputError to refuse
    it; `patience_s`: how long to wait for any server to be there; `watch_s`: seconds between two looks."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        check: Callable[[str, epath.Path, int], None],
        patience_s: float,
        watch_s: float,
    ):
        self.replicas, self._check = list(replicas), check
        self.pushes, self.push_s = 0, 0.0
        self._patience_s, self._watch_s = patience_s, watch_s
        self._push: Push | None = None
        self._refusal: InputError | None = None
        self._watches: list[asyncio.Task] = []
        self._looked = asyncio.Condition()  # notified whenever a server was looked at

    async def open(self) -> None:
        """Begins to watch; returns when a server was there. InputError if it is refused, or ServersDown."""
        self._watches = [asyncio.create_task(self._watch(replica)) for replica in self.replicas]
        await self._until(lambda: any(replica.root for replica in self.replicas))

    async def close(self) -> None:
        """Stops watching."""
        for task in self._watches:
            task.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)

    async def choose(self, key: str) -> Replica:
        """The server for this key among those that are there; waits for one, ServersDown after patience_s."""
        usable = [replica for replica in self.replicas if replica.usable]
        if not usable:
            await self._until(lambda: any(replica.usable for replica in self.replicas))
            return await self.choose(key)
        # While a server rests after a fault its keys go to another; only when all rest is there a wait.
        now = time.monotonic()
        rested = [replica for replica in usable if replica.rests_until <= now]
        if not rested:
            await asyncio.sleep(min(replica.rests_until for replica in usable) - now)
            return await self.choose(key)
        # Rendezvous hashing: a problem's prompts share a prefix, which one server has in its cache; and
        # when a server dies only its own problems move.
        return max(rested, key=lambda replica: stable_hash(f"{key}\x1f{replica.url}"))

    def blame(self, replica: Replica, fault: ReplicaFault) -> None:
        """After a fault: it rests, longer each time, and is looked at before it is used again."""
        now = time.monotonic()
        if replica.rests_until <= now:  # else it was blamed for this already
            replica.rests_until = now + min(LONGEST_REST_S, SHORTEST_REST_S * 2**replica.strikes)
            replica.strikes += 1
        if replica.usable:
            replica.suspect(str(fault))

    async def install(self, push: Push) -> None:
        """Returns when every server that is there has the weights: all of them, or LAGGARD_S after the
        first; the others get them when they can, and are not used before. ServersDown after patience_s
        without any; InputError where a server refuses."""
        self._push, self._refusal = push, None
        for replica in self.replicas:
            replica.suspect("has not got the weights yet")
        await self._until(lambda: any(replica.usable for replica in self.replicas))
        with contextlib.suppress(TimeoutError):  # the watch goes on trying
            async with asyncio.timeout(LAGGARD_S):
                await self._wait_until(lambda: all(r.usable or r.missed == push.label for r in self.replicas))
        self._raise_refusal()

    async def _until(self, true: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                await self._wait_until(lambda: self._refusal is not None or true())
        except TimeoutError:
            faults = "; ".join(replica.fault for replica in self.replicas)
            raise ServersDown(
                f"no vLLM server of {len(self.replicas)} could be used for {self._patience_s:.0f} s "
                f"({faults}): start them (launch/serve.py) and run the same command again; what was finished "
                "is kept"
            ) from None
        self._raise_refusal()

    def _raise_refusal(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    async def _wait_until(self, true: Callable[[], bool]) -> None:
        async with self._looked:
            await self._looked.wait_for(true)

    async def _watch(self, replica: Replica) -> None:
        """One server's whole life, as far as we are concerned."""
        while True:
            await self._look(replica)
            async with self._looked:
                self._looked.notify_all()
            await replica.due(self._watch_s)

    async def _look(self, replica: Replica) -> None:
        push = self._push
        try:
            if replica.root is None:
                root, context = await replica.served()
                self._check(replica.url, root, context)
                replica.root = root
            await replica.look()
            if push is not None and replica.label != push.label:
                begin = time.monotonic()
                await replica.push(push)
                self.pushes, self.push_s = self.pushes + 1, self.push_s + time.monotonic() - begin
            if push is not None and push is self._push:  # else newer weights came meanwhile: the next look
                replica.admit()
        except (ReplicaFault, InputError) as fault:
            replica.missed = push.label if push is not None else ""
            replica.dismiss(str(fault))
            if isinstance(fault, InputError):  # a wrong server, not one that fails
                self._refusal = fault
