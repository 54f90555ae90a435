"""Several things at once, of which the first that fails ends all others, and is what is raised.

Decision: a group of tasks raises a group of exceptions, in groups of groups here; whoever asked for trajectories gets
the one error, which has one line and one mend.

Example: async with together() as tasks: tasks.create_task(work())
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """Ends when all tasks did."""
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
