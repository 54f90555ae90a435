"""All replicas that generate: prompts are dealt over them, rows come back as one batch.

Invariants
    1. All rollouts of a prompt are one replica's: what they have in common is computed once.
    2. The rows do not depend on how prompts were dealt, but for their order, which nobody reads.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray

from hpt_megatron.driver.loop.joined import over_replicas
from hpt_megatron.driver.loop.roles import Asked, Collected
from hpt_megatron.driver.ray.call import ActorDiedError, answer, answers
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.rollout.engine.publish import Meeting
from hpt_megatron.rollout.engine.role import EngineDiedError

NAME = "rollout"


class RemoteReplica:
    """One replica, as publishing and sharing devices see an engine."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    @property
    def whole(self) -> bool:
        """Whether its weights are those of one version."""
        return bool(_asked(self.actor.whole.remote()))

    def meet(self, meeting: Meeting) -> None:
        """Its side of a session."""
        _asked(self.actor.meet.remote(meeting))

    @contextmanager
    def paused(self, version: str) -> Iterator[None]:
        """Open for new weights; they are served if nothing fails inside."""
        _asked(self.actor.begin.remote(version))
        try:
            yield
        except BaseException:
            _asked(self.actor.give_up.remote())
            raise
        _asked(self.actor.end.remote())

    def take(self, which: str) -> None:
        """Takes a plan to its end."""
        _asked(self.actor.take.remote(which))

    def ask(self, method: str, *arguments: Any) -> list[Any]:
        """Of every rank."""
        found: list[Any] = _asked(self.actor.ask.remote(method, *arguments))
        return found

    def healthy(self) -> bool:
        """Whether it can answer."""
        try:
            return bool(_asked(self.actor.healthy.remote()))
        except EngineDiedError:
            return False

    def revive(self) -> None:
        """Starts it again; Ray has made its process anew, if that was lost."""
        _asked(self.actor.revive.remote())


class RolloutGroup:
    """Faces `driver/loop/roles.py:Rollout`."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self.actors = list(actors)
        self.replicas = [RemoteReplica(actor) for actor in self.actors]
        self._starting: list[Any] = []
        self._asked: Asked | None = None
        self._done: dict[int, Collected] = {}

    def begin(self) -> None:
        """Starts all engines at once; `ready` waits for them."""
        self._starting = [actor.start.remote() for actor in self.actors]

    def ready(self) -> None:
        """Until all of them have started."""
        starting, self._starting = self._starting, []
        answers(starting, NAME)

    def collect(self, asked: Asked) -> Collected:
        """Every replica's share, side by side. After a death the same can be asked again: what was done is kept."""
        if self._asked is not asked:
            self._asked, self._done = asked, {}
        shares = {number: share for number, share in enumerate(dealt(asked, len(self.actors))) if share.records}
        waiting = {
            number: self.actors[number].collect.remote(share)
            for number, share in shares.items()
            if number not in self._done
        }
        died: EngineDiedError | None = None
        for number, reference in waiting.items():
            try:
                self._done[number] = _asked(reference)
            except EngineDiedError as error:
                died = error
        if died is not None:
            raise died
        return joined([self._done[number] for number in shares])

    def mend(self) -> int:
        """Starts those again that are gone; answers how many. They want weights before they generate."""
        gone = [replica for replica in self.replicas if not replica.healthy()]
        for replica in gone:
            replica.revive()
        return len(gone)

    def sleep(self) -> None:
        """All give their memory back."""
        answers([actor.sleep.remote() for actor in self.actors], NAME)

    def wake(self, what: str) -> None:
        """All take it again."""
        answers([actor.wake.remote(what) for actor in self.actors], NAME)

    def stop(self) -> None:
        """Ends their processes. One that is still starting ends with its actor."""
        if not self._starting or not ray.wait(self._starting, num_returns=len(self._starting), timeout=0)[1]:
            answers([actor.stop.remote() for actor in self.actors], NAME)


def _asked(reference: Any) -> Any:
    """An answer; whatever of a replica is gone, it died."""
    try:
        return answer(reference, NAME)
    except ActorDiedError as error:
        raise EngineDiedError(error.what, where=error.where) from None


def dealt(asked: Asked, replicas: int) -> list[Asked]:
    """Prompts one by one to each replica in turn."""
    return [
        replace(asked, records=asked.records[first::replicas], places=asked.places[first::replicas])
        for first in range(replicas)
    ]


def joined(parts: Sequence[Collected]) -> Collected:
    """As if one had answered."""
    targets: dict[int, Mapping[str, float]] = {}
    left_out: Counter[str] = Counter()
    for part in parts:
        targets |= part.targets
        left_out.update(part.left_out)
    metrics = over_replicas([(part.batch.rows.num_rows, part.metrics) for part in parts])
    return Collected(Batch.concat([part.batch for part in parts]), targets, metrics, dict(left_out))
