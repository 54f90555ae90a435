"""Every trajectory at its own pace, one coroutine each: the engine batches whatever is there, searches overlap with
sampling.

Invariant: `finished` is told of a group as soon as its last trajectory ended, while others go on.

Example: await drive(groups, finished)
"""

from collections.abc import Awaitable, Callable, Sequence

from hpt_megatron.rollout.agent.episode import Episode
from hpt_megatron.rollout.agent.together import together

Finished = Callable[[int], Awaitable[None]]


async def drive(groups: Sequence[Sequence[Episode]], finished: Finished) -> None:
    """Until all are done; `finished` gets the number of a group."""

    async def one(episode: Episode) -> None:
        while not episode.done:
            await episode.perform()

    async def group(number: int) -> None:
        async with together() as tasks:
            for episode in groups[number]:
                tasks.create_task(one(episode))
        await finished(number)

    async with together() as tasks:
        for number in range(len(groups)):
            tasks.create_task(group(number))
