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

from hpt_megatron.driver.loop.roles import Asked, Collected
from hpt_megatron.driver.ray.call import answer, answers
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.rollout.engine.publish import Meeting

NAME = "rollout"


class RemoteReplica:
    """One replica, as publishing and sharing devices see an engine."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    @property
    def whole(self) -> bool:
        """Whether its weights are those of one version."""
        return bool(answer(self.actor.whole.remote(), NAME))

    def meet(self, meeting: Meeting) -> None:
        """Its side of a session."""
        answer(self.actor.meet.remote(meeting), NAME)

    @contextmanager
    def paused(self, version: str) -> Iterator[None]:
        """Open for new weights; they are served if nothing fails inside."""
        answer(self.actor.begin.remote(version), NAME)
        try:
            yield
        except BaseException:
            answer(self.actor.give_up.remote(), NAME)
            raise
        answer(self.actor.end.remote(), NAME)

    def take(self, which: str) -> None:
        """Takes a plan to its end."""
        answer(self.actor.take.remote(which), NAME)

    def ask(self, method: str, *arguments: Any) -> list[Any]:
        """Of every rank."""
        found: list[Any] = answer(self.actor.ask.remote(method, *arguments), NAME)
        return found


class RolloutGroup:
    """Faces `driver/loop/roles.py:Rollout`."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self.actors = list(actors)
        self.replicas = [RemoteReplica(actor) for actor in self.actors]

    def start(self) -> None:
        """All engines at once."""
        answers([actor.start.remote() for actor in self.actors], NAME)

    def collect(self, asked: Asked) -> Collected:
        """Every replica's share, side by side."""
        shares = [share for share in dealt(asked, len(self.actors)) if share.records]
        pairs = zip(self.actors, shares, strict=False)
        return joined(answers([actor.collect.remote(share) for actor, share in pairs], NAME))

    def sleep(self) -> None:
        """All give their memory back."""
        answers([actor.sleep.remote() for actor in self.actors], NAME)

    def wake(self, what: str) -> None:
        """All take it again."""
        answers([actor.wake.remote(what) for actor in self.actors], NAME)

    def stop(self) -> None:
        """Ends their processes."""
        answers([actor.stop.remote() for actor in self.actors], NAME)


def dealt(asked: Asked, replicas: int) -> list[Asked]:
    """Prompts one by one to each replica in turn."""
    return [
        replace(asked, records=asked.records[first::replicas], places=asked.places[first::replicas])
        for first in range(replicas)
    ]


def joined(parts: Sequence[Collected]) -> Collected:
    """As if one had answered; a metric is the mean over rows, what was left out is added up."""
    rows = [part.batch.rows.num_rows for part in parts]
    total = max(sum(rows), 1)
    metrics: dict[str, float] = {}
    targets: dict[int, Mapping[str, float]] = {}
    left_out: Counter[str] = Counter()
    for part, count in zip(parts, rows, strict=True):
        for name, value in part.metrics.items():
            metrics[name] = metrics.get(name, 0.0) + value * count / total
        targets |= part.targets
        left_out.update(part.left_out)
    return Collected(Batch.concat([part.batch for part in parts]), targets, metrics, dict(left_out))
