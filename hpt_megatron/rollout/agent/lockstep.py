"""All trajectories turn by turn: every one that goes on samples its next turn together with all others, then all
tools run.

For an engine that is fed a whole turn at a time, and where the order of requests has to be the same in every run.
Nothing is padded: an engine takes any number of prompts.

Invariant: `finished` is told of each group once, after the round in which its last trajectory ended.

Example: await drive(episodes, finished)
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from hpt_megatron.rollout.agent.episode import Episode
from hpt_megatron.rollout.agent.machine import Generate
from hpt_megatron.rollout.agent.together import together

Finished = Callable[[int], Awaitable[None]]


async def drive(groups: Sequence[Sequence[Episode]], finished: Finished) -> None:
    """Until all are done; `finished` gets the number of a group."""
    open_groups = list(range(len(groups)))
    while open_groups:
        ended = [number for number in open_groups if all(episode.done for episode in groups[number])]
        for number in ended:
            await finished(number)
        open_groups = [number for number in open_groups if number not in set(ended)]
        going = [episode for number in open_groups for episode in groups[number] if not episode.done]
        acting = [episode for episode in going if not isinstance(episode.effect, Generate)]
        await (_acted(acting) if acting else _sampled(going))


async def _acted(episodes: Sequence[Episode]) -> None:
    async with together() as tasks:
        for episode in episodes:
            tasks.create_task(episode.perform())


async def _sampled(episodes: Sequence[Episode]) -> None:
    """The whole turn at once: every episode has asked before the engine begins."""
    if not episodes:
        return
    async with together() as tasks:
        with episodes[0].kit.engine.held():
            for episode in episodes:
                tasks.create_task(episode.perform())
            await asyncio.sleep(0)  # each runs up to where it waits for the engine
