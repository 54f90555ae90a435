"""An event loop in a thread of its own, for those who wait without one.

Decision: whatever is asynchronous in a rollout (HTTP clients, batches, tools, trajectories) lives on one such loop.
So no client is ever shared between two loops, which hangs.

Example: loop = LoopThread("agent"); loop.run(work()); loop.close()
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from typing import Any, TypeVar

T = TypeVar("T")
WATCH_SECONDS = 1.0


class LoopThread:
    """Starts at once; `close` ends it."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """What the work will answer; cancelling it ends the work."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T], watched: Callable[[], None] | None = None) -> T:
        """What the work answers; never call it from the loop itself. What `watched` raises ends the wait."""
        future = self.submit(work)
        try:
            while watched is not None and not wait([future], WATCH_SECONDS).done:
                watched()
            return future.result()
        except BaseException:
            future.cancel()  # an interrupt ends what was started
            raise

    def close(self) -> None:
        """Ends what still runs, the loop and its thread."""
        if self._thread.is_alive():
            self.run(self._ended())
            self.run(self._loop.shutdown_default_executor())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _ended(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
