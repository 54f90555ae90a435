"""Several engines as one: who takes which request, and what happens when one of them dies.

    engine = Replicas([first, second], revive, lost=sync.leave)
    engine.submit(prompt, sampling, key="uid-7/3")       later requests of that key go to the same replica

A request goes to the replica that took the last one of its key, because the start of its ids is cached there; without
one, to the replica with the fewest responses outstanding, the first among equals.

A death is noticed by whatever call meets it. `lost` is told at once, so that no publish waits for the dead; `revive`
starts the replica again and gives it the trainer's weights, and may wait for a moment at which the trainer can send
them. What the dead one had been asked is asked again elsewhere. Where no other is left it waits, unless `may_wait` is
false: with devices shared by trainer and engines nobody can send weights while rollouts are made, and waiting would
never end. Nothing of a trajectory is lost with an engine: a request carries every token so far.

Invariants
    1. Every request is answered once, by an engine at the current weights, or fails with the reason.
    2. A replica that died, or did not come back, `patience` times is given up. With the last one, all that waits fails.
    3. Only the death of an engine is mended; whatever else a call raises is its own.
    4. A replica that comes back is asleep or awake as the others are.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from hpt_megatron.rollout.engine.role import Asleep, EngineDiedError, Prompt, Sampled, Sampling

logger = logging.getLogger(__name__)
T = TypeVar("T")
MOST_KEYS = 1 << 17
"""Then all are forgotten: what they had cached went with some publish long ago."""


@dataclass(frozen=True)
class Request:
    """What was asked, and where the answer is awaited."""

    prompt: Prompt
    sampling: Sampling
    key: str
    answer: "Future[list[Sampled]]"


class Replicas:
    """See the module."""

    def __init__(
        self,
        engines: Sequence[Any],
        revive: Callable[[Any], Any],
        lost: Callable[[Any], Any] = lambda engine: None,
        may_wait: bool = True,
        patience: int = 3,
    ) -> None:
        self.engines, self.revive, self.lost = list(engines), revive, lost
        self.may_wait, self.patience = may_wait, patience
        self.deaths: Counter[int] = Counter()
        self.awake: set[Asleep] = {"weights", "cache"}
        self._alive = set(range(len(self.engines)))
        self._healing: set[int] = set()
        self._sticky: dict[str, int] = {}
        self._load: Counter[int] = Counter()
        self._waiting: list[Request] = []
        self._lock = threading.RLock()

    @property
    def forbidden(self) -> tuple[int, ...]:
        """Of every replica: they belong to one run."""
        return tuple(self.engines[0].forbidden)

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
        holds = {number: ExitStack() for number in self._living()}
        try:
            for number, hold in holds.items():
                self._try(number, lambda engine, hold=hold: hold.enter_context(engine.held()))
            yield
        finally:
            for number, hold in holds.items():
                self._try(number, lambda engine, hold=hold: hold.close())

    def _place(self, request: Request) -> None:
        """Chosen and asked in one go: no engine is restarted in between."""
        with self._lock:
            inner = self._asked(request)
            if inner is None and self._healing and self.may_wait:
                self._waiting.append(request)
                return
        if inner is None:
            self._fail(request, EngineDiedError("no replica is left", where="engine"))
            return
        number, future = inner
        request.answer.add_done_callback(lambda answer: future.cancel() if answer.cancelled() else None)
        future.add_done_callback(lambda done: self._done(request, number, done))

    def _asked(self, request: Request) -> "tuple[int, Future[list[Sampled]]] | None":
        while (number := self._choice(request.key)) is not None:
            try:
                future = self.engines[number].submit(request.prompt, request.sampling, request.key)
            except EngineDiedError:
                self._died(number)
                continue
            except Exception as error:
                future = Future()
                future.set_exception(error)
            self._load[number] += request.sampling.n
            return number, future
        return None

    def _choice(self, key: str) -> int | None:
        if not self._alive:
            return None
        number = self._sticky.get(key) if key else None
        if number not in self._alive:
            number = min(self._alive, key=lambda each: (self._load[each], each))
        if key:
            if len(self._sticky) >= MOST_KEYS:
                self._sticky.clear()
            self._sticky[key] = number
        return number

    def _done(self, request: Request, number: int, done: "Future[list[Sampled]]") -> None:
        with self._lock:
            self._load[number] -= request.sampling.n
        if done.cancelled():
            request.answer.cancel()
            return
        error = done.exception()
        if error is None:
            with suppress(InvalidStateError):  # cancelled meanwhile
                request.answer.set_result(done.result())
        elif isinstance(error, EngineDiedError):
            self._died(number)
            if not request.answer.cancelled():
                self._place(request)
        else:
            self._fail(request, error)

    def _fail(self, request: Request, error: BaseException) -> None:
        with suppress(InvalidStateError):
            request.answer.set_exception(error)

    def _died(self, number: int) -> None:
        with self._lock:
            if number not in self._alive:
                return
            self._alive.discard(number)
            self.deaths[number] += 1
            given_up = self.deaths[number] >= self.patience
            if not given_up:
                self._healing.add(number)
        logger.warning("replica %d died, %s", number, "too often" if given_up else "and is started again")
        threading.Thread(target=self._heal, args=(number,), name=f"replica {number}", daemon=True).start()

    def _heal(self, number: int) -> None:
        engine, healed = self.engines[number], False
        try:
            self.lost(engine)
        except Exception as error:  # a session that breaks because one side is gone
            logger.warning("replica %d could not be taken out of the session: %s", number, error)
        while not healed and self.deaths[number] < self.patience:
            try:
                self.revive(engine)
                with self._lock:
                    self._settle(engine)
                    self._alive.add(number)
                healed = True
            except Exception as error:  # whatever keeps it down, the others go on
                self.deaths[number] += 1
                logger.warning("replica %d does not come back: %s", number, error)
        with self._lock:
            self._healing.discard(number)
            waiting, self._waiting = self._waiting, []
        for request in waiting:
            self._place(request)

    def _settle(self, engine: Any) -> None:
        """It comes back awake."""
        if self.awake != {"weights", "cache"}:
            engine.sleep()
            for what in self.awake:
                engine.wake(what)

    @property
    def version(self) -> str:
        """Of the weights of those that answer, joined where they differ."""
        return ", ".join(sorted(set(self._each(lambda engine: engine.version))))

    def abort(self) -> None:
        """Ends what is being generated, everywhere, and what waits."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for request in waiting:
            with suppress(InvalidStateError):
                request.answer.set_result([Sampled((), (), (), "abort")] * request.sampling.n)
        self._each(lambda engine: engine.abort())

    def sleep(self) -> None:
        """All give their memory back."""
        with self._lock:
            self.awake = set()
        self._each(lambda engine: engine.sleep())

    def wake(self, what: Asleep) -> None:
        """All take memory again."""
        with self._lock:
            self.awake = self.awake | {what}
        self._each(lambda engine: engine.wake(what))

    def healthy(self) -> bool:
        """Whether any can answer."""
        return any(self._each(lambda engine: engine.healthy()))

    def _living(self) -> list[int]:
        with self._lock:
            return sorted(self._alive)

    def _try(self, number: int, act: Callable[[Any], T]) -> list[T]:
        """What one answers; nothing where that shows it to be dead."""
        try:
            return [act(self.engines[number])]
        except EngineDiedError:
            self._died(number)
            return []

    def _each(self, act: Callable[[Any], T]) -> list[T]:
        living = self._living()
        with ThreadPoolExecutor(max(1, len(living))) as pool:
            return [answer for answers in pool.map(lambda each: self._try(each, act), living) for answer in answers]
