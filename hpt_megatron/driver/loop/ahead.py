"""Rollouts of the next step while this one is trained (`trainer.staleness: 1`).

    ahead = Ahead()
    ahead.begin(lambda: rollout.collect(asked))      in the background; weights do not move meanwhile
    ahead.wait()                                     whoever wants the engines for something else
    ahead.result()                                   once; raises what the rollouts raised

Decision: the thread only waits for engines. Weights are published before it begins and never while it runs, so every
token of a step is sampled by one policy, the one before the last update.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import Generic, TypeVar

Found = TypeVar("Found")


class Ahead(Generic[Found]):
    """At most one piece of work."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._work: Future[Found] | None = None

    @property
    def begun(self) -> bool:
        """Whether there is a result to take."""
        return self._work is not None

    def begin(self, work: Callable[[], Found]) -> None:
        """Starts it."""
        assert self._work is None, "the work before was not taken"
        self._work = self._pool.submit(work)

    def wait(self) -> None:
        """Until it is over, however it ends."""
        if self._work is not None:
            wait_for([self._work])

    def result(self) -> Found:
        """What came of it."""
        assert self._work is not None, "nothing was begun"
        work, self._work = self._work, None
        return work.result()
