"""Several engines as one: who takes which request, and what happens when one of them dies.

    engine = Replicas([first, second], revive)
    engine.submit(prompt, sampling, key="uid-7/3")       later requests of that key go to the same replica

A request goes to the replica that took the last one of its key, because the start of its ids is cached there; without
one, to the replica with the fewest responses outstanding, the first among equals.

A replica that dies is revived: started again, and given the trainer's weights before its first request
(`engine.restart()`, then `sync.join(engine)`). What it had been asked is asked again elsewhere, or waits for it where
no other is left. Nothing of a trajectory is lost with an engine: a request carries every token so far.

Invariants
    1. Every request is answered once, by an engine at the current weights, or fails with the reason.
    2. A replica that died `patience` times is given up. With the last one, all that waits fails.
    3. Only the death of an engine is mended; whatever else a request raises is its own.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from hpt_megatron.rollout.engine import Asleep, EngineDiedError, Prompt, RolloutEngine, Sampled, Sampling

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What was asked, and where the answer is awaited."""

    prompt: Prompt
    sampling: Sampling
    key: str
    answer: "Future[list[Sampled]]"


class Replicas:
    """See the module."""

    def __init__(self, engines: Sequence[Any], revive: Callable[[Any], Any], patience: int = 3) -> None:
        self.engines, self.revive, self.patience = list(engines), revive, patience
        self.deaths: Counter[int] = Counter()
        self._alive = set(range(len(self.engines)))
        self._healing: set[int] = set()
        self._sticky: dict[str, int] = {}
        self._load: Counter[int] = Counter()
        self._waiting: list[Request] = []
        self._lock = threading.Lock()

    def submit(self, prompt: Prompt, sampling: Sampling, key: str = "") -> "Future[list[Sampled]]":
        """`sampling.n` responses, in order."""
        request = Request(prompt, sampling, key, Future())
        self._place(request)
        return request.answer

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Sampled]]:
        """All of them, waited for, spread by the number outstanding."""
        with self.held():
            waiting = [self.submit(prompt, sampling) for prompt in prompts]
        return [each.result() for each in waiting]

    @contextmanager
    def held(self) -> Iterator[None]:
        """All of them; where nothing else is outstanding, requests are then spread the same way every time."""
        with ExitStack() as stack:
            for engine in self._answering():
                stack.enter_context(engine.held())
            yield

    def _place(self, request: Request) -> None:
        with self._lock:
            number = self._choice(request)
            if number is None and self._healing:
                self._waiting.append(request)
                return
            if number is not None:
                self._load[number] += request.sampling.n
        if number is None:
            request.answer.set_exception(EngineDiedError("no replica is left", where="engine"))
            return
        try:
            inner = self.engines[number].submit(request.prompt, request.sampling, request.key)
        except Exception as error:
            inner = Future()
            inner.set_exception(error)
        inner.add_done_callback(lambda done: self._done(request, number, done))

    def _choice(self, request: Request) -> int | None:
        if not self._alive:
            return None
        number = self._sticky.get(request.key) if request.key else None
        if number not in self._alive:
            number = min(self._alive, key=lambda each: (self._load[each], each))
        if request.key:
            self._sticky[request.key] = number
        return number

    def _done(self, request: Request, number: int, done: "Future[list[Sampled]]") -> None:
        with self._lock:
            self._load[number] -= request.sampling.n
        error = done.exception()
        if error is None:
            request.answer.set_result(done.result())
        elif isinstance(error, EngineDiedError):
            self._mend(number)
            self._place(request)
        else:
            request.answer.set_exception(error)

    def _mend(self, number: int) -> None:
        with self._lock:
            if number not in self._alive:
                return
            self._alive.discard(number)
            self.deaths[number] += 1
            given_up = self.deaths[number] >= self.patience
            if not given_up:
                self._healing.add(number)
        logger.warning("replica %d died, %s", number, "too often" if given_up else "and is started again")
        if not given_up:
            threading.Thread(target=self._heal, args=(number,), name=f"replica {number}", daemon=True).start()

    def _heal(self, number: int) -> None:
        engine, healed = self.engines[number], False
        while not healed and self.deaths[number] < self.patience:
            try:
                self.revive(engine)
                healed = True
            except Exception as error:  # whatever keeps it down, the others go on
                self.deaths[number] += 1
                logger.warning("replica %d does not come back: %s", number, error)
        with self._lock:
            self._healing.discard(number)
            if healed:
                self._alive.add(number)
            waiting, self._waiting = self._waiting, []
        for request in waiting:
            self._place(request)

    def forget(self, keys: Sequence[str]) -> None:
        """What ended has no replica of its own any more."""
        with self._lock:
            for key in keys:
                self._sticky.pop(key, None)

    @property
    def version(self) -> str:
        """Of the weights of those that answer, joined where they differ."""
        return ", ".join(sorted({engine.version for engine in self._answering()}))

    def abort(self) -> None:
        """Ends what is being generated, everywhere."""
        self._each(lambda engine: engine.abort())

    def sleep(self) -> None:
        """All give their memory back."""
        self._each(lambda engine: engine.sleep())

    def wake(self, what: Asleep) -> None:
        """All take memory again."""
        self._each(lambda engine: engine.wake(what))

    def healthy(self) -> bool:
        """Whether any can answer."""
        return any(engine.healthy() for engine in self._answering())

    def _answering(self) -> list[RolloutEngine]:
        with self._lock:
            return [self.engines[number] for number in sorted(self._alive)]

    def _each(self, act: Callable[[RolloutEngine], None]) -> None:
        engines = self._answering()
        with ThreadPoolExecutor(max(1, len(engines))) as pool:
            for _ in pool.map(act, engines):
                pass
