"""Many small questions asked as a few large ones: whoever asks waits a moment for the others.

Invariants
    1. A batch goes out when it is full, or `wait_s` after its first question, whichever is sooner.
    2. Each question gets its own answer; if the batch fails, each gets the failure.
    3. It belongs to the event loop that first used it; another one is refused instead of left hanging.

Example: batcher = Batcher(answer_all, size=64, wait_s=0.02); await batcher.ask("fox")
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from hpt_megatron.errors import HptError

Q = TypeVar("Q")
A = TypeVar("A")


class Batcher(Generic[Q, A]):
    """Collects questions for a function that answers a list with a list of the same length."""

    def __init__(self, answer: Callable[[Sequence[Q]], Awaitable[Sequence[A]]], size: int, wait_s: float) -> None:
        self._answer, self._size, self._wait_s = answer, size, wait_s
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.batches = 0

    async def ask(self, question: Q) -> A:
        """The answer to one question."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            raise HptError("a batcher is used from two event loops", mend="make one for each loop")
        future: asyncio.Future[A] = loop.create_future()
        self._waiting.append((question, future))
        if len(self._waiting) >= self._size:
            self._send()
        elif self._timer is None:
            self._timer = loop.call_later(self._wait_s, self._send)
        return await future

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._waiting = self._waiting, []
        if batch:
            task = asyncio.ensure_future(self._run(batch))
            self._running.add(task)  # the loop itself holds tasks weakly
            task.add_done_callback(self._running.discard)

    async def _run(self, batch: list[tuple[Q, asyncio.Future[A]]]) -> None:
        self.batches += 1
        try:
            answers = await self._answer([question for question, _ in batch])
            if len(answers) != len(batch):
                raise HptError(f"{len(answers)} answers to {len(batch)} questions")
        except BaseException as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():  # whoever asked may have given up
                future.set_result(answer)
