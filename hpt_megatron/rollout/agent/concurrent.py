"""Every trajectory at its own pace, one coroutine each: the engine batches whatever is there, searches overlap with
sampling.

Invariant: `finished` is told of a group as soon as its last trajectory ended, while others go on.

Example: await drive(groups, finished)
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from hpt_megatron.rollout.agent.episode import Episode

Finished = Callable[[int], Awaitable[None]]


async def drive(groups: Sequence[Sequence[Episode]], finished: Finished) -> None:
    """Until all are done; `finished` gets the number of a group."""

    async def one(episode: Episode) -> None:
        while not episode.done:
            await episode.perform()

    async def group(number: int) -> None:
        await asyncio.gather(*map(one, groups[number]))
        await finished(number)

    async with asyncio.TaskGroup() as tasks:  # the first failure of ours ends them all
        for number in range(len(groups)):
            tasks.create_task(group(number))
