"""A coroutine over many items, a bounded number at once, results in the items' order."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


async def run_in_order(
    work: Callable[[Item], Awaitable[Result]],
    items: Sequence[Item],
    concurrency: int,
    *,
    ended: Callable[[int], None] = lambda count: None,
) -> list[Result]:
    """[await work(item) for item in items], begun in order, at most `concurrency` at once; `ended` is told
    after each how many have ended.

    The first failure cancels the others, waits until they have ended, and is raised.
    """
    gate, counts = asyncio.Semaphore(concurrency), itertools.count(1)

    async def one(item: Item) -> Result:
        async with gate:
            result = await work(item)
        ended(next(counts))
        return result

    tasks = [asyncio.create_task(one(item)) for item in items]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
