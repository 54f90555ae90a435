"""The role that keeps engines at the trainer's weights: sessions, what is due, late replicas, and comparing.

    sync = WeightSync(run, trainer, [engine])
    sync.publish("1")        everything, for the engines have nothing yet
    sync.publish("2")        what is trained
    sync.join(late)          everything, to a replica that came late or came back; then it takes part

`rollout.verify_every` of n compares digests of everything after each n-th publish; 0 never does.

Invariants
    1. An engine takes part only once it has everything of the current version.
    2. After a failure the next publish opens a new session and sends everything; nothing is retried in silence.
    3. Whatever a session left on the host is removed by `close`, and before another is opened.
    4. Whoever notices it first, an engine that died during a publish is what the caller is told (`EngineDiedError`).
    5. One thing at a time: a replica that comes back in another thread waits for a publish, and a publish for it.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from hpt_megatron.config.run import RunConfig
from hpt_megatron.errors import HptError
from hpt_megatron.host.ports import free_port
from hpt_megatron.rollout.engine.publish import Meeting, Taker, meeting, publish, together, verify
from hpt_megatron.rollout.engine.role import EngineDiedError
from hpt_megatron.weights.plan.held import Layout
from hpt_megatron.weights.plan.publish import ALL, TRAINED, plans_of_run
from hpt_megatron.weights.publish.digests import Digests
from hpt_megatron.weights.publish.session import Kind, Session


class Trainer(Protocol):
    """All processes of the trainer, as far as publishing needs them."""

    def meet(self, session: Session) -> Any:
        """On every process."""

    def send(self, which: str) -> Sequence[dict[int, int]]:
        """On every process; bytes by rank of the engines."""

    def digests(self, layout: Layout) -> Digests:
        """Of all that the stages hold together."""


class Replica(Taker, Protocol):
    """An engine that can be met."""

    def healthy(self) -> bool:
        """Whether its processes are there."""

    def meet(self, meeting: Meeting) -> None:
        """Opens its side of a session."""


LOOPBACK = "127.0.0.1"
GRACE_S = 3.0
"""How long an engine whose connection broke may seem to be well."""


@dataclass(frozen=True)
class Published:
    """What one publish did."""

    version: str
    which: str
    bytes: int
    seconds: float
    verified: bool


def here() -> tuple[str, int]:
    """A place on this host, for a trainer that is on it."""
    return LOOPBACK, free_port(LOOPBACK)


@dataclass(frozen=True)
class Transport:
    """How the two sides are connected; see `weights/publish/session.py`.

    `place` answers where the trainer's first process can listen, which is where all of a `sent` session meet.
    """

    kind: Kind = "shared"
    device: str = "cpu"
    place: Callable[[], tuple[str, int]] = here
    timeout_s: float = 600.0


class WeightSync:
    """One trainer and its engines."""

    def __init__(
        self, run: RunConfig, trainer: Trainer, engines: Sequence[Replica], transport: Transport | None = None
    ) -> None:
        self.run, self.trainer, self.engines = run, trainer, list(engines)
        self.transport = transport or Transport()
        self.version: str | None = None
        self.published = 0
        self._lock = threading.RLock()
        self._session: Session | None = None
        self._next = ALL

    def publish(self, version: str) -> Published:
        """Brings every engine to the trainer's weights."""
        with self._lock:
            return self._publish(version)

    def _publish(self, version: str) -> Published:
        which = self._next
        with _deaths(self.engines):
            if self._session is None:
                self._session, which = self._meet(self.engines), ALL
            started = time.perf_counter()
            try:
                sent = publish(self.engines, self.trainer.send, which, version)
            except BaseException:
                self.close()
                raise
        seconds = time.perf_counter() - started
        self.version, self._next = version, TRAINED
        self.published += 1
        every = self.run.rollout.verify_every
        due = every > 0 and self.published % every == 0
        if due:
            self.verify()
        return Published(version, which, sum(size for each in sent for size in each.values()), seconds, due)

    def join(self, engine: Replica) -> None:
        """Gives a replica everything, before its first request, and lets it take part from then on."""
        with self._lock:
            self._join(engine)

    def _join(self, engine: Replica) -> None:
        if self.version is None:
            raise HptError("nothing has been published yet", mend="publish first; the replica then takes part")
        self.close()  # the next publish is to other engines than this session's
        session = self._meet([engine])
        try:
            publish([engine], self.trainer.send, ALL, self.version)
        finally:
            session.close()
        if engine not in self.engines:
            self.engines.append(engine)

    def leave(self, engine: Replica) -> None:
        """Goes on without an engine, if it takes part."""
        with self._lock:
            if engine in self.engines:
                self.close()
                self.engines.remove(engine)

    def verify(self) -> None:
        """Compares what each engine computes with to what the trainer holds; a difference names the tensors."""
        layout = plans_of_run(self.run, 1)[ALL].target
        trained = self.trainer.digests(layout)
        for engine in self.engines:
            verify(engine, layout, trained)

    def close(self) -> None:
        """Ends the session."""
        if self._session is not None:
            self._session.close()
        self._session, self._next = None, ALL

    def _meet(self, engines: Sequence[Replica]) -> Session:
        how = self.transport
        place = ":".join(map(str, how.place())) if how.kind == "sent" else ""
        session, told = meeting(self.run, len(engines), how.kind, how.device, place, how.timeout_s)
        try:
            together(
                lambda: self.trainer.meet(session),
                [_meeting(engine, each) for engine, each in zip(engines, told, strict=True)],
                session.close,
            )
        except BaseException:
            session.close()
            raise
        return session


@contextmanager
def _deaths(engines: Sequence[Replica]) -> Iterator[None]:
    """The trainer meets a closed connection before anybody says who closed it."""
    try:
        yield
    except EngineDiedError:
        raise
    except HptError as error:
        until = time.monotonic() + GRACE_S
        while all(engine.healthy() for engine in engines):
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        raise EngineDiedError(f"died while it was given weights ({error.what})", where="engine") from error


def _meeting(engine: Replica, told: Meeting) -> Any:
    return lambda: engine.meet(told)
